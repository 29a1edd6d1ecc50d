"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ibau_lite.plots.style import INK, new_figure, style_axes

__all__ = ["confusion_matrices"]


def confusion_matrices(labels: Tensor, predictions: Mapping[str, Tensor], classes: int) -> Figure:
    """Confusion matrices side by side: which share of each true class is predicted as which class.

    `labels` are int64 [n]; `predictions` maps a title to int64 [n] for the same images. A δ that
    leads all images to one class draws a column. A δ that leads every class to the next draws a
    diagonal beside the main one. A class without images is an empty row. Raises `ValueError` for no
    panels, and for lengths that differ.

    >>> labels = torch.tensor([0, 1, 2, 0])
    >>> confusion_matrices(labels, {"correct": labels, "all 2": torch.full((4,), 2)}, classes=3)
    <LineFigure size ...>
    """
    if not predictions:
        raise ValueError("nothing to draw: predictions is empty")
    figure, (axes,) = new_figure(1, len(predictions), 1.0 + 2.9 * len(predictions), 3.2)
    for ax, (title, predicted) in zip(axes, predictions.items(), strict=True):
        if predicted.shape != labels.shape:
            raise ValueError(
                f"{title}: {list(labels.shape)} predictions expected, got {list(predicted.shape)}"
            )
        pairs = classes * labels.cpu() + predicted.cpu()
        counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).double()
        shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
        drawn = ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        style_axes(ax)
        ax.grid(visible=False)
        ax.set_title(title, fontsize=10, color=INK)
        ax.set_xlabel("predicted class", color=INK)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("true class", color=INK)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85)
    bar.set_label("share of the row", color=INK)
    return figure
