"""A Markdown table from rows of text: what all tables of the experiments end in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["grid"]


def grid(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as lines of Markdown; the second row is the rule that aligns the columns."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
