"""Table 6: how long a defence takes until it is effective, and how long until it is through.

Effective: after the first round from which on the ASR on the test split stays at most 20 %, to the
end, by the clock of `cells.run`, which stands still while ACC and ASR are measured. The talk
defines no threshold; this one is that of `compare`. The first passes on a device, which load and
compile, come before the clock starts (`warm_up_seconds` in the records).

Of each data set the runs on one device are counted, the one that most of them used: seconds of two
machines have no mean and no ratio. Two processors of one name cannot be told apart, nor a machine
that something else keeps busy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from .compare import REMOVED, Comparison, compare
from .contenders import CONTENDERS
from .grid import grid
from .published import SECONDS
from .records import Record, Records, device, usual_device


@dataclass(frozen=True)
class Timed:
    """The runs of a defence on a data set whose seconds count."""

    every: tuple[Record, ...]

    @property
    def shared(self) -> bool:
        """Whether there are none but runs that shared the machine with other cells."""
        return all(run["jobs"] != 1 for run in self.every)

    def runs(self, *, shared: bool) -> list[Record]:
        """Those that shared the machine, or those that had it to themselves."""
        return [run for run in self.every if (run["jobs"] != 1) == shared]

    def times(self, *, shared: bool) -> dict[tuple[str, int], float]:
        """(network, seed) -> seconds until effective, of those runs that became so."""
        found = {
            (run["cell"]["attack"], run["cell"]["seed"]): effective(run)
            for run in self.runs(shared=shared)
        }
        return {cell: seconds for cell, seconds in found.items() if seconds is not None}


def effective(record: Record) -> float | None:
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


def timed(compared: Iterable[Comparison]) -> dict[tuple[str, str], Timed]:
    """(data set, label) -> the runs that count, of every defence that has any."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for each in compared:
        groups.setdefault(each.case.data, {}).setdefault(each.label, []).extend(each.records)
    found = {}
    for data, by_label in groups.items():
        usual = usual_device(run for runs in by_label.values() for run in runs)
        for label, runs in by_label.items():
            if here := tuple(run for run in runs if device(run) == usual):
                found[data, label] = Timed(here)
    return found


def markdown(records: Records, profile: str = "full") -> str:
    """A Markdown table with a line a data set and defence, over the cells of Table 6.

    Runs that had the machine to themselves are counted if there are any, else all, marked with *.
    "effective in" is how many of the runs became so; s is the mean time of those, and the ratio to
    I-BAU's is over the networks and seeds on which both did. "total s" is the same clock after the
    last round.
    """
    found = timed(compare(records, "table6", profile))
    head = ["data", "defence", "effective in", "s", "ratio", "total s", "the talk: s", "its ratio"]
    rows = []
    columns = dict(CONTENDERS.values())
    for (data, label), mine in found.items():
        shared = mine.shared
        star = "*" if shared else ""
        runs, times = mine.runs(shared=shared), mine.times(shared=shared)
        ibau = found.get((data, "I-BAU"), Timed(())).times(shared=shared)
        both = times.keys() & ibau.keys()
        ratio = sum(times[c] for c in both) / sum(ibau[c] for c in both) if both else None
        talk = SECONDS.get(data, {}).get(columns[label] or "")
        rows.append(
            [
                data,
                label,
                f"{len(times)} of {len(runs)}",
                f"{fmean(times.values()):.1f}{star}" if times else "",
                f"{ratio:.1f}{star}" if ratio is not None else "",
                f"{fmean(map(_total, runs)):.1f}{star}",
                f"{talk:.2f}" if talk else "",
                f"{talk / SECONDS[data]['I-BAU']:.1f}" if talk else "",
            ]
        )
    return grid(pd.DataFrame(rows, columns=head), "llr")


def _total(run: Record) -> float:
    """Seconds after the last round, by the clock of `effective`; without it, the defence's own."""
    last: Record = run["history"][-1] if run["history"] else {}
    return float(last.get("elapsed", run["seconds"]))
