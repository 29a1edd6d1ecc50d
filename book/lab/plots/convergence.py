"""Figures of Theorem 1: errors under their bounds, and spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.figure import Figure

from ibau_lite.plots.style import INK, new_figure, style_axes

from .looks import check, label, look

_FLOOR = 1e-16


def errors_and_bounds(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Measured errors (solid) and their bounds (dashed) over T, one colour for each K.

    `panels` maps a title to rows of `ibau_lab.convergence.grid` that differ in T and K only. Values
    below 1e-16 are drawn there. Raises `ValueError` where there is nothing to draw.
    """
    check(panels, "row")
    figure, [axes] = new_figure(1, len(panels), 4.2 * len(panels), 3.6)
    for place, (title, rows) in zip(axes, panels.items(), strict=True):
        for number, K in enumerate(sorted({row["K"] for row in rows})):
            some = sorted((row for row in rows if row["K"] == K), key=lambda row: row["T"])
            T, style = [row["T"] for row in some], look(number) | {"linestyle": "-"}
            error = [max(_FLOOR, row["error"]) for row in some]
            place.plot(T, error, markersize=4, label=f"K = {K}", **style)
            place.plot(T, [max(_FLOOR, row["bound"]) for row in some], "--", color=style["color"])
        style_axes(place)
        place.set_yscale("log")
        label(place, "T, steps of the inner ascent")
        place.set_title(title, fontsize=10, color=INK, pad=20)
        place.legend(
            frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1)
        )
    axes[0].set_ylabel("error (solid) and bound (dashed)", color=INK)
    return figure


def distributions(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    *,
    xlabel: str = "eigenvalue",
) -> Figure:
    """The estimated fraction of eigenvalues below x, as steps, with a dotted line at zero.

    `panels` maps a title to named spectra, each with ``values`` and ``weights`` as
    `curvature.spectrum` gives them. The axis is linear within ± 0.1, logarithmic beyond.
    The ends are marked: they are what the theorem asks for. Raises `ValueError` for no spectrum.
    """
    check(panels, "spectrum")
    # One below the other: side by side, three would be too small to read on a phone.
    figure, column = new_figure(len(panels), 1, 6.4, 0.4 + 2.3 * len(panels))
    for [place], (title, spectra) in zip(column, panels.items(), strict=True):
        for number, (name, seen) in enumerate(spectra.items()):
            values, weights = zip(*sorted(zip(seen["values"], seen["weights"], strict=True)))  # noqa: B905
            below = [100 * each for each in accumulate(weights)]
            style = look(number) | {"marker": None}
            place.step(values, below, where="post", label=name, **style)
            ends = [values[0], values[-1]], [below[0], below[-1]]
            place.plot(*ends, markersize=5, **(look(number) | {"linestyle": ""}))
        place.axvline(0, color=INK, linestyle=":", linewidth=1.2)
        style_axes(place)
        place.set_xscale("symlog", linthresh=0.1)
        label(place, xlabel if place is column[-1][0] else "", "below (%)", title)
        place.legend(frameon=False, fontsize=8)
    return figure
