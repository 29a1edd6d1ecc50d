"""Figures of numerical methods: errors over effort, and where eigenvalues lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ibau_lite.plots.style import INK, SERIES, new_figure, style_axes

__all__ = ["Panel", "eigenvalue_stems", "lines"]

_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Panel:
    """What one panel of `lines` shows.

    `series` maps a name to (x, y), two sequences of one length. Points that are not finite leave a
    gap. `xlabel` and `ylabel` name the quantities with their units. `log` says which axes are
    logarithmic ("", "x", "y" or "xy"). `levels` are dotted horizontal lines by name. `only_marks`
    names the series that are drawn without a line. Raises `ValueError` for no series, for x and y
    of different lengths, for another `log`, and for an unknown name in `only_marks`.

    >>> lines(Panel({"CG": ([1, 2, 3], [1e-1, 1e-3, 1e-6])}, "products", "residual", log="y"))
    <LineFigure size ... with 1 Axes>
    """

    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    xlabel: str
    ylabel: str
    log: str = ""
    levels: Mapping[str, float] | None = None
    only_marks: tuple[str, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError("series: at least one is expected, got none")
        for name, (x, y) in self.series.items():
            if len(x) != len(y):
                raise ValueError(f"series[{name!r}]: {len(x)} values of x, but {len(y)} of y")
        if self.log not in ("", "x", "y", "xy"):
            raise ValueError(f"log must be '', 'x', 'y' or 'xy', got {self.log!r}")
        unknown = sorted(set(self.only_marks) - set(self.series))
        if unknown:
            raise ValueError(f"only_marks: there is no series {', '.join(unknown)}")


def lines(*panels: Panel, width: float = 4.2, height: float = 3.3) -> Figure:
    """Draw the panels side by side, `width` × `height` inches each, every one with its legend.

    Raises `ValueError` for no panel.
    """
    if not panels:
        raise ValueError("panels: at least one is expected, got none")
    figure, [row] = new_figure(1, len(panels), width * len(panels), height)
    for axes, panel in zip(row, panels, strict=True):
        _draw(axes, panel)
    return figure


def eigenvalue_stems(
    measures: Mapping[str, tuple[Sequence[float] | Tensor, Sequence[float] | Tensor | None]],
    *,
    xlabel: str,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """Draw eigenvalues as stems on one axis, a row for each matrix; the sign has its own colour.

    `measures` maps a name to (values, weights). The height of a stem is its weight, or 1 without
    weights. Negative values are orange squares, others blue circles. `marks` are dotted vertical
    lines by name. Raises `ValueError` for no matrix, and for another number of weights than of
    values.

    >>> eigenvalue_stems({"A": ([-1.0, 0.5, 2.0], None)}, xlabel="eigenvalue")
    <LineFigure size ... with 1 Axes>
    """
    if not measures:
        raise ValueError("measures: at least one matrix is expected, got none")
    figure, rows = new_figure(len(measures), 1, 7.6, 1.0 + 1.25 * len(measures))
    for [axes], (name, (values, weights)) in zip(rows, measures.items(), strict=True):
        eigenvalues = [float(value) for value in values]
        heights = [1.0] * len(eigenvalues) if weights is None else [float(w) for w in weights]
        if len(eigenvalues) != len(heights):
            raise ValueError(f"{name}: {len(eigenvalues)} values, but {len(heights)} weights")
        style_axes(axes, grid="x")
        for negative, (colour, _, marker) in ((True, SERIES[1]), (False, SERIES[0])):
            chosen = [
                (x, h) for x, h in zip(eigenvalues, heights, strict=True) if (x < 0) == negative
            ]
            axes.vlines([x for x, _ in chosen], 0, [h for _, h in chosen], color=colour, lw=1)
            axes.plot(*(zip(*chosen, strict=True) if chosen else ([], [])), marker, ms=4, c=colour)
        axes.axvline(0, color=INK, linewidth=1)
        for label, mark in (marks or {}).items():
            axes.axvline(mark, color=INK, linestyle=":", linewidth=1.2)
            axes.annotate(
                label, (mark, 1), (3, -9), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=8, color=INK,
            )  # fmt: skip
        if weights is None:
            axes.set_yticks([])
            axes.set_ylim(0, 1.3)
        else:
            axes.set_yscale("log")
            axes.set_ylabel("weight", color=INK)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
    rows[-1][0].set_xlabel(xlabel, color=INK)
    low = min(axes.get_xlim()[0] for [axes] in rows)
    high = max(axes.get_xlim()[1] for [axes] in rows)
    for [axes] in rows:
        axes.set_xlim(low, high)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    style_axes(axes)
    for number, (name, (x, y)) in enumerate(panel.series.items()):
        colour, _, marker = SERIES[number % len(SERIES)]
        dash = "none" if name in panel.only_marks else _DASHES[number % len(_DASHES)]
        # On a long line markers would hide it: about a dozen tell the series apart as well.
        every = max(1, len(x) // 12)
        axes.plot(
            x, y, color=colour, linestyle=dash, marker=marker, markersize=4.5, markevery=every,
            label=name,
        )  # fmt: skip
    for label, level in (panel.levels or {}).items():
        axes.axhline(level, color=INK, linestyle=":", linewidth=1.2, label=label)
    if "x" in panel.log:
        axes.set_xscale("log")
    if "y" in panel.log:
        axes.set_yscale("log")
    axes.set_xlabel(panel.xlabel, color=INK)
    axes.set_ylabel(panel.ylabel, color=INK)
    if panel.title:
        axes.set_title(panel.title, fontsize=10, color=INK)
    axes.legend(frameon=False, fontsize=8)
