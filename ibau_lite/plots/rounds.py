"""Figures of unlearning by rounds: ACC and ASR, the two terms, and δ beside the trigger."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ibau_lite.metrics import Report
from ibau_lite.plots.style import INK, SERIES, new_figure, show_image, style_axes

__all__ = ["delta_and_trigger", "per_round", "terms"]

History = Sequence[Mapping[str, Any]]

_PANELS = (("accuracy", "clean accuracy (%)"), ("attack_success_rate", "attack success (%)"))


def per_round(
    histories: Mapping[str, Sequence[History]],
    before: Mapping[str, float] | Report,
    title: str = "",
) -> Figure:
    """ACC and ASR after each round, one line a defence: mean over its runs ± one deviation (band).

    `histories` maps a label to the histories of its runs (one a seed). Each row holds fractions
    under `accuracy` and `attack_success_rate`. `before` holds the same two for round 0, or is a
    `Report`. Raises `ValueError` for no runs, runs of one defence that differ in length, and rows
    without the two.

    >>> runs = [[{"accuracy": 0.9, "attack_success_rate": 0.1}]]
    >>> per_round({"I-BAU": runs}, before={"accuracy": 0.93, "attack_success_rate": 1.0})
    <LineFigure size ... with 2 Axes>
    """
    if not any(histories.values()):
        raise ValueError("histories: at least one run is expected, got none")
    before = asdict(before) if isinstance(before, Report) else before
    rows = [before, *(row for runs in histories.values() for run in runs for row in run)]
    if not all(key in row for row in rows for key, _ in _PANELS):
        raise ValueError(
            "histories, before: accuracy and attack_success_rate are expected in every row; give "
            "the defence an evaluator, as lambda model: metrics.evaluate(model, test, attack)"
        )
    figure, [panels] = new_figure(1, 2, 8, 3.3)
    for panel, (key, name) in zip(panels, _PANELS, strict=True):
        for number, (label, runs) in enumerate(histories.items()):
            _band(panel, number, label, [[before[key], *(row[key] for row in run)] for run in runs])
        _by_round(panel, name)
    panels[1].set_ylim(-4, 104)
    panels[1].legend(frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, color=INK)
    return figure


def terms(histories: Mapping[str, History]) -> Figure:
    """Mean norms of the direct and the indirect term in each round, and the solver's residual.

    `histories` maps a label to one history of `ib.ibau`. The line at a residual of 1 marks a
    solution that is no better than v = 0. Raises `ValueError` if no row has an indirect term.
    """
    rows = {label: [row for row in run if "indirect" in row] for label, run in histories.items()}
    if not any(rows.values()):
        raise ValueError("histories: rows with an indirect term are expected, got none")
    figure, [[norms, residuals]] = new_figure(1, 2, 8, 3.3)
    for number, (label, history) in enumerate(rows.items()):
        _line(norms, number, f"{label}: direct", history, "direct")
        _line(norms, number, f"{label}: indirect", history, "indirect", "--")
        _line(residuals, number, label, history, "residual")
    residuals.axhline(1, color=INK, linestyle=":", linewidth=1.2)
    for panel, name in ((norms, "mean norm of the term"), (residuals, "mean relative residual")):
        _by_round(panel, name)
        panel.set_yscale("log")
        panel.legend(frameon=False, fontsize=8)
    return figure


def delta_and_trigger(
    deltas: Mapping[str, Tensor], trigger: Tensor, image: Tensor | None = None
) -> Figure:
    """Perturbations [C, H, W] beside the trigger that they should recover.

    Grey is zero. A δ is stretched by the factor in its title, so that its largest entry fills the
    range. `trigger` is the stamped minus the clean image, not stretched. With `image` [C, H, W] in
    [0, 1], the second row shows clamp(image + δ, 0, 1) in the original range. Raises `ValueError`
    for shapes that differ.
    """
    shown = {**deltas, "the trigger": trigger}
    shapes = {
        tuple(tensor.shape) for tensor in (*shown.values(), *([] if image is None else [image]))
    }
    if len(shapes) != 1:
        raise ValueError(f"deltas, trigger and image must have one shape, got {sorted(shapes)}")
    rows = 1 if image is None else 2
    figure, axes = new_figure(rows, len(shown), 2.0 * len(shown), 2.15 * rows)
    for column, (label, delta) in enumerate(shown.items()):
        scale = 1.0 if delta is trigger else _stretch(delta)
        title = label if scale == 1 else f"{label} (× {scale:.2g})"
        show_image(axes[0][column], 0.5 + 0.5 * scale * delta)
        axes[0][column].set_title(title, fontsize=9, color=INK)
        if image is not None:
            show_image(axes[1][column], image + delta)
            axes[1][column].set_title("on an image", fontsize=9, color=INK)
    return figure


def _band(axes: Axes, number: int, label: str, runs: Sequence[Sequence[float]]) -> None:
    """Mean over the runs in per cent from round 0 on, and ± one deviation where there are two."""
    colour, _, marker = SERIES[number % len(SERIES)]
    columns = [[100 * value for value in column] for column in zip(*runs, strict=True)]
    means = [statistics.fmean(column) for column in columns]
    spreads = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
    axes.plot(means, color=colour, marker=marker, markersize=5, label=label)
    low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(range(len(means)), low, high, color=colour, alpha=0.18, linewidth=0)


def _line(axes: Axes, number: int, label: str, history: History, key: str, dash: str = "-") -> None:
    colour, _, marker = SERIES[number % len(SERIES)]
    rounds, values = zip(*((row["round"], row[key]) for row in history), strict=True)
    axes.plot(rounds, values, dash, color=colour, marker=marker, markersize=5, label=label)


def _by_round(axes: Axes, name: str) -> None:
    style_axes(axes)
    axes.set_xlabel("round", color=INK)
    axes.set_ylabel(name, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _stretch(delta: Tensor) -> float:
    """The factor, to two digits, that brings the largest entry to 1; 1 for a δ of zeros."""
    largest = float(delta.detach().abs().max())
    return float(f"{1 / largest:.1e}") if largest > 0 and math.isfinite(largest) else 1.0
