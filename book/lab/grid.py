"""A table of text as Markdown, and the marks in it: what all tables of the laboratory end in."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

_RULES = {"l": "---", "r": "---:", "c": ":---:"}


def grid(table: pd.DataFrame, align: str = "lr") -> str:
    """The columns of a DataFrame as lines of Markdown; its index is not shown.

    `align` has a letter a column, l(eft), r(ight) or c(entred); the last one stands for all that
    follow.
    """
    letters = align + align[-1] * (table.shape[1] - len(align))
    rule = [_RULES[letter] for letter in letters[: table.shape[1]]]
    rows = [table.columns, rule, *table.itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def mark(answer: bool | None, unknown: str = "") -> str:
    """✓ for yes, ✗ for no."""
    return unknown if answer is None else "✓" if answer else "✗"


def share(answers: Iterable[bool | None]) -> str:
    """How many are yes, out of those that are known: "3 of 8"; nothing if none is."""
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)} of {len(known)}" if known else ""
