"""Tables: records gathered over seeds, a line for each defence, beside what the talk reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ibau_lite.metrics import Spread, spread

from .grid import grid
from .published import one_trigger

__all__ = ["NO_DEFENCE", "Line", "gather", "markdown", "side_by_side"]

NO_DEFENCE = "no defence"


@dataclass(frozen=True)
class Line:
    """One defence on one data set: ACC, ASR and seconds (none for no defence) over seeds.

    `seconds` are the wall's, `cpu_seconds` those of all threads, both means.
    """

    data: str
    source: str
    profile: str
    label: str
    accuracy: Spread
    attack_success_rate: Spread
    seconds: float | None
    cpu_seconds: float | None
    n: int


def gather(records: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Group records by data, profile and row, in the order of their first appearance.

    Each group of one data set and profile begins with the network before any defence. Of two
    records with the same row and seed the later one counts. Mean and sample deviation over seeds.
    """
    groups: dict[tuple[str, str, str], dict[str, dict[int, Mapping[str, Any]]]] = {}
    for record in records:
        where = (record["data"], record["source"], record["profile"])
        groups.setdefault(where, {}).setdefault(record["defense"], {})[record["seed"]] = record
    table = []
    for where, rows in groups.items():
        first = next(iter(next(iter(rows.values())).values()))
        table.append(_line(where, NO_DEFENCE, [first["before"]], None, None))
        for label, by_seed in rows.items():
            runs = list(by_seed.values())
            seconds, cpu_seconds = (
                sum(run[clock] for run in runs) / len(runs) for clock in ("seconds", "cpu_seconds")
            )
            reports = [run["after"] for run in runs]
            table.append(_line(where, label, reports, seconds, cpu_seconds))
    return table


def markdown(lines: Sequence[Line], *, talk: bool = True) -> str:
    """The lines as a Markdown table; with `talk`, two columns with the talk's BadNets results.

    The talk's numbers stand beside "no defence" and "I-BAU", which it reports as well.
    """
    head = ["data", "row", "ACC", "ASR", "seconds", "n"]
    head += ["the talk: ACC", "the talk: ASR"] if talk else []
    rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for line in lines:
        seconds = "" if line.seconds is None else f"{line.seconds:.0f}"
        row = [f"{line.data} ({line.profile})", line.label]
        row += [str(line.accuracy), str(line.attack_success_rate), seconds, str(line.n)]
        rows.append(row + (_in_the_talk(line) if talk else []))
    return grid(rows)


def side_by_side(records: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with one line a row, with ACC, ASR and CPU seconds for each data set.

    Mean ± sample deviation over seeds; where a row has another number of seeds than the first one,
    the number stands behind it.
    """
    lines = gather(records)
    data = list(dict.fromkeys(line.data for line in lines))
    labels = list(dict.fromkeys(line.label for line in lines))
    seeds = max((line.n for line in lines), default=0)
    head = ["row", *(f"{name}: {what}" for name in data for what in ("ACC", "ASR", "CPU s"))]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for label in labels:
        row = [label]
        for name in data:
            found = [line for line in lines if (line.data, line.label) == (name, label)]
            cost = found[0].cpu_seconds if found else None
            few = f" (n = {found[0].n})" if cost is not None and found[0].n < seeds else ""
            row += [str(found[0].accuracy) + few if found else "not run"]
            row += [str(found[0].attack_success_rate) if found else ""]
            row += ["" if cost is None else f"{cost:.0f}"]
        rows.append(row)
    return grid(rows)


def _line(
    where: tuple[str, str, str],
    label: str,
    reports: Sequence[Mapping[str, float]],
    seconds: float | None,
    cpu_seconds: float | None,
) -> Line:
    accuracy = spread(report["accuracy"] for report in reports)
    success = spread(report["attack_success_rate"] for report in reports)
    return Line(*where, label, accuracy, success, seconds, cpu_seconds, len(reports))


def _in_the_talk(line: Line) -> list[str]:
    try:
        published = {row.defense: row for row in one_trigger(line.data)}
    except KeyError:
        published = {}
    if line.label not in published:
        return ["", ""]
    row = published[line.label]
    return [f"{row.accuracy:.2f} %", f"{row.attack_success_rate:.2f} %"]
