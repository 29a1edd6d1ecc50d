"""Fine-tuning on the clean set: the baseline that every defence must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import AdamSteps, EpochsConfig, run_epochs
from ibau_lite.protocol import Outcome, Run, defense
from ibau_lite.speed import fold_batchnorm

__all__ = ["FineTuningConfig", "fine_tuning"]


@dataclass(frozen=True)
class FineTuningConfig(EpochsConfig):
    """Settings of `fine_tuning`: Adam over `epochs` epochs; all are those of `EpochsConfig`."""


@defense(FineTuningConfig)
def fine_tuning(
    model: nn.Module, clean: LabelledImages, config: FineTuningConfig, run: Run
) -> Outcome:
    """Minimise (1/n) Σ L(f_θ(xᵢ), yᵢ) over the clean set, from the poisoned θ.

    The optimiser is Adam with a linearly falling step. BatchNorm statistics stay frozen, as in
    I-BAU, so that the two differ in nothing but δ. Raises and warns as `ibau` does.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> result = fine_tuning(tiny_network(), tiny_images(), config=FineTuningConfig(epochs=1))
    >>> sorted(result.history[0])
    ['loss', 'round']
    """
    network = fold_batchnorm(model)  # the same function of the same parameters, at less cost
    descend = AdamSteps(model, config, len(clean))

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(network(images), labels)
        descend(loss)
        return {"loss": loss}

    return model, run_epochs(model, clean, config, step, run), {}
