r"""TABOR: trigger inversion that prefers small, compact triggers which act alone.

It is the loss of Neural Cleanse with six terms in place of :math:`c\,\|m\|_1`,

.. math:: L(f((1 - m) x + m p), t)
    + c\,\big(\lambda_1 E(m) + \lambda_2 E((1 - m) p) + \lambda_3 S(m) + \lambda_4 S((1 - m) p)\big)
    + \lambda_5 L(f((1 - m) x), y) + \lambda_6 L(f(m p), t),

with the elastic net :math:`E(v) = \|v\|_1 + \|v\|_2^2` and the squared variation :math:`S(v) = \sum
(v_{i+1,j} - v_{ij})^2 + \sum (v_{i,j+1} - v_{ij})^2` along both axes.
Source: Guo, Wang, Xing, Du, Song, *TABOR*, arXiv:1908.01763 (2019), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses._neural_cleanse import invert_all
from ibau_lite.defenses.detection import DetectionConfig, detect_and_unlearn
from ibau_lite.defenses.inversion import CandidateTriggers, Inversion, LossTerm
from ibau_lite.protocol import Outcome, Run, defense

__all__ = ["TaborConfig", "elastic_net", "squared_variation", "tabor"]


@dataclass(frozen=True)
class TaborConfig(DetectionConfig):
    """Settings of `tabor`: the search and the six weights λ; the rest is as in `DetectionConfig`.

    Our choice where the paper leaves it open: the first four terms share the weight c, which
    follows the successes as in `Inversion`. The default λ are ours, for masks and patterns in [0,
    1]; c λ₁ starts where c of Neural Cleanse does. `published` gives the λ of the paper, which are
    for patterns from 0 to 255. No factor on λ would translate them, because E mixes a power of one
    and a power of two. Instead the terms of the pattern are evaluated on `pixel_range` · (1 − m) p.
    There the pattern outweighs the mask by far, and masks stay large unless the search is long.
    """

    search: Inversion = Inversion()
    weights: tuple[float, float, float, float, float, float] = (1.0, 0.1, 0.05, 0.01, 0.0, 1e-2)
    pixel_range: float = 1.0

    @classmethod
    def published(cls, **changes: Any) -> TaborConfig:
        """The weights of the published code, for pixels from 0 to 255; c begins at 1."""
        recipe = cls(
            search=Inversion(cost=1.0),
            weights=(1e-6, 1e-5, 1e-7, 1e-8, 0.0, 1e-2),
            pixel_range=255.0,
        )
        return replace(recipe, **changes)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, weights="[0, ∞)", pixel_range="(0, ∞)")
        if len(self.weights) != 6:
            raise ValueError(f"weights: six numbers are expected, got {self.weights}")


@defense(TaborConfig, name="TABOR")
def tabor(model: nn.Module, clean: LabelledImages, config: TaborConfig, run: Run) -> Outcome:
    """Invert a trigger for each class with TABOR's terms, flag outliers, unlearn their triggers.

    Flags, removal, result, `details`, errors and warnings are those of `neural_cleanse`: the two
    differ only in the terms. The paper's own metric weighs size, success and sparsity. One rule for
    both keeps the comparison about the triggers.
    """
    search = invert_all(config.search, _penalty(config), _term(config), run.progress)
    return detect_and_unlearn(model, clean, search, config, run)


def elastic_net(values: Tensor) -> Tensor:
    """E(v) = ‖v‖₁ + ‖v‖₂² of each of K tensors [K, …]: [K].

    >>> import torch
    >>> elastic_net(torch.tensor([[3.0, -1.0]])).tolist()
    [14.0]
    """
    flat = values.flatten(1)
    return flat.abs().sum(1) + (flat * flat).sum(1)


def squared_variation(values: Tensor) -> Tensor:
    """S(v): squared differences of neighbours along both axes of K images [K, C, H, W]: [K].

    >>> import torch
    >>> squared_variation(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])).tolist()
    [14.0]
    """
    down, across = values.diff(dim=2), values.diff(dim=3)
    return (down * down).flatten(1).sum(1) + (across * across).flatten(1).sum(1)


def _penalty(config: TaborConfig) -> LossTerm:
    def penalty(candidates: CandidateTriggers) -> Tensor:
        masks = candidates.masks
        outside = config.pixel_range * (1 - masks) * candidates.patterns
        l1, l2, l3, l4, _, _ = config.weights
        return (
            l1 * elastic_net(masks)
            + l2 * elastic_net(outside)
            + l3 * squared_variation(masks)
            + l4 * squared_variation(outside)
        )

    return penalty


def _term(config: TaborConfig) -> LossTerm | None:
    """λ₅, without the trigger's region the images stay what they are; λ₆, it acts on nothing."""
    blocking, alone = config.weights[4:]
    if not (blocking or alone):
        return None

    def term(candidates: CandidateTriggers) -> Tensor:
        total = candidates.masks.new_zeros(len(candidates.masks))
        if blocking:
            rest = (1 - candidates.masks)[:, None] * candidates.images
            labels = candidates.labels.expand(len(total), -1)
            total = total + blocking * _mean_entropy(candidates.logits(rest), labels)
        if alone:  # m p has no image in it: one a class
            trigger = (candidates.masks * candidates.patterns)[:, None]
            targets = candidates.targets[:, None]
            total = total + alone * _mean_entropy(candidates.logits(trigger), targets)
        return total

    return term


def _mean_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy [K] of logits [K, B, classes] and labels [K, B]."""
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return entropy.view(labels.shape).mean(1)
