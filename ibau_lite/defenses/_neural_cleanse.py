r"""Neural Cleanse: the class with the smallest inverted trigger is the attacker's.

For every class t, a mask m and a pattern p are sought that send all other images to t,

.. math:: \min_{m, p} \frac1n \sum_i L\big(f((1 - m) \odot x_i + m \odot p), t\big) + c\,\|m\|_1 .

A class whose :math:`\|m\|_1` is an outlier below the median is the target of a backdoor. It is
unlearned by fine-tuning with its inverted trigger and true labels.
Source: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, *Neural Cleanse*, IEEE S&P 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses.detection import ClassTriggers, DetectionConfig, detect_and_unlearn
from ibau_lite.defenses.inversion import Inversion, LossTerm, mask_size
from ibau_lite.defenses.outliers import anomaly_index
from ibau_lite.protocol import Outcome, Run, defense

__all__ = ["NeuralCleanseConfig", "invert_all", "neural_cleanse"]


@dataclass(frozen=True)
class NeuralCleanseConfig(DetectionConfig):
    """Settings of `neural_cleanse`: `search` for the triggers; the rest as in `DetectionConfig`."""

    search: Inversion = Inversion()


@defense(NeuralCleanseConfig, name="Neural Cleanse")
def neural_cleanse(
    model: nn.Module, clean: LabelledImages, config: NeuralCleanseConfig, run: Run
) -> Outcome:
    """Invert a trigger for each class, flag the outliers, unlearn their triggers.

    If no class is flagged, the result is a copy of the model (`details["found"]` is false).
    `details` holds flagged (classes), index and sizes [K] (‖m‖₁ in pixels), success [K], and
    `inverted`, the `InvertedTriggers` with masks and patterns. The history has one row an epoch of
    the removal. Raises and warns as `ibau` does. Raises `ValueError` for fewer than 3 classes.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> config = NeuralCleanseConfig(search=Inversion(steps=3))
    >>> neural_cleanse(tiny_network(), tiny_images(), config=config).details["sizes"].shape
    torch.Size([4])
    """
    search = invert_all(config.search, mask_size, None, run.progress)
    return detect_and_unlearn(model, clean, search, config, run)


def invert_all(
    search: Inversion, penalty: LossTerm, term: LossTerm | None, progress: bool
) -> Callable[[nn.Module, LabelledImages, torch.Generator], ClassTriggers]:
    """The search of Neural Cleanse and TABOR: masks and patterns, compared by their ‖m‖₁."""
    return partial(_invert_all, search, penalty, term, progress)


def _invert_all(
    search: Inversion,
    penalty: LossTerm,
    term: LossTerm | None,
    progress: bool,
    model: nn.Module,
    clean: LabelledImages,
    generator: torch.Generator,
) -> ClassTriggers:
    inverted = search(
        model, clean, penalty=penalty, term=term, generator=generator, progress=progress
    )
    return ClassTriggers(
        inverted.sizes,
        anomaly_index(inverted.sizes),
        inverted.found,
        inverted.stamp,
        {"success": inverted.success, "inverted": inverted},
    )
