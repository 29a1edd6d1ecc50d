"""Tables of recorded cells on the command line, beside the talk's.

python -m ibau_lab tables all --profile cpu --results results/reproduce.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from . import features, overhead
from .compare import compare, counts, markdown, origin
from .first_run import PROFILES
from .layout import seven
from .plan import TABLES
from .records import Record, read


def _table(name: str, records: Sequence[Record], profile: str) -> str:
    return markdown(compare(records, name, profile))


_VIEWS: dict[str, Callable[[Sequence[Record], str], str]] = {
    **{table: partial(_table, table) for table in TABLES[:-1]},
    "triggers": seven,
    "table6": overhead.markdown,
    "features": features.markdown,
    "counts": counts,
    "origin": lambda records, profile: origin(r for r in records if r.get("profile") == profile),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the views that are asked for, as Markdown."""
    parser = argparse.ArgumentParser(
        prog="ibau_lab tables", description=(__doc__ or "").splitlines()[0]
    )
    views = (*_VIEWS, "all")
    parser.add_argument("views", nargs="+", choices=views, metavar="VIEW", help=", ".join(views))
    parser.add_argument(
        "--profile", choices=PROFILES, help="the first of full, cpu, smoke that has a record"
    )
    parser.add_argument("--results", type=Path, default=Path("results/reproduce.jsonl"))
    choice = parser.parse_args(arguments)
    try:
        records = read(choice.results, cut=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not records:
        parser.error(f"{choice.results} is not there, or holds no record")
    there = {record.get("profile") for record in records}
    profile = choice.profile or next((p for p in reversed(PROFILES) if p in there), "full")
    for name in _VIEWS if "all" in choice.views else choice.views:
        print(f"\n{name} (profile {profile})\n\n{_VIEWS[name](records, profile)}")
    return 0
