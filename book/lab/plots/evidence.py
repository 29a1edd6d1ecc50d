"""Ours beside the talk's: what each defence costs and leaves, and how that moves with a setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ibau_lite.plots.style import FAINT, INK, SERIES, new_figure, style_axes

from .looks import legend

OURS, TALK = "ours", "the talk"

Point = tuple[float, float]
"""(fraction of accuracy lost, ASR)."""

_STYLE = {OURS: (*SERIES[0][::2], "full", "-"), TALK: (*SERIES[1][::2], "none", "--")}
"""Colour, marker, how it is filled, and dash."""

_COLUMNS = 3


def price(
    panels: Mapping[str, Iterable[tuple[Point | None, Point | None]]],
    *,
    removed: float,
    kept: float,
) -> Figure:
    """ASR over the accuracy lost, a panel a defence; a line joins ours and the talk's of one row.

    A row is (ours, the talk's), either may be missing. All panels share their axes, on which the
    accuracy lost is linear up to 10 points and logarithmic beyond. The shaded
    corner holds what counts as a success: an ASR of at most `removed` at a loss of at most `kept`
    (fractions). Raises `ValueError` for no panels.
    """
    figure, places = _grid(panels)
    for place, (label, rows) in zip(places, panels.items(), strict=True):
        style_axes(place, grid="both")
        corner = Rectangle((-100, -100), 100 + 100 * kept, 100 + 100 * removed)
        corner.set(facecolor="#e4efe9", edgecolor=SERIES[2][0], linewidth=0.8, zorder=0)
        place.add_patch(corner)
        for ours, theirs in rows:
            if ours is not None and theirs is not None:
                (x, y), (u, v) = ours, theirs
                ends = [100 * x, 100 * u], [100 * y, 100 * v]
                place.plot(*ends, color=INK, linewidth=0.6, alpha=0.6, zorder=1)
            for name, point in ((OURS, ours), (TALK, theirs)):
                if point is not None:
                    colour, marker, fill, _ = _STYLE[name]
                    place.plot(
                        100 * point[0], 100 * point[1], marker, color=colour, fillstyle=fill,
                        markersize=5, linestyle="", label=name,
                    )  # fmt: skip
        place.set_title(label, fontsize=10, color=INK)
        place.set_xscale("symlog", linthresh=10, linscale=1.0)
        place.minorticks_off()
        place.set_xticks([-5, 0, 5, 10, 30, 100], ["−5", "0", "5", "10", "30", "100"], fontsize=8)
        place.set(xlim=(-7, 100), ylim=(-5, 105))
    _name_axes(figure, places, "accuracy lost (points)", "ASR (%)")
    return figure


def over_setting(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    *,
    xlabel: str,
    ylabel: str,
    line: float | None = None,
) -> Figure:
    """Fractions over a setting on a logarithmic axis, a panel a defence.

    panel → "ours" or "the talk" → setting → values, one a seed: each is a dot, and a line goes
    through their means. `line` is a dotted level. Raises `ValueError` for no panels.
    """
    figure, places = _grid(panels)
    ticks = sorted({x for panel in panels.values() for runs in panel.values() for x in runs})
    for place, (label, panel) in zip(places, panels.items(), strict=True):
        style_axes(place)
        if line is not None:
            place.axhline(100 * line, color=INK, linestyle=":", linewidth=1)
        for name, runs in panel.items():
            colour, marker, fill, dash = _STYLE[name]
            settings = sorted(x for x in runs if runs[x])
            means = [100 * sum(runs[x]) / len(runs[x]) for x in settings]
            place.plot(settings, means, dash, color=colour, linewidth=1.3)
            for x in settings:
                place.plot(
                    [x] * len(runs[x]), [100 * y for y in runs[x]], marker, color=colour,
                    fillstyle=fill, markersize=5, linestyle="", label=name,
                )  # fmt: skip
        place.set_title(label, fontsize=10, color=INK)
        place.set_xscale("log")
        place.minorticks_off()
        place.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize=8)
    _name_axes(figure, places, xlabel, ylabel)
    return figure


def paths(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, xlabel: str, ylabel: str
) -> Figure:
    """Fractions step by step from 0 on, a line a series: panel → series → values.

    Series of one name look alike in all panels. Raises `ValueError` for no panels.
    """
    figure, places = _grid(panels)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    for place, (label, panel) in zip(places, panels.items(), strict=True):
        style_axes(place)
        for name, values in panel.items():
            colour, _, marker = SERIES[names.index(name) % len(SERIES)]
            dash = ("-", "--", ":")[names.index(name) % 3]
            per_cent = [100 * value for value in values]
            place.plot(per_cent, dash, marker=marker, color=colour, markersize=5, label=name)
        place.set_title(label, fontsize=10, color=INK)
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    places[0].set_ylim(-5, 105)
    _name_axes(figure, places, xlabel, ylabel)
    return figure


def _grid(panels: Mapping[str, object]) -> tuple[Figure, list[Axes]]:
    """As many axes as there are panels, three in a line, with shared ranges."""
    if not panels:
        raise ValueError("panels: at least one defence is expected, got none")
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    width = max(2.5, 7.5 / columns) if columns > 1 else 4.0
    figure, axes = new_figure(
        lines, columns, width * columns, 0.6 + (2.0 if columns > 2 else 2.4) * lines
    )
    places = [place for line in axes for place in line]
    for place in places[1 : len(panels)]:
        place.sharex(places[0])
        place.sharey(places[0])
    for place in places[len(panels) :]:
        place.remove()
    return figure, places[: len(panels)]


def _name_axes(figure: Figure, places: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """The axes named once a figure, and a legend above it that names each series once."""
    figure.supxlabel(xlabel, color=INK, fontsize=10)
    figure.supylabel(ylabel, color=INK, fontsize=10)
    for place in places:
        for spine in place.spines.values():
            spine.set_edgecolor(FAINT)
    known = legend(places)
    if known[0]:
        figure.legend(*known, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
