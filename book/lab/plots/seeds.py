"""Every seed a dot: what a change of the settings did, next to how much chance does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ibau_lite.plots.style import FAINT, INK, SERIES, new_figure, style_axes

from .looks import legend


def per_row(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    *,
    reference: str | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """Draw a dot for each value and a bar at their mean: panel (x label) → series → row → values.

    All panels share their rows, from top to bottom in the order of the first series of the first
    panel; a row may be missing elsewhere, and one without values keeps its place. `reference` names
    the row whose mean is drawn through the others as a dotted line, `limits` the range of a panel;
    `logarithmic` scales all panels by powers of ten. Raises `ValueError` for no values, and for a
    reference that is no row.
    """
    rows = list(dict.fromkeys(row for data in panels.values() for s in data.values() for row in s))
    if not rows:
        raise ValueError("panels: at least one value is expected, got none")
    if reference is not None and reference not in rows:
        raise ValueError(f"reference: one of the rows {rows} is expected, got {reference!r}")
    figure, axes = new_figure(1, len(panels), 2.2 + 2.6 * len(panels), 1.1 + 0.28 * len(rows))
    for place, (label, series) in zip(axes[0], panels.items(), strict=True):
        style_axes(place, grid="x")
        for number, (name, values) in enumerate(series.items()):
            colour, _, marker = SERIES[number % len(SERIES)]
            off = 0.26 * (number - (len(series) - 1) / 2)
            drawn = {row: dots for row, dots in values.items() if dots}
            for row, dots in drawn.items():
                height, mean = rows.index(row) + off, sum(dots) / len(dots)
                place.plot(
                    dots, [height] * len(dots), marker, color=colour, markersize=4, alpha=0.7,
                    linestyle="", label=name if row == next(iter(drawn)) else None,
                )  # fmt: skip
                place.plot([mean] * 2, [height - 0.13, height + 0.13], color=colour, linewidth=2)
            if reference is not None and reference in drawn:
                centre = sum(values[reference]) / len(values[reference])
                place.axvline(centre, color=colour, linestyle=":", linewidth=1)
        place.set_ylim(len(rows) - 0.5, -0.5)
        for line in range(1, len(rows)):
            place.axhline(line - 0.5, color=FAINT, linewidth=0.4)
        place.set_yticks(range(len(rows)), rows if place is axes[0][0] else [""] * len(rows))
        place.tick_params(axis="y", length=0)
        place.set_xlabel(label, color=INK)
        if logarithmic:
            place.set_xscale("log")
        if limits and label in limits:
            place.set_xlim(*limits[label])
    axes[0][0].legend(
        *legend(axes[0]), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False,
        fontsize=9,
    )  # fmt: skip
    return figure
