"""Recorded cells laid out like the talk's tables, but turned: a line a defence, a column an attack.

The talk has a column for each of five defences; with a dozen of them a page is wide enough for the
attacks alone. Ours stands above the talk's number, which is in brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ibau_lite.attacks.named import SEVEN_TARGETS
from ibau_lite.metrics import spread

from .compare import Comparison, compare, named
from .grid import grid
from .plan import Case
from .published import Published, printed
from .records import Records


def matrix(compared: Sequence[Comparison]) -> str:
    """ACC / ASR in per cent of every cell as a Markdown table; — was not run, × found no trigger.

    The first line is the network before any defence. n is the smallest and the largest number of
    seeds in the line.
    """
    return grid(matrix_rows(compared))


def matrix_rows(compared: Sequence[Comparison]) -> pd.DataFrame:
    """The lines of `matrix`."""
    cases = list(dict.fromkeys(each.case for each in compared))
    names = [named(case) for case in cases]
    if len({case.data for case in cases}) == 1:  # then it need not be said of each
        names = [name.split(" ", 1)[1] for name in names]
    before: dict[Case, list[Mapping[str, float]]] = {case: [] for case in cases}
    for each in compared:
        before[each.case] += [record["before"] for record in each.records]
    undefended = (
        _beside(runs, printed("no defence", **vars(case))) for case, runs in before.items()
    )
    rows = [["no defence", "", *undefended]]
    for label in dict.fromkeys(each.label for each in compared):
        here = {each.case: each for each in compared if each.label == label}
        cells = (_cell(here[case]) if case in here else "" for case in cases)
        rows.append([label, seed_range(each.n for each in here.values()), *cells])
    return pd.DataFrame(rows, columns=["defence", "n", *names])


def _cell(each: Comparison) -> str:
    crosses = "" if each.missed in (0, each.n) else f"{each.missed}/{each.n}"
    crosses = f"<br>×{crosses}" if each.missed else ""
    return _beside([record["after"] for record in each.records], each.talk, crosses)


def _beside(reports: Sequence[Mapping[str, float]], talk: Published | None, more: str = "") -> str:
    ours = " / ".join(means(reports)) if reports else "—"
    theirs = f"<br>({' / '.join(talk.told('{:.1f}'))})" if talk else ""
    return ours + more + theirs


def means(reports: Iterable[Mapping[str, float]]) -> tuple[str, str]:
    """Mean ACC and ASR in per cent."""
    frame = pd.DataFrame(list(reports))
    acc, asr = (spread(frame[name]).mean for name in ("accuracy", "attack_success_rate"))
    return f"{100 * acc:.1f}", f"{100 * asr:.1f}"


def seven(records: Records, profile: str = "full") -> str:
    """The ASR of each of the seven triggers in per cent, mean ± s.d., as a Markdown table."""
    rows = []
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
    return grid(pd.DataFrame(rows, columns=["data", "defence", "n", *SEVEN_TARGETS]), "llr")


def seed_range(counted: Iterable[int]) -> str:
    """How many seeds the cells of a line have that were run: "3", or "1–3"."""
    runs = sorted({n for n in counted if n}) or [0]
    return str(runs[0]) if len(runs) == 1 else f"{runs[0]}–{runs[-1]}"
