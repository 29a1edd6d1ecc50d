"""Figures of images: a grid with titles, what a trigger changes, and what networks predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from ibau_lite.plots.style import INK, SERIES, check_images, hide_axes, new_figure, show_image

__all__ = ["image_grid", "predictions", "stamping"]

_CELL = 1.15  # inches on a side of one image


def image_grid(images: Tensor, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Show images [N, C, H, W] in [0, 1] row by row, each below its title.

    Raises `ValueError` for no images, a wrong shape or range, another number of titles than of
    images, and fewer than one column.

    >>> import torch
    >>> image_grid(torch.rand(3, 3, 8, 8), titles=["a", "b", "c"])
    <LineFigure size ... with 3 Axes>
    """
    check_images("images", images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"titles: {len(images)} are expected, one an image, got {len(titles)}")
    if columns < 1:
        raise ValueError(f"columns: at least 1 is expected, got {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(title.count("\n") + 1 for title in titles) if titles is not None else 0
    title_height = 0.14 * lines + (0.08 if lines else 0)
    figure, axes = new_figure(rows, columns, _CELL * columns, (_CELL + title_height) * rows)
    for number, ax in enumerate(ax for row in axes for ax in row):
        hide_axes(ax)
        if number < len(images):
            show_image(ax, images[number])
            if titles is not None:
                ax.set_title(titles[number], fontsize=8, color=INK)
    return figure


def stamping(clean: Tensor, stamped: Tensor, gain: float = 10.0) -> Figure:
    """Show three rows: the images, the images with the trigger, and `gain` × |difference|.

    Both arguments are [N, C, H, W] in [0, 1]. The third row is cut at 1. Raises `ValueError` for
    images of another shape or range, and for a gain that is not positive.
    """
    check_images("clean", clean)
    check_images("stamped", stamped)
    if clean.shape != stamped.shape:
        raise ValueError(
            f"stamped: the shape of clean, {list(clean.shape)}, is expected, "
            f"got {list(stamped.shape)}"
        )
    if not gain > 0:
        raise ValueError(f"gain: a positive number is expected, got {gain}")
    difference = ((stamped - clean).abs() * gain).clamp(0, 1)
    labels = ("original", "stamped", f"difference × {gain:g}")
    count = len(clean)
    figure, axes = new_figure(3, count, _CELL * count + 0.3, _CELL * 3)
    for row, label, images in zip(axes, labels, (clean, stamped, difference), strict=True):
        row[0].set_ylabel(label, fontsize=9, color=INK)
        for ax, image in zip(row, images, strict=True):
            show_image(ax, image)
    return figure


def predictions(
    images: Tensor,
    titles: Sequence[str],
    predicted: Mapping[str, Sequence[str]],
    truth: Sequence[str],
) -> Figure:
    """Show images [N, C, H, W] in a row and, below each, what every network predicts.

    `predicted` maps the name of a network to its N predictions. A prediction that is not `truth`
    gets a cross and another colour. Raises `ValueError` for images as `image_grid` does, and for
    another number of titles, predictions or truths than of images.
    """
    check_images("images", images)
    for name, texts in {"titles": titles, "truth": truth, **predicted}.items():
        if len(texts) != len(images):
            raise ValueError(f"{name}: {len(images)} are expected, one an image, got {len(texts)}")
    right, wrong = SERIES[0][0], SERIES[1][0]
    side, line = 2.2, 0.24  # inches: one image, one line of text
    height = side + 0.4 + line * len(predicted)
    figure, axes = new_figure(1, len(images), 3.6 * len(images), height)
    for number, ax in enumerate(axes[0]):
        show_image(ax, images[number])
        ax.set_title(titles[number], fontsize=11, color=INK)
        for row, (name, texts) in enumerate(predicted.items()):
            good = texts[number] == truth[number]
            ax.annotate(
                f"{'✓' if good else '✗'} {name}: {texts[number]}",
                (0.5, 0),
                (0, -72 * line * (row + 0.75)),
                xycoords="axes fraction",
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=10,
                color=right if good else wrong,
            )
    return figure
