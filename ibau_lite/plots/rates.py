"""Figures of fractions, in per cent: bars side by side, and curves over a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ibau_lite.plots.style import INK, SERIES, new_figure, style_axes

__all__ = ["bars", "curves"]


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    chance: float | None = None,
) -> Figure:
    """Draw one bar a group for each series of fractions, with its value written on it.

    `series` maps a name (say "ACC") to one fraction in [0, 1] a group. `chance` draws a dotted
    line. Raises `ValueError` for no series, a series of another length, and a value outside [0, 1].

    >>> bars(["before", "after"], {"ACC": [0.9, 0.88], "ASR": [0.99, 0.03]})
    <LineFigure size ... with 1 Axes>
    """
    _check(series, len(groups))
    figure, axes = new_figure(1, 1, max(4.0, 1.5 * len(groups) + 1.2), 3.0)
    ax = axes[0][0]
    style_axes(ax)
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        colour, hatch, _ = SERIES[number % len(SERIES)]
        left = [group - 0.4 + (number + 0.5) * width for group in range(len(groups))]
        drawn = ax.bar(
            left,
            [100 * value for value in values],
            0.92 * width,
            label=name,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
        )
        ax.bar_label(drawn, fmt="%.1f", fontsize=8, color=INK, padding=1)
    ax.set_xticks(range(len(groups)), groups)
    _per_cent(ax, chance)
    return figure


def curves(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    logarithmic: bool = False,
    chance: float | None = None,
) -> Figure:
    """Draw each series of fractions in [0, 1] over `x`; `xlabel` names x with its unit.

    Every x has its own tick. The axis is linear or, with `logarithmic`, logarithmic. Raises
    `ValueError` as `bars` does.
    """
    _check(series, len(x))
    figure, axes = new_figure(1, 1, 5.2, 3.0)
    ax = axes[0][0]
    style_axes(ax)
    for number, (name, values) in enumerate(series.items()):
        colour, _, marker = SERIES[number % len(SERIES)]
        dash = "-" if number % 2 == 0 else "--"
        ax.plot(x, [100 * value for value in values], dash, marker=marker, color=colour, label=name)
    if logarithmic:
        ax.set_xscale("log")
        ax.minorticks_off()
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.set_xlabel(xlabel, color=INK)
    _per_cent(ax, chance)
    return figure


def _per_cent(axes: Axes, chance: float | None) -> None:
    if chance is not None:
        axes.axhline(100 * chance, color=INK, linestyle=":", linewidth=1.2, label="chance")
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("fraction of images (%)", color=INK)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=9)


def _check(series: Mapping[str, Sequence[float]], count: int) -> None:
    if not series or not count:
        raise ValueError("series: at least one with at least one value is expected, got none")
    for name, values in series.items():
        if len(values) != count:
            raise ValueError(f"series[{name!r}]: {count} values are expected, got {len(values)}")
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"series[{name!r}]: fractions in [0, 1] are expected, got {values}")
