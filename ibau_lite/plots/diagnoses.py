"""The figure of a diagnosis: how far each class stands out, of one network or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ibau_lite.diagnosis import Diagnosis
from ibau_lite.plots.style import FAINT, INK, SERIES, new_figure, style_axes

__all__ = ["class_scores"]

_SHOWN = 20


def class_scores(diagnoses: Mapping[str, Diagnosis], names: Sequence[str]) -> Figure:
    """Draw the score of every class, a marker a network, and the threshold as a line.

    `diagnoses` maps the name of a network to its diagnosis, `names` are the classes. Of more than
    20 classes those with the highest scores in any network are drawn. Raises `ValueError` for no
    diagnosis, and for one with another number of classes than of names.

    >>> import torch
    >>> from ibau_lite.sets import L2Ball
    >>> found = Diagnosis(torch.tensor([[1.0, 1.0, 4.0]]), torch.zeros(1, 3, 8, 8), (L2Ball(1.0),))
    >>> class_scores({"given": found}, ["a", "b", "c"])
    <LineFigure size ... with 1 Axes>
    """
    if not diagnoses:
        raise ValueError("diagnoses: at least one is expected")
    for name, each in diagnoses.items():
        if len(each.scores) != len(names):
            raise ValueError(
                f"diagnoses[{name!r}]: {len(names)} classes are expected, got {len(each.scores)}"
            )
    highest = [max(float(d.scores[k]) for d in diagnoses.values()) for k in range(len(names))]
    ranked = sorted(range(len(names)), key=lambda k: -highest[k])
    shown = sorted(ranked[:_SHOWN])
    figure, [[axes]] = new_figure(1, 1, 4.6, 0.24 * len(shown) + 1.0)
    style_axes(axes, "x")
    axes.axvline(1.0, color=FAINT, linewidth=1.5)
    axes.axvline(next(iter(diagnoses.values())).threshold, color=INK, linestyle=":")
    for number, (name, each) in enumerate(diagnoses.items()):
        colour, _, marker = SERIES[number % len(SERIES)]
        scores = each.scores[shown].tolist()
        axes.plot(scores, range(len(shown)), marker, color=colour, label=name)
    axes.set_yticks(range(len(shown)), [names[k] for k in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("times the median class (dotted: stands out)", color=INK)
    axes.legend(frameon=False)
    return figure
