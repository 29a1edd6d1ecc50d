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
from typing import Any

import pandas as pd

from .compare import KEPT, Comparison, Outcome, compare, published
from .contenders import CONTENDERS
from .grid import grid
from .layout import seed_range
from .published import FEATURES, PUBLISHED

__all__ = ["RULES", "derive", "markdown", "of_the_talk"]

Answer = bool | None
"""Yes, no, or not known yet: cells are missing that could still change it."""

Rows = Sequence[tuple[str, Outcome | None]]
"""(data set, outcome) of the rows that a rule looks at; None for one that was not run."""


def _every(holds: Callable[[Outcome], bool]) -> Callable[[Rows], Answer]:
    def rule(rows: Rows) -> Answer:
        answers = [None if outcome is None else holds(outcome) for _, outcome in rows]
        if False in answers:
            return False  # whatever the others turn out to be
        return None if None in answers or not answers else True

    return rule


def _kept_on_average(rows: Rows) -> Answer:
    drops: dict[str, list[float]] = {}
    for data, outcome in rows:
        if outcome is None:
            return None
        drops.setdefault(data, []).append(outcome.drop)
    if not drops:
        return None
    return all(sum(each) / len(each) <= KEPT for each in drops.values())


_LOOKED_AT = ("table1", "table2", "table3", "table4", "table5")
_healed = _every(lambda outcome: outcome.removed and outcome.kept)
_removed = _every(lambda outcome: outcome.removed)

RULES: dict[str, tuple[tuple[str, ...], Callable[[Rows], Answer]]] = {
    "one-trigger-one-target": (("table1", "table2"), _healed),
    "multi-target": (("table3",), _removed),
    "poisoning-rate-insensitive": (("table1 trojan_wm", "table4"), _removed),
    "data-set-agnostic": (("table1", "table2"), _kept_on_average),
    "low-clean-access": (("table5",), _healed),
}
"""Feature -> (the rows it looks at, the rule)."""


def derive(
    records: Iterable[Mapping[str, Any]], profile: str = "full"
) -> dict[str, dict[str, Answer]]:
    """Defence (our label) -> feature -> answer, for each defence that has a record."""
    return _answers(_tables(records, profile))


def _answers(tables: Mapping[str, list[Comparison]]) -> dict[str, dict[str, Answer]]:
    rows = dict(tables)
    rows["table1 trojan_wm"] = [r for r in rows["table1"] if r.case.attack == "trojan_wm"]
    seen = {each.label for table in rows.values() for each in table if each.n}
    labels = [label for label, _ in CONTENDERS.values() if label in seen]
    return {
        label: {
            feature: rule(
                [
                    (each.case.data, each.ours)
                    for table in looked_at
                    for each in rows[table]
                    if each.label == label
                ]
            )
            for feature, (looked_at, rule) in RULES.items()
        }
        for label in labels
    }


def _tables(records: Iterable[Mapping[str, Any]], profile: str) -> dict[str, list[Comparison]]:
    records = list(records)
    return {table: compare(records, table, profile) for table in _LOOKED_AT}


def of_the_talk() -> dict[str, dict[str, Answer]]:
    """The rules applied to what the talk prints: column -> feature -> answer."""

    def rows(name: str, column: str) -> Rows:
        table, _, attack = name.replace("table", "Table ").partition(" trojan")
        return [
            (entry.data, published(entry))
            for entry in PUBLISHED
            if entry.table == table
            and entry.defense == column
            and (not attack or entry.attack == "trojan_wm")
        ]

    return {
        column: {
            feature: rule([row for name in tables for row in rows(name, column)])
            for feature, (tables, rule) in RULES.items()
        }
        for column in FEATURES
    }


def markdown(records: Iterable[Mapping[str, Any]], profile: str = "full") -> str:
    """The derived matrix as a Markdown table, the talk's mark in brackets; … is not known yet.

    A line a defence; at its end stands how many seeds its cells rest on.
    """
    tables = _tables(records, profile)
    derived = _answers(tables)
    cells = [each for table in tables.values() for each in table]
    columns = dict(CONTENDERS.values())
    rows = []
    for label, answers in derived.items():
        printed = FEATURES.get(columns[label] or "", {})
        marks = [
            _mark(answers[feature]) + (f" ({_mark(printed[feature])})" if printed else "")
            for feature in RULES
        ]
        rows.append([label, *marks, seed_range(each.n for each in cells if each.label == label)])
    table = pd.DataFrame(rows, columns=["defence", *RULES, "seeds"])
    return grid(table, "l" + "c" * len(RULES) + "r")


def _mark(answer: Answer) -> str:
    return "…" if answer is None else "✓" if answer else "✗"
