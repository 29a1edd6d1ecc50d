"""What the figures of records share: how the n-th series looks, and one legend for many panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from ibau_lite.plots.style import INK, SERIES


def look(number: int) -> dict[str, Any]:
    """Colour and marker of a series, and the dash by which neighbours differ in grey, too."""
    colour, _, marker = SERIES[number % len(SERIES)]
    return {"color": colour, "marker": marker, "linestyle": "-" if number % 2 == 0 else "--"}


def label(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Name the axes and the panel."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


def legend(places: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Handles and labels that name each series of these panels once."""
    known: dict[str, Artist] = {}
    for place in places:
        for handle, name in zip(*place.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    return list(known.values()), list(known)


def check(panels: Mapping[str, Any], what: str) -> None:
    """Raise `ValueError` for no panels, or for one that is empty."""
    if not panels or not all(panels.values()):
        raise ValueError(f"panels: at least one {what} for each is expected, got none")
