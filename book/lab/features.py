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

import pandas as pd

from .compare import KEPT, compare, published
from .contenders import CONTENDERS
from .grid import grid, mark
from .layout import seed_range
from .published import FEATURES, PUBLISHED
from .records import Records

Answer = bool | None
"""Yes, no, or not known yet: cells are missing that could still change it."""

_ONE_TRIGGER = "table in ('table1', 'table2')"
RULES = {
    "one-trigger-one-target": (_ONE_TRIGGER, "both"),
    "multi-target": ("table == 'table3'", "removed"),
    "poisoning-rate-insensitive": (
        "table == 'table4' or (table == 'table1' and attack == 'trojan_wm')",
        "removed",
    ),
    "data-set-agnostic": (_ONE_TRIGGER, "kept on average"),
    "low-clean-access": ("table == 'table5'", "both"),
}
"""Feature -> (the rows it looks at, what must be true of them)."""

_COLUMNS = ["table", "attack", "data", "who", "n", "outcome"]
_LOOKED_AT = ("table1", "table2", "table3", "table4", "table5")


def _answers(rows: pd.DataFrame) -> dict[str, Answer]:
    """The answers for one defence; the outcome of a row that was not run is None."""
    return {feature: _answer(rows.query(where), what) for feature, (where, what) in RULES.items()}


def _answer(rows: pd.DataFrame, what: str) -> Answer:
    if what != "kept on average":
        answers: list[Answer] = [outcome and getattr(outcome, what) for outcome in rows["outcome"]]
    elif rows["outcome"].isna().any():
        return None
    else:
        drops = rows["outcome"].map(lambda outcome: outcome.drop).groupby(rows["data"])
        answers = [mean <= KEPT for mean in drops.mean()]
    # One no decides, whatever the others turn out to be.
    return False if False in answers else None if None in answers or not answers else True


def _ours(records: Records, profile: str) -> pd.DataFrame:
    """The rows of every defence that has a record."""
    records = list(records)
    rows = [
        (table, each.case.attack, each.case.data, each.label, each.n, each.ours)
        for table in _LOOKED_AT
        for each in compare(records, table, profile)
    ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    return frame[frame.groupby("who")["n"].transform("sum") > 0]


def derive(records: Records, profile: str = "full") -> dict[str, dict[str, Answer]]:
    """Defence (our label) -> feature -> answer, for each defence that has a record."""
    groups = _ours(records, profile).groupby("who", sort=False)
    return {label: _answers(rows) for label, rows in groups}


def of_the_talk() -> dict[str, dict[str, Answer]]:
    """The rules applied to what the talk prints: column -> feature -> answer."""
    rows = [
        (e.table.lower().replace(" ", ""), e.attack, e.data, e.defense, 1, published(e))
        for e in PUBLISHED
    ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    return {column: _answers(frame[frame["who"] == column]) for column in FEATURES}


def markdown(records: Records, profile: str = "full") -> str:
    """The derived matrix as a Markdown table, the talk's mark in brackets; … is not known yet.

    A line a defence; at its end stands how many seeds its cells rest on.
    """
    columns = dict(CONTENDERS.values())
    lines = []
    for label, rows in _ours(records, profile).groupby("who", sort=False):
        talk = FEATURES.get(columns[label] or "", {})
        marks = [
            mark(answer, "…") + (f" ({mark(talk[feature])})" if talk else "")
            for feature, answer in _answers(rows).items()
        ]
        lines.append([label, *marks, seed_range(rows["n"])])
    table = pd.DataFrame(lines, columns=["defence", *RULES, "seeds"])
    return grid(table, "l" + "c" * len(RULES) + "r")
