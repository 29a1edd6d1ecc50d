"""Passes over the clean set: the loop under every defence that trains on shuffled batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds
from ibau_lite.data import LabelledImages
from ibau_lite.protocol import Run, check_finite
from ibau_lite.training import augment, check_total, shuffled_positions

__all__ = ["AdamSteps", "BatchStep", "EpochsConfig", "run_epochs"]

BatchStep = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""`(images, labels)` of a batch → what the step measured, its "loss" among it; θ has moved."""


@dataclass(frozen=True)
class EpochsConfig:
    """What all defences that pass over the clean set can be told: `epochs` passes, in batches.

    `epoch_images`: how many images an epoch passes over, the clean set again and again where it has
    fewer (None: each image once). `flip` mirrors images at random and `shift` moves them by up to
    that many pixels.
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
        if self.epoch_images is not None:
            if self.epoch_images < 1:
                raise ValueError(
                    f"epoch_images must be at least 1 or None, got {self.epoch_images}"
                )
            check_total(self.epoch_images, "epoch_images")
        if self.shift < 0:
            raise ValueError(f"shift is a number of pixels >= 0, got {self.shift}")

    def images_per_epoch(self, count: int) -> int:
        """Images of one pass over a clean set of `count`."""
        return self.epoch_images or count

    def total_batches(self, count: int) -> int:
        """Batches of all passes over a clean set of `count`."""
        return self.epochs * -(-self.images_per_epoch(count) // self.batch_size)


class AdamSteps:
    """Adam with a linearly falling step, the same for all: what differs is the loss alone."""

    def __init__(self, model: nn.Module, config: EpochsConfig, images: int) -> None:
        self._optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        steps = config.total_batches(images)
        self._decay = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, 0.0, steps)

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._decay.step()


def run_epochs(
    model: nn.Module,
    clean: LabelledImages,
    config: EpochsConfig,
    step: BatchStep,
    run: Run,
    *,
    look: Callable[[nn.Module], dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Call `step` on every augmented batch of `config.epochs` shuffled passes.

    Returns the history: one row a pass, means of what the steps measured, and what `look` says of
    the model (`run.evaluate` by default). Batches are in the model's dtype. Raises
    `FloatingPointError` if θ becomes NaN or infinite.
    """
    look = look or run.evaluate
    dtype = next(model.parameters()).dtype
    history: list[dict[str, Any]] = []
    for epoch in tqdm(range(config.epochs), disable=not run.progress, desc=run.name):
        rows = []
        order = shuffled_positions(len(clean), config.images_per_epoch(len(clean)), run.generator)
        for index in order.split(config.batch_size):
            index = index.to(clean.labels.device)
            images = augment(
                clean.images[index], run.generator, flip=config.flip, shift=config.shift
            )
            rows.append(step(images.to(dtype), clean.labels[index]))
        means = {key: float(torch.stack([r[key].detach() for r in rows]).mean()) for key in rows[0]}
        check_finite(model, f"epoch {epoch + 1}", "lower lr")
        history.append({"round": epoch + 1, **means, **look(model)})
    for parameter in model.parameters():
        parameter.grad = None
    return history
