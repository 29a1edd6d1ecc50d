"""Run a recorded cell again from what its record says, and say whether the two agree.

    python -m ibau_lab rerun book/results/reproduce.jsonl 12
    python -m ibau_lab rerun results/reproduce.jsonl "signs badnets clean=800 ft seed=0 (smoke)"

The second argument is a line number, a cell as `reproduce --list` prints it, or its key. ACC and
ASR are compared: before, after, after each round and of each trigger; the answers, image by image;
and the triggers that were found. On the same hardware with the same versions the numbers must be
equal; elsewhere sums are rounded otherwise, and they may differ by the tolerance. Seconds are not
compared. The status is 0 if the two agree, 1 if they do not, 2 if the record is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ibau_lite.streams import VERSION

from .answers import Answers
from .contenders import CONTENDERS
from .plan import Cell
from .records import Record, provenance, read, read_line
from .work import perform

ELSEWHERE = 0.02
"""By how much a rate may differ where the hardware or a version is another one."""

_COMPARED = ("before", "after", "history", "by_pair", "answers", "seconds", "source", "settings")


def cell_of(record: Record) -> Cell:
    """The planned cell that a record is of.

    Raises `ValueError` where no run of this version repeats it: a record of something else than a
    cell, of a failure, of other random streams, or of settings that the plan no longer has.
    """
    told = record.get("cell")
    if not told:
        raise ValueError("it is not of a cell: only the records of `reproduce` can be run again")
    if "error" in record:
        raise ValueError(f"its cell failed ({record['error']}): there is no number to compare")
    if missing := [name for name in _COMPARED if name not in record]:
        raise ValueError(f"it lacks {', '.join(missing)}: it is no record of this laboratory")
    if (streams := told.get("streams", 1)) != VERSION:
        raise ValueError(
            f"it was made with version {streams} of the random streams, this library has version "
            f"{VERSION}: no run of today draws the same numbers"
        )
    try:
        cell = Cell.of(told)
    except KeyError as error:
        raise ValueError(f"its cell lacks {error}") from error
    if cell.defense not in CONTENDERS:
        raise ValueError(f"there is no defence {cell.defense!r}")
    if cell.key != told["key"]:
        raise ValueError(
            f"its settings are not those of {cell} in this version (key {told['key']}, now "
            f"{cell.key}); it was made by {record['versions']['code']}"
        )
    return cell


def find(path: str | Path, which: str) -> dict[str, Any]:
    """The record in that line of a results file, or the last finished one of that cell or key.

    Raises `ValueError` where there is none.
    """
    if which.isdecimal() and len(which) < 16:
        return read_line(path, int(which))
    found = [r for r in read(path, cut=True) if "cell" in r and which in _names(r["cell"])]
    finished = [record for record in found if "error" not in record]
    if not found:
        raise ValueError(
            f"{path} has no cell {which!r}: a line number is expected, a key, or a cell as "
            "`reproduce --list` prints it"
        )
    return (finished or found)[-1]


def _names(told: Mapping[str, Any]) -> tuple[str, str]:
    with suppress(KeyError):
        return told["key"], str(Cell.of(told))
    return "", ""


def changed(record: Record, here: Record) -> list[str]:
    """What is not as it was when the record was made: versions, hardware, images."""
    then = {**record["versions"], **record["hardware"], "images": record["source"]}
    now = {**here["versions"], **here["hardware"]}
    if "source" in here:
        now["images"] = here["source"]
        for part in ("clean", "test"):
            then[part], now[part] = record["settings"][part], here["settings"][part]
    return [
        f"{name}: {then.get(name)} then, {value} now"
        for name, value in now.items()
        if then.get(name) != value
    ]


def differences(record: Record, again: Record, tolerance: float) -> tuple[int, list[str]]:
    """(how many numbers both have, what differs by more than `tolerance`) of two records."""
    then, now = _numbers(record), _numbers(again)
    told = [f"{name}: only in one of the two" for name in sorted(then.keys() ^ now.keys())]
    both = [name for name in then if name in now]
    for name in both:
        numbers = then[name], now[name]  # None: a number that was not finite
        near = None not in numbers and abs(then[name] - now[name]) <= tolerance + 1e-9
        if not near and numbers != (None, None):
            old, new = ("none" if x is None else f"{x:.4f}" for x in numbers)
            told.append(f"{name}: {old} then, {new} now")
    for part in ("clean", "attacked"):
        ours, theirs = (getattr(Answers.from_dict(r["answers"]), part) for r in (record, again))
        other = 1.0 if ours.shape != theirs.shape else float((ours != theirs).double().mean())
        if other > tolerance:
            told.append(f"answers, {part}: {other:.2%} of the images are read otherwise")
    for name in ("found", "flagged"):
        if record.get(name) != again.get(name):
            told.append(f"{name}: {record.get(name)} then, {again.get(name)} now")
    return len(both), told


def _numbers(record: Record) -> dict[str, Any]:
    reports = {"before": record["before"], "after": record["after"]}
    reports |= {f"round {k}": row for k, row in enumerate(record["history"], 1)}
    numbers = {
        f"{when}, {name}": report[name]
        for when, report in reports.items()
        for name in ("accuracy", "attack_success_rate")
        if name in report
    }
    return numbers | {f"ASR of {rule}": asr for rule, asr in record["by_pair"].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one record again and print whether it agrees; 1 if it does not."""
    parser = argparse.ArgumentParser(
        prog="ibau_lab rerun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="a results file")
    parser.add_argument("record", help="a line number, a cell, or its key")
    parser.add_argument("--folder", type=Path, help="of the networks; the data's cache by default")
    parser.add_argument(
        "--tolerance",
        type=float,
        help=f"of each rate (0 where nothing has changed, {ELSEWHERE} elsewhere)",
    )
    choice = parser.parse_args(arguments)
    try:
        record = find(choice.results, choice.record)
        cell = cell_of(record)
    except (ValueError, OSError) as error:
        parser.error(f"this record cannot be run again: {error}")
    torch.set_num_threads(record["hardware"]["threads"])
    for line in changed(record, provenance()):
        print(f"warning: {line}")
    print(f"running {cell}: the record took {record['seconds']:.0f} s", flush=True)
    again = perform(cell, None if choice.folder is None else str(choice.folder.resolve()))
    elsewhere = changed(record, again)
    usual = ELSEWHERE if elsewhere else 0.0
    tolerance = usual if choice.tolerance is None else choice.tolerance
    count, told = differences(record, again, tolerance)
    for line in told:
        print(f"differs: {line}")
    verdict = "does not agree" if told else "agrees"
    print(f"{cell} {verdict}: {count} rates compared, tolerance {tolerance:g}")
    return 1 if told else 0
