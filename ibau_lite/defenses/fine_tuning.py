"""Fine-tuning on the clean set: the baseline that every defence must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite.data import Labelled
from ibau_lite.defenses.passes import AdamSteps, passes
from ibau_lite.defenses.protocol import (
    Defended,
    Evaluator,
    clean_on_device,
    configured,
    private_copy,
    recast,
)
from ibau_lite.folding import fold_batchnorm
from ibau_lite.kinds import check_kinds
from ibau_lite.streams import stream

__all__ = ["FineTuningConfig", "fine_tuning"]


@dataclass(frozen=True)
class FineTuningConfig:
    """Settings of `fine_tuning`: Adam over `epochs` passes, with flips and shifts.

    `epoch_images`: how many images an epoch passes over, the clean set again and again where it has
    fewer (None: each image once).
    """

    epochs: int = 5
    epoch_images: int | None = None
    batch_size: int = 100
    lr: float = 1e-3
    flip: bool = False
    shift: int = 2

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0:
            raise ValueError(f"epochs, batch_size and lr must be positive, got {self}")
        if self.epoch_images is not None and self.epoch_images < 1:
            raise ValueError(f"epoch_images must be at least 1 or None, got {self.epoch_images}")
        if self.shift < 0:
            raise ValueError(f"shift is a number of pixels >= 0, got {self.shift}")

    def passed(self, count: int) -> int:
        """Images of one pass over a clean set of `count`."""
        return self.epoch_images or count

    def batches(self, count: int) -> int:
        """Batches of all passes over a clean set of `count`."""
        return self.epochs * -(-self.passed(count) // self.batch_size)


@recast
def fine_tuning(
    model: nn.Module,
    clean: Labelled,
    *,
    config: FineTuningConfig | None = None,
    seed: int = 0,
    progress: bool = False,
    evaluator: Evaluator | None = None,
) -> Defended:
    r"""Minimise (1/n) Σ L(f_θ(xᵢ), yᵢ) over the clean set, from the poisoned θ.

    Adam with a linearly falling step; BatchNorm statistics stay frozen, as in I-BAU, so that the
    two differ in nothing but δ. Raises and warns as `ibau` does.
    """
    config = configured(config, FineTuningConfig)
    model = private_copy(model)
    clean = clean_on_device(model, clean, shift=config.shift)
    network = fold_batchnorm(model)  # the same function of the same parameters, at less cost
    descend = AdamSteps(model, config, len(clean))

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(network(images), labels)
        descend(loss)
        return {"loss": loss}

    history, seconds = passes(
        model,
        clean,
        config,
        step,
        generator=stream(seed, "defense", "fine_tuning"),
        name="fine-tuning",
        progress=progress,
        evaluator=evaluator,
    )
    return Defended(model, seconds, history)
