"""The look of every figure: white paper that is readable on a light and on a dark page.

The ground is opaque, so that ink keeps its contrast in dark mode. The colours are those of Okabe
and Ito, which readers with the common colour deficiencies can tell apart. Beside the colour there
is always a second sign (a hatch, a marker, a dash), so that a grey print shows as much.
"""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

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


class LineFigure(Figure):
    """A figure that a notebook shows as SVG, sharp at every size, unless it holds pictures.

    A notebook asks an object for `_repr_svg_`; a figure of pictures stays a PNG, which is smaller.
    """

    def _repr_svg_(self) -> str | None:
        if any(axes.images for axes in self.axes):
            return None
        text = io.StringIO()
        with plt.rc_context({"svg.hashsalt": "ibau_lite"}):  # one figure, one file
            self.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
        return text.getvalue()


def new_figure(
    rows: int, columns: int, width: float, height: float
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure of `width` × `height` inches with `rows` × `columns` axes.

    It is closed for pyplot, so that a notebook shows it only where a cell returns it.
    """
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout="constrained",
        facecolor=PAPER,
        FigureClass=LineFigure,
    )
    plt.close(figure)
    return figure, [list(row) for row in axes]


def style_axes(axes: Axes, grid: str = "y") -> None:
    """Draw two spines, and faint lines across the values behind the data."""
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)  # type: ignore[arg-type]
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def hide_axes(axes: Axes) -> None:
    """Remove ticks and frame, for pictures."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def show_image(axes: Axes, image: Tensor) -> None:
    """Draw an image [1 or 3, H, W], clipped to [0, 1], without ticks or frame."""
    hide_axes(axes)
    pixels = image.detach().float().clamp(0, 1).cpu().expand(3, -1, -1)
    axes.imshow(pixels.permute(1, 2, 0).numpy())


def check_images(name: str, images: Tensor) -> None:
    """Raise `ValueError` for images other than [N, 1 or 3, H, W] in [0, 1] with N >= 1."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"{name}: shape [N, 1 or 3, H, W] with N >= 1 is expected, got {list(images.shape)}"
        )
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: values in [0, 1] are expected, got {low:g} to {high:g}")
