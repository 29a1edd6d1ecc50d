"""Recorded cells laid out like the talk's tables, but turned: a line a defence, a column an attack.

The talk has a column for each of five defences; with a dozen of them a page is wide enough for the
attacks alone. Ours stands above the talk's number, which is in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ibau_lite.attacks.named import SEVEN_TARGETS
from ibau_lite.metrics import spread

from .compare import Comparison, compare, named, printed
from .grid import grid
from .plan import Case
from .published import Published

__all__ = ["matrix", "matrix_rows", "seed_range", "seven", "undefended"]


def matrix(compared: Sequence[Comparison]) -> str:
    """ACC / ASR in per cent of every cell as a Markdown table; — was not run, × found no trigger.

    The first line is the network before any defence. n is the smallest and the largest number of
    seeds in the line.
    """
    head, *rows = matrix_rows(compared)
    return grid([head, ["---"] + ["---:"] * (len(head) - 1), *rows])


def matrix_rows(compared: Sequence[Comparison]) -> list[list[str]]:
    """The lines of `matrix`, its head first, without the rule under it."""
    cases = list(dict.fromkeys(each.case for each in compared))
    names = [named(case) for case in cases]
    if len({case.data for case in cases}) == 1:  # then it need not be said of each
        names = [name.split(" ", 1)[1] for name in names]
    rows = [["defence", "n", *names]]
    rows.append(["no defence", "", *(undefended(compared, case) for case in cases)])
    for label in dict.fromkeys(each.label for each in compared):
        here = {each.case: each for each in compared if each.label == label}
        count = seed_range(each.n for each in here.values())
        rows.append([label, count, *(_acc_asr(here.get(case)) for case in cases)])
    return rows


def seven(records: Iterable[Mapping[str, Any]], profile: str = "full") -> str:
    """The ASR of each of the seven triggers in per cent, mean ± s.d., as a Markdown table."""
    rows = [["data", "defence", "n", *SEVEN_TARGETS], ["---"] * 2 + ["---:"] * 8]
    for each in compare(records, "table3", profile):
        if not each.records:
            continue
        theirs = dict(each.talk.by_trigger) if each.talk is not None else {}
        row = [each.case.data, each.label, str(each.n)]
        for trigger, target in SEVEN_TARGETS.items():
            ours = spread(r["by_pair"][f"every class → {target}"] for r in each.records)
            talk = f"<br>({theirs[trigger]:.1f})" if trigger in theirs else ""
            row.append(str(ours).removesuffix(" %") + talk)
        rows.append(row)
    return grid(rows)


def undefended(compared: Iterable[Comparison], case: Case) -> str:
    """ACC / ASR of a network as it came, from the records, and the talk's."""
    runs = [record["before"] for each in compared if each.case == case for record in each.records]
    measures = ("accuracy", "attack_success_rate")
    means = [spread(run[key] for run in runs).mean for key in measures] if runs else None
    ours = "—" if means is None else " / ".join(f"{100 * mean:.1f}" for mean in means)
    return _beside(ours, printed(case, "no defence"))


def seed_range(counted: Iterable[int]) -> str:
    """How many seeds the cells of a line have that were run: "3", or "1–3"."""
    runs = sorted({n for n in counted if n}) or [0]
    return str(runs[0]) if len(runs) == 1 else f"{runs[0]}–{runs[-1]}"


def _acc_asr(each: Comparison | None) -> str:
    if each is None:
        return ""
    ours = "—"
    if each.n:
        ours = f"{100 * each.accuracy.mean:.1f} / {100 * each.attack_success_rate.mean:.1f}"
        part = "" if each.missed == each.n else f"{each.missed}/{each.n}"
        ours += f"<br>×{part}" if each.missed else ""
    return _beside(ours, each.talk)


def _beside(ours: str, talk: Published | None) -> str:
    if talk is None:
        return ours
    numbers = (talk.accuracy, talk.attack_success_rate)
    return f"{ours}<br>({' / '.join('×' if x is None else f'{x:.1f}' for x in numbers)})"
