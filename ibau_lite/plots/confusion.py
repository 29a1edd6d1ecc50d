"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ibau_lite.plots.style import INK, new_figure, style_axes

__all__ = ["confusion_matrices"]


def confusion_matrices(labels: Tensor, answers: Mapping[str, Tensor], classes: int) -> Figure:
    """Confusion matrices side by side: of the images of each true class, the share of each answer.

    `labels` int64 [n]; `answers`, title → int64 [n] of the same images. A δ that leads all images
    to one class draws a column, one that leads every class to the next a diagonal beside the main
    one. A class without images is an empty row. Raises `ValueError` for no panels or lengths that
    differ.
    """
    if not answers:
        raise ValueError("nothing to draw: answers is empty")
    figure, (places,) = new_figure(1, len(answers), 1.0 + 2.9 * len(answers), 3.2)
    for place, (title, given) in zip(places, answers.items(), strict=True):
        if given.shape != labels.shape:
            raise ValueError(
                f"{title}: {list(labels.shape)} answers expected, got {list(given.shape)}"
            )
        pairs = classes * labels.cpu() + given.cpu()
        counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).double()
        shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
        drawn = place.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        style_axes(place)
        place.grid(visible=False)
        place.set_title(title, fontsize=10, color=INK)
        place.set_xlabel("answer", color=INK)
        for axis in (place.xaxis, place.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    places[0].set_ylabel("true class", color=INK)
    bar = figure.colorbar(drawn, ax=places, shrink=0.85)
    bar.set_label("share of the row", color=INK)
    return figure
