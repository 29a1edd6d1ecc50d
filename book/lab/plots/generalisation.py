"""Figures of generalisation: bounds term by term, laws on logarithmic axes, gaps of many draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ibau_lite.plots.style import INK, SERIES, new_figure, style_axes

from .looks import check, label, look

_TERMS = ("empirical", "complexity", "confidence")


def bound_terms(
    panels: Mapping[str, Sequence[Mapping[str, Any]]], over: str, *, xlabel: str
) -> Figure:
    """Stack the three terms of a bound for each row, with what was measured; a panel a name.

    A row holds `empirical`, `complexity`, `confidence`, the measured `left`, and its setting under
    the key `over`. Above the dotted line at 1 a bound is empty. Raises `ValueError` for no rows.
    """
    check(panels, "row")
    # One below the other: side by side, three would be too small to read on a phone.
    figure, column = new_figure(len(panels), 1, 6.4, 1.0 + 2.1 * len(panels))
    axes = [place for [place] in column]
    top = 1.0
    for place, (title, rows) in zip(axes, panels.items(), strict=True):
        style_axes(place)
        x, bottom = range(len(rows)), [0.0] * len(rows)
        for term, (colour, hatch, _) in zip(_TERMS, SERIES):  # noqa: B905
            heights = [row[term] for row in rows]
            place.bar(
                x, heights, 0.62, bottom, label=term, color=colour, hatch=hatch,
                edgecolor="white", linewidth=0,
            )  # fmt: skip
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        top = max(top, *bottom)
        place.plot(
            x, [row["left"] for row in rows], "D", color=INK, markersize=6,
            markeredgecolor="white", label="measured",
        )  # fmt: skip
        place.axhline(1, color=INK, linestyle=":", linewidth=1.2)
        place.set_xticks(x, [f"{row[over]:g}" for row in rows])
        label(place, title=title)
    for place in axes:
        place.set_ylim(-0.04 * top, 1.05 * top)  # one scale, and room for a measurement of zero
    axes[-1].set_xlabel(xlabel, color=INK)
    axes[len(axes) // 2].set_ylabel("probability of an error, and its bound", color=INK)
    _legend(axes[0])
    return figure


def laws(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    slope: float | None = None,
) -> Figure:
    """Curves of positive numbers on two logarithmic axes, where a power law is a straight line.

    With `slope` a dotted line of that slope starts at the first point of the first series. Raises
    `ValueError` for a series of another length or a number that is not positive.
    """
    for name, values in series.items():
        if len(values) != len(x) or not all(value > 0 for value in values):
            raise ValueError(f"series[{name!r}]: {len(x)} positive numbers are expected")
    figure, [[place]] = new_figure(1, 1, 5.4, 3.4)
    style_axes(place, grid="both")
    for number, (name, values) in enumerate(series.items()):
        place.plot(x, values, label=name, **look(number))
    if slope is not None:
        first = next(iter(series.values()))[0]
        line = [first * (value / x[0]) ** slope for value in x]
        place.plot(x, line, ":", color=INK, linewidth=1.2, label=f"slope {slope:g}")
    place.set(xscale="log", yscale="log")
    _readable(place.xaxis, x)
    _readable(place.yaxis, [value for values in series.values() for value in values])
    label(place, xlabel, ylabel)
    _legend(place)
    return figure


def gaps(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Each draw's gap, population minus sample, in order, below the gap that its bound allows.

    A row holds `left`, `sample_error` and `total`. A circle above its square would be a failure of
    the theorem, a circle above zero is one of a bound without penalty. Raises `ValueError` for no
    rows.
    """
    if not rows:
        raise ValueError("rows: at least one draw is expected, got none")
    pairs = sorted((r["left"] - r["sample_error"], r["total"] - r["sample_error"]) for r in rows)
    figure, [[place]] = new_figure(1, 1, 5.4, 3.4)
    style_axes(place)
    for number, name in enumerate(("measured gap", "allowed gap")):
        style = look(number) | {"linestyle": "", "markersize": 4}
        place.plot([pair[number] for pair in pairs], label=name, **style)
    place.axhline(0, color=INK, linewidth=1.0)
    label(place, "samples, in order of their gap", "error: population − sample")
    _legend(place)
    return figure


def orders(
    groups: Mapping[str, Sequence[tuple[float, float]]], *, xlabel: str, ylabel: str
) -> Figure:
    """Points (x, y), a marker and a colour for each group, x on a logarithmic axis.

    Raises `ValueError` for no points, or an x that is not positive and finite.
    """
    all_x = [x for group in groups.values() for x, _ in group]
    if not all_x or not all(0 < x < math.inf for x in all_x):
        raise ValueError("groups: points with a positive finite x are expected")
    figure, [[place]] = new_figure(1, 1, 5.4, 3.6)
    style_axes(place, grid="both")
    for number, (name, group) in enumerate(groups.items()):
        style = look(number) | {"linestyle": "", "markersize": 7, "alpha": 0.9}
        place.plot(*zip(*group, strict=True), label=name, **style)
    place.set_xscale("log")
    _readable(place.xaxis, all_x)
    label(place, xlabel, ylabel)
    _legend(place)
    return figure


def _readable(axis: Axis, values: Sequence[float]) -> None:
    """Plain numbers at 1, 2 and 5 of a short logarithmic axis; powers of ten on a long one."""
    if max(values) / min(values) < 500:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.06), ncols=2, frameon=False, fontsize=9)
