"""Table 6: how long a defence takes until it is effective, and how long until it is through.

Effective: after the first round from which on the ASR on the test split stays at most 20 %, to the
end, by the clock of `cells.run`, which stands still while ACC and ASR are measured. The talk
defines no threshold; this one is that of `compare`. The first passes on a device, which load and
compile, come before the clock starts (`warm_up_seconds` in the records). Records do not tell two
processors of one name apart, nor a crowded machine from an idle one: ratios are as good as the
records were made alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ibau_lite.experiments.compare import REMOVED, Comparison, compare
from ibau_lite.experiments.contenders import CONTENDERS
from ibau_lite.experiments.grid import grid
from ibau_lite.experiments.published import SECONDS

__all__ = ["effective", "markdown"]


def effective(record: Mapping[str, Any]) -> float | None:
    """Seconds until the ASR was at most 20 % after a round and stayed so; None if it never did.

    A dip does not count, as of a network that a large step has wrecked for a round: neither the
    rounds after it nor the network that is returned may exceed the threshold.
    """
    if record["after"]["attack_success_rate"] > REMOVED:
        return None
    since = None
    for row in record["history"]:
        if row.get("attack_success_rate", 1.0) > REMOVED:
            since = None
        elif since is None and "elapsed" in row:
            since = float(row["elapsed"])
    return since


def markdown(records: Iterable[Mapping[str, Any]], profile: str = "full") -> str:
    """A Markdown table with a line a data set and defence, averaged over the one-trigger rows.

    Runs that had the machine to themselves are counted if there are any, else all, marked with *.
    "effective in" is how many of the runs became so; the mean time is over those, and a ratio is
    that of runs which both shared the machine, or both did not.
    """
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for each in compare(records, "table6", profile):
        groups.setdefault((each.case.data, each.label), []).append(each)
    head = ["data", "defence", "effective in", "seconds", "ratio to I-BAU", "total seconds"]
    head += ["CPU seconds", "the talk: seconds", "the talk: ratio"]
    rows = [head, ["---"] * 2 + ["---:"] * 7]
    columns = dict(CONTENDERS.values())
    for (data, label), group in groups.items():
        ours, shared = _alone(group)
        if not ours:
            continue
        times = _times(ours)
        others, crowded = _alone(groups[data, "I-BAU"])
        base = _times(others) if crowded == shared else []
        row = [data, label, f"{len(times)} of {len(ours)}"]
        row += [f"{_mean(times):.1f}{'*' if shared else ''}" if times else ""]
        row += [f"{_mean(times) / _mean(base):.1f}" if times and base else ""]
        row += [f"{_mean([run[name] for run in ours]):.1f}" for name in ("seconds", "cpu_seconds")]
        theirs = SECONDS.get(data, {})
        column = columns[label] or ""
        known = column in theirs
        row += (
            [f"{theirs[column]:.2f}", f"{theirs[column] / theirs['I-BAU']:.1f}"]
            if known
            else ["", ""]
        )
        rows.append(row)
    return grid(rows)


def _alone(group: Iterable[Comparison]) -> tuple[list[Mapping[str, Any]], bool]:
    """The runs that shared the machine with no other cell, or all, and whether it is all."""
    runs = [record for each in group for record in each.records]
    alone = [run for run in runs if run["jobs"] == 1]
    return (alone, False) if alone else (runs, True)


def _times(runs: Iterable[Mapping[str, Any]]) -> list[float]:
    return [seconds for run in runs if (seconds := effective(run)) is not None]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
