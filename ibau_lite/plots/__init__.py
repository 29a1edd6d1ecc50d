"""Figures: every function takes tensors or numbers and returns a matplotlib `Figure`.

Matplotlib is imported when a figure is first asked for, so that the import of this room costs
nothing.

>>> from ibau_lite.plots import curves
>>> curves([0.01, 0.1], {"ASR": [0.2, 0.9]}, xlabel="poisoning rate", logarithmic=True)
<LineFigure size ... with 1 Axes>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibau_lite.plots.confusion import confusion_matrices
    from ibau_lite.plots.diagnoses import class_scores
    from ibau_lite.plots.images import image_grid, predictions, stamping
    from ibau_lite.plots.rates import bars, curves
    from ibau_lite.plots.rounds import delta_and_trigger, per_round, terms
    from ibau_lite.plots.triggers import amplitude_spectrum, gallery

# Figure -> the file that draws it.
_HOME = {
    "bars": "rates",
    "class_scores": "diagnoses",
    "confusion_matrices": "confusion",
    "curves": "rates",
    "delta_and_trigger": "rounds",
    "gallery": "triggers",
    "image_grid": "images",
    "per_round": "rounds",
    "predictions": "images",
    "amplitude_spectrum": "triggers",
    "stamping": "images",
    "terms": "rounds",
}

__all__ = [
    "amplitude_spectrum",
    "bars",
    "class_scores",
    "confusion_matrices",
    "curves",
    "delta_and_trigger",
    "gallery",
    "image_grid",
    "per_round",
    "predictions",
    "stamping",
    "terms",
]


def __getattr__(name: str) -> Any:
    """Import a figure's file on first use; AttributeError if there is no such figure or file."""
    if name in _HOME:
        return getattr(importlib.import_module(f"ibau_lite.plots.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ibau_lite.plots' has no figure {name!r}; there are {__all__}")


def __dir__() -> list[str]:
    """Figures, whether imported yet or not, and the names of the module itself."""
    return sorted({*globals(), *__all__})
