"""The talk's ✓/✗ matrix derived from records by stated rules.

One trigger, one target: on every row of Tables 1 and 2 the ASR is at most 20 % and the accuracy
falls by at most 10 points. Multi-target: with seven triggers (Table 3) the ASR over all of them is
at most 20 % on every data set. Insensitive to the poisoning rate: Trojan WM at every rate (Tables 1
and 4) is left with at most 20 %. Agnostic to the data set: averaged over the rows of each of Tables
1 and 2 the accuracy falls by at most 10 points. Low clean access: with every smaller clean set
(Table 5) the ASR is at most 20 % and the accuracy falls by at most 10 points.

The rules are ours, the talk states none; applied to the numbers that it prints they give its marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from .compare import KEPT, Outcome, compare, published
from .contenders import CONTENDERS
from .grid import grid, mark
from .layout import seed_range
from .published import FEATURES, PUBLISHED
from .records import Records

Answer = bool | None
"""Yes, no, or not known yet: cells are missing that could still change it."""

Rows = Sequence[tuple[str, Outcome | None]]
"""(data set, outcome) of the rows that a rule looks at; None for one that was not run."""


def _all(answers: Iterable[Answer]) -> Answer:
    """No if one is no, whatever the others turn out to be; not known while one is missing."""
    answers = list(answers)
    return False if False in answers else None if None in answers or not answers else True


def _healed(rows: Rows) -> Answer:
    return _all(outcome and outcome.both for _, outcome in rows)


def _removed(rows: Rows) -> Answer:
    return _all(outcome and outcome.removed for _, outcome in rows)


def _kept_on_average(rows: Rows) -> Answer:
    drops: dict[str, list[float]] = {}
    for data, outcome in rows:
        if outcome is None:
            return None
        drops.setdefault(data, []).append(outcome.drop)
    return _all(sum(each) / len(each) <= KEPT for each in drops.values())


_LOOKED_AT = ("table1", "table2", "table3", "table4", "table5")

RULES: dict[str, tuple[tuple[str, ...], Callable[[Rows], Answer]]] = {
    "one-trigger-one-target": (("table1", "table2"), _healed),
    "multi-target": (("table3",), _removed),
    "poisoning-rate-insensitive": (("table1 trojan_wm", "table4"), _removed),
    "data-set-agnostic": (("table1", "table2"), _kept_on_average),
    "low-clean-access": (("table5",), _healed),
}
"""Feature -> (the rows it looks at, the rule)."""

Told = tuple[str, str, str, str, Outcome | None]
"""(table, attack, data set, defence, outcome) of a row, ours or the talk's."""


def _answers(told: Sequence[Told], who: str) -> dict[str, Answer]:
    def rows(name: str) -> Rows:
        wanted, _, only = name.partition(" ")
        return [
            (data, outcome)
            for table, attack, data, defence, outcome in told
            if (table, defence) == (wanted, who) and only in ("", attack)
        ]

    return {
        feature: rule([row for name in looked_at for row in rows(name)])
        for feature, (looked_at, rule) in RULES.items()
    }


def derive(records: Records, profile: str = "full") -> dict[str, dict[str, Answer]]:
    """Defence (our label) -> feature -> answer, for each defence that has a record."""
    return {label: answers for label, (answers, _) in _derived(records, profile).items()}


def _derived(records: Records, profile: str) -> Mapping[str, tuple[dict[str, Answer], str]]:
    """The same, with how many seeds the cells rest on."""
    records = list(records)
    cells = [(table, each) for table in _LOOKED_AT for each in compare(records, table, profile)]
    told = [(t, each.case.attack, each.case.data, each.label, each.ours) for t, each in cells]
    seeds: dict[str, list[int]] = {label: [] for label, _ in CONTENDERS.values()}
    for _, each in cells:
        seeds[each.label].append(each.n)
    return {
        label: (_answers(told, label), seed_range(counted))
        for label, counted in seeds.items()
        if any(counted)
    }


def of_the_talk() -> dict[str, dict[str, Answer]]:
    """The rules applied to what the talk prints: column -> feature -> answer."""
    told = [
        (e.table.lower().replace(" ", ""), e.attack, e.data, e.defense, published(e))
        for e in PUBLISHED
    ]
    return {column: _answers(told, column) for column in FEATURES}


def markdown(records: Records, profile: str = "full") -> str:
    """The derived matrix as a Markdown table, the talk's mark in brackets; … is not known yet.

    A line a defence; at its end stands how many seeds its cells rest on.
    """
    columns = dict(CONTENDERS.values())
    rows = []
    for label, (answers, seeds) in _derived(records, profile).items():
        printed = FEATURES.get(columns[label] or "", {})
        talk = (f" ({mark(printed[feature])})" if printed else "" for feature in RULES)
        marks = (
            mark(answer, "…") + told for answer, told in zip(answers.values(), talk, strict=True)
        )
        rows.append([label, *marks, seeds])
    table = pd.DataFrame(rows, columns=["defence", *RULES, "seeds"])
    return grid(table, "l" + "c" * len(RULES) + "r")
