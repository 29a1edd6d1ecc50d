"""Figures of Theorem 1: errors under their bounds, orders in log-log, spectra."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ibau_lite.plots.style import INK, SERIES, new_figure, style_axes

Curve = tuple[Sequence[float], Sequence[float]]


def errors_and_bounds(
    panels: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    bound: str = "bound",
    floor: float = 1e-16,
) -> Figure:
    """Measured errors (solid) and their bounds (dashed) over T, one colour for each K.

    `panels` maps a title to rows of `ibau_lab.convergence.grid` that differ in T and K only;
    `bound` names the column of the dashed lines, and values below `floor` are drawn there. Raises
    `ValueError` where there is nothing to draw.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels: at least one with at least one row is expected, got none")
    figure, [axes] = new_figure(1, len(panels), 4.2 * len(panels), 3.6)
    for place, (title, rows) in zip(axes, panels.items(), strict=True):
        for number, K in enumerate(sorted({row["K"] for row in rows})):
            some = sorted((row for row in rows if row["K"] == K), key=lambda row: row["T"])
            colour, _, marker = SERIES[number % len(SERIES)]
            T = [row["T"] for row in some]
            error = [max(floor, row["error"]) for row in some]
            place.plot(T, error, color=colour, marker=marker, markersize=4, label=f"K = {K}")
            place.plot(T, [max(floor, row[bound]) for row in some], "--", color=colour)
        style_axes(place)
        place.set_yscale("log")
        place.set_xlabel("T, steps of the inner ascent", color=INK)
        place.set_title(title, fontsize=10, color=INK, pad=20)
        place.legend(
            frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1)
        )
    axes[0].set_ylabel("error (solid) and bound (dashed)", color=INK)
    return figure


def lines(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    xlabel: str,
    ylabel: str,
    xscale: str = "log",
    yscale: str = "log",
    dashed: Collection[str] = (),
) -> Figure:
    """Draw named curves (x, y) in one panel a title; the names in `dashed` without markers.

    Scales are matplotlib's ("log", "linear", "symlog"). Raises `ValueError` where there is nothing
    to draw or where x and y differ in length.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels: at least one with at least one curve is expected, got none")
    figure, [axes] = new_figure(1, len(panels), 4.2 * len(panels), 3.6)
    for place, (title, curves) in zip(axes, panels.items(), strict=True):
        for number, (name, (x, y)) in enumerate(curves.items()):
            if len(x) != len(y):
                raise ValueError(f"{name}: {len(x)} values of x and {len(y)} of y")
            colour, _, marker = SERIES[number % len(SERIES)]
            style = {"linestyle": "--"} if name in dashed else {"marker": marker, "markersize": 4}
            place.plot(x, y, color=colour, label=name, **style)
        style_axes(place)
        place.set_xscale(xscale)
        place.set_yscale(yscale)
        place.set_xlabel(xlabel, color=INK)
        place.set_title(title, fontsize=10, color=INK)
        place.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(ylabel, color=INK)
    return figure


def distributions(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    *,
    xlabel: str = "eigenvalue",
    threshold: float = 0.1,
) -> Figure:
    """The estimated fraction of eigenvalues below x, as steps, with a dotted line at zero.

    `panels` maps a title to named spectra, each with ``values`` and ``weights`` as
    `curvature.spectrum` gives them. The axis is linear within ± `threshold`, logarithmic beyond.
    The ends are marked: they are what the theorem asks for. Raises `ValueError` for no spectrum.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels: at least one with at least one spectrum is expected, got none")
    # One below the other: side by side, three would be too small to read on a phone.
    figure, column = new_figure(len(panels), 1, 6.4, 0.4 + 2.3 * len(panels))
    for [place], (title, spectra) in zip(column, panels.items(), strict=True):
        for number, (name, seen) in enumerate(spectra.items()):
            pairs = sorted(zip(seen["values"], seen["weights"], strict=True))
            values, total, heights = [v for v, _ in pairs], 0.0, []
            for _, weight in pairs:
                total += 100 * weight
                heights.append(total)
            colour, _, marker = SERIES[number % len(SERIES)]
            dash = "-" if number % 2 == 0 else "--"
            place.step(values, heights, dash, where="post", color=colour, label=name)
            ends = [values[0], values[-1]], [heights[0], heights[-1]]
            place.plot(*ends, linestyle="", marker=marker, color=colour, markersize=5)
        place.axvline(0, color=INK, linestyle=":", linewidth=1.2)
        style_axes(place)
        place.set_xscale("symlog", linthresh=threshold)
        place.set_ylabel("below (%)", color=INK)
        place.set_title(title, fontsize=10, color=INK)
        place.legend(frameon=False, fontsize=8)
    place.set_xlabel(xlabel, color=INK)
    return figure
