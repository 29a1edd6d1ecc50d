"""Fine-tuning on the clean set: the baseline that every defence must beat."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from ibau_lite.data import Labelled
from ibau_lite.defenses.protocol import (
    Defended,
    Evaluator,
    check_finite,
    clean_on_device,
    configured,
    private_copy,
)
from ibau_lite.folding import fold_batchnorm
from ibau_lite.training import augment, reshuffled

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
    generator = torch.Generator().manual_seed(seed)
    network = fold_batchnorm(model)  # the same function of the same parameters, at less cost
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    passed = config.passed(len(clean))
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, config.batches(len(clean)))
    dtype = next(model.parameters()).dtype
    history: list[dict[str, Any]] = []
    seconds = 0.0
    for epoch in tqdm(range(config.epochs), disable=not progress, desc="fine-tuning"):
        started, losses = time.perf_counter(), []
        for index in reshuffled(len(clean), passed, generator).split(config.batch_size):
            index = index.to(clean.labels.device)
            images = augment(clean.images[index], generator, flip=config.flip, shift=config.shift)
            loss = F.cross_entropy(network(images.to(dtype)), clean.labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())  # the one wait for the device
        seconds += time.perf_counter() - started
        history.append({"round": epoch + 1, "loss": mean_loss})
        check_finite(model, f"epoch {epoch + 1}", "lower lr")
        if evaluator is not None:
            history[-1].update(evaluator(model))
    optimizer.zero_grad(set_to_none=True)
    return Defended(model, seconds, history)
