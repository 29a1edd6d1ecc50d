"""Where our records and the talk give different answers, and where our own seeds do.

Each of the talk's cells counts once. Another recipe of I-BAU (*released*, *exact*) stands beside
the talk's I-BAU in the tables; held against the same cell once more it has a line of its own here
and is left out of every sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from .compare import Comparison, Outcome, named, points, published
from .evidence import COMPARED, shown
from .grid import grid

__all__ = ["disagreements", "divided", "tally"]

Records = Iterable[Mapping[str, Any]]


def disagreements(records: Records, tables: Sequence[str] = COMPARED) -> str:
    """Every cell whose answers are not the talk's as Markdown, from the profile that is shown.

    The last columns say who alone removed the backdoor, or kept the accuracy.
    """
    head = ["table", "row", "defence", "n", "ours: lost", "ASR", "the talk: lost", "ASR"]
    rows = []
    judged = [found for found in _judged(list(records), tables) if not found[2].repeats]
    profiles = sorted({profile for _, profile, *_ in judged})
    for table, profile, each, ours, theirs in judged:
        if not each.agrees:
            who = [_alone(ours.removed, theirs.removed), _alone(ours.kept, theirs.kept)]
            where = table[-1] if len(profiles) == 1 else f"{table[-1]} ({profile})"
            row = [where, named(each.case), each.label, str(each.n)]
            rows.append([*row, *_numbers(ours), *_numbers(theirs), *who])
    if not judged:
        return "No cell is recorded yet that the talk has, too."
    if not rows:
        return f"None: all {len(judged)} cells that both have give the same answers."
    told = f"{len(rows)} of the {len(judged)} cells that both have"
    table = pd.DataFrame(rows, columns=[*head, "removed by", "kept by"])
    return f"{told} (profile {' and '.join(profiles)}):\n\n{grid(table, 'lllr')}"


def tally(records: Records, tables: Sequence[str] = COMPARED) -> str:
    """A line a defence as Markdown: in how many cells it agrees, and of what kind they are.

    The two columns at the end tell apart where the talk's backdoor is removed and the accuracy
    kept, and where it is not. Under the table stands how often which answer differs.
    """
    groups: dict[str, list[tuple[bool, bool]]] = {}
    differences: Counter[str] = Counter()
    together = []
    for _, _, each, ours, theirs in _judged(list(records), tables):
        verdict = (bool(each.agrees), theirs.removed and theirs.kept)
        groups.setdefault(each.label, []).append(verdict)
        if not each.repeats:
            together.append(verdict)
            differences.update([_difference(ours, theirs)] if not each.agrees else [])
    if not groups:
        return "No cell is recorded yet that the talk has, too."
    head = ["defence", "agree", "the talk: both", "the talk: not both"]
    rows = []
    for label, verdicts in [*groups.items(), ("**each of the talk's cells once**", together)]:
        healed = [agree for agree, both in verdicts if both]
        others = [agree for agree, both in verdicts if not both]
        counted = ([agree for agree, _ in verdicts], healed, others)
        rows.append([label, *(f"{sum(kind)} of {len(kind)}" if kind else "" for kind in counted)])
    told = "; ".join(f"{what}: {count}" for what, count in differences.most_common())
    return f"{grid(pd.DataFrame(rows, columns=head))}\n\nWhat differs: {told or 'nothing'}."


def divided(compared: Iterable[Comparison]) -> str:
    """The cells of which some seeds removed the backdoor and others not, as Markdown."""
    lines = []
    for each in compared:
        if 0 < each.removed_by < each.n:
            rates = [run["after"]["attack_success_rate"] for run in each.records]
            told = ", ".join(f"{100 * rate:.1f}" for rate in rates)
            lines.append(f"- {each.label}, {named(each.case)}: {told} %")
    return "\n".join(lines) or "- none that is recorded"


def _judged(
    records: Records, tables: Sequence[str]
) -> Iterator[tuple[str, str, Comparison, Outcome, Outcome]]:
    """(table, profile, cell, ours, the talk's) of every cell that both have."""
    records = list(records)
    for table in tables:
        profile, compared = shown(records, table)
        for each in compared:
            if each.ours is not None and each.talk is not None:
                yield table, profile, each, each.ours, published(each.talk)


def _alone(ours: bool, theirs: bool) -> str:
    return "" if ours == theirs else "ours" if ours else "the talk"


def _difference(ours: Outcome, theirs: Outcome) -> str:
    who = {"removed": (ours.removed, theirs.removed), "kept": (ours.kept, theirs.kept)}
    return ", ".join(f"{what}: {_alone(*both)} only" for what, both in who.items() if _alone(*both))


def _numbers(outcome: Outcome) -> list[str]:
    return [points(outcome.drop), f"{100 * outcome.attack_success_rate:.1f} %"]
