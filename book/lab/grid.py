"""A table of text as Markdown: what all tables of the laboratory end in."""

from __future__ import annotations

import pandas as pd

__all__ = ["grid"]

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
