"""The look of every figure: a sheet of paper that is readable on a light and on a dark page.

The ground is opaque, so that ink keeps its contrast in dark mode. Colours are those of Okabe and
Ito, which readers with any of the common colour deficiencies tell apart; beside the colour there is
always a second sign (a hatch, a marker, a dash), so that a grey print says as much.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAPER = "#ffffff"
INK = "#222222"
FAINT = "#d0d0d0"
SERIES: tuple[tuple[str, str, str], ...] = (
    ("#0072B2", "", "o"),
    ("#D55E00", "///", "s"),
    ("#009E73", "...", "^"),
    ("#CC79A7", "xx", "D"),
    ("#56B4E9", "\\\\\\", "v"),
    ("#E69F00", "++", "P"),
)
"""Colour, hatch and marker of the first, second, … series of a figure."""


def new_figure(
    rows: int, columns: int, width: float, height: float
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure of `width` × `height` inches with `rows` × `columns` axes.

    It is closed for pyplot: a notebook shows it where a cell returns it, and only there.
    """
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout="constrained",
        facecolor=PAPER,
    )
    plt.close(figure)
    return figure, [list(row) for row in axes]


def style_axes(axes: Axes, grid: str = "y") -> None:
    """Two spines, faint lines across the values behind the data, ink that does not shout."""
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)  # type: ignore[arg-type]
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def hide_axes(axes: Axes) -> None:
    """Neither ticks nor frame: for pictures."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
