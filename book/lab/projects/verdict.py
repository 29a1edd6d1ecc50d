"""What grading comes to: points, a message, and a table of the details."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

POINTS = 60
"""The automatic points of each project; a person reads the report, for the other 40 of 100."""


@dataclass(frozen=True)
class Verdict:
    """The points of a submission (0 to `POINTS`), why, and the numbers behind them.

    `rows` is a table: one dict for each network, seed or problem. `seconds` is what the submission
    took.
    """

    points: float
    message: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> dict[str, Any]:
        """One line of the leaderboard: the rates are means over `rows`."""
        shown: dict[str, Any] = {"points": round(self.points, 1)}
        for name in ("ACC", "ASR before", "ASR"):
            if values := [row[name] for row in self.rows if name in row]:
                shown[name] = round(sum(values) / len(values), 3)
        first = self.message.splitlines()[0] if self.message else ""
        return {**shown, "seconds": round(self.seconds, 1), "message": first}

    def __str__(self) -> str:
        head = f"{self.points:.1f} of {POINTS} points, {self.seconds:.1f} s"
        return "\n".join([head, *filter(None, [self.message, _table(self.rows)])])


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows of one kind in columns."""
    if not rows:
        return ""
    lines = [list(rows[0])] + [[_shown(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
