"""Pictures of images: a labelled grid, and what a trigger changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ibau_lite.plots.style import INK, SERIES, hide_axes, new_figure

__all__ = ["image_grid", "predictions", "stamping"]

_CELL = 1.15  # inches on a side of one image


def image_grid(images: Tensor, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Show images [N, C, H, W] in [0, 1] row by row, each below its title.

    Raises `ValueError` for no images, a wrong shape or range, another number of titles than images,
    or fewer than one column.
    """
    _check("images", images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"titles: {len(images)} are expected, one an image, got {len(titles)}")
    if columns < 1:
        raise ValueError(f"columns: at least 1 is expected, got {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(title.count("\n") + 1 for title in titles) if titles is not None else 0
    title_height = 0.14 * lines + (0.08 if lines else 0)
    figure, axes = new_figure(rows, columns, _CELL * columns, (_CELL + title_height) * rows)
    for number, place in enumerate(place for row in axes for place in row):
        hide_axes(place)
        if number < len(images):
            _show(place, images[number])
            if titles is not None:
                place.set_title(titles[number], fontsize=8, color=INK)
    return figure


def stamping(clean: Tensor, stamped: Tensor, gain: float = 10.0) -> Figure:
    """Show three rows: the images, the images with the trigger, and `gain` × |difference|.

    Both are [N, C, H, W] in [0, 1]; the third row is cut at 1. Raises `ValueError` for images of
    another shape or range and for a gain that is not positive.
    """
    _check("clean", clean)
    _check("stamped", stamped)
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
        for place, image in zip(row, images, strict=True):
            hide_axes(place)
            _show(place, image)
    return figure


def predictions(
    images: Tensor,
    titles: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    truth: Sequence[str],
) -> Figure:
    """Show images [N, C, H, W] in a row and, below each, what every network reads in it.

    `answers` maps a network's name to its N answers; an answer that is not `truth` gets a cross and
    another colour. Raises `ValueError` for images as `image_grid` does, and for another number of
    titles, answers or truths than images.
    """
    _check("images", images)
    for name, texts in {"titles": titles, "truth": truth, **answers}.items():
        if len(texts) != len(images):
            raise ValueError(f"{name}: {len(images)} are expected, one an image, got {len(texts)}")
    right, wrong = SERIES[0][0], SERIES[1][0]
    side, line = 2.2, 0.24  # inches: one image, one line of text
    height = side + 0.4 + line * len(answers)
    figure, axes = new_figure(1, len(images), 3.6 * len(images), height)
    for number, place in enumerate(axes[0]):
        hide_axes(place)
        _show(place, images[number])
        place.set_title(titles[number], fontsize=11, color=INK)
        for row, (name, texts) in enumerate(answers.items()):
            good = texts[number] == truth[number]
            place.annotate(
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


def _show(axes: Axes, image: Tensor) -> None:
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)


def _check(name: str, images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"{name}: shape [N, 1 or 3, H, W] with N >= 1 is expected, got {list(images.shape)}"
        )
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name}: values in [0, 1] are expected, got {low:g} to {high:g}")
