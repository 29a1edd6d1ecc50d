"""Epochs over the clean set: the loop under every defence that trains on shuffled batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.protocol import Run, check_finite
from ibau_lite.training import augment, check_total, shuffled_positions

__all__ = ["AdamSteps", "BatchStep", "EpochsConfig", "run_epochs"]

BatchStep = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""`(images, labels)` of a batch → what the step measured, its "loss" among it; θ has moved."""


@dataclass(frozen=True)
class EpochsConfig:
    """The settings of all defences that train for `epochs` epochs on the clean set, in batches.

    `epoch_images` is the number of images of an epoch. If the clean set is smaller, it is repeated
    (None: each image once). `flip` mirrors images at random, and `shift` moves them by up to that
    many pixels. Raises `TypeError` or `ValueError` for settings of another kind or outside their
    range.
    """

    epochs: int = 5
    epoch_images: int | None = None
    batch_size: int = 100
    lr: float = 1e-3
    flip: bool = False
    shift: int = 2

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self, epochs="[1, ∞)", epoch_images="[1, ∞)", batch_size="[1, ∞)", lr="(0, ∞)",
            shift="[0, ∞)",
        )  # fmt: skip
        if self.epoch_images is not None:
            check_total(self.epoch_images, "epoch_images")

    def images_per_epoch(self, count: int) -> int:
        """The number of images of one epoch over a clean set of `count`."""
        return self.epoch_images or count

    def total_batches(self, count: int) -> int:
        """The number of batches of all epochs over a clean set of `count`.

        >>> EpochsConfig(epochs=5, batch_size=100).total_batches(250)
        15
        """
        return self.epochs * -(-self.images_per_epoch(count) // self.batch_size)


class AdamSteps:
    """Adam with a linearly falling step, the same for all defences: only the loss differs."""

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
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Call `step` on every augmented batch of `config.epochs` shuffled epochs.

    Returns the history, one row an epoch: the means of what the steps measured, and what `measure`
    gives for the model (default: `run.evaluate`). Batches are in the model's dtype. Raises
    `FloatingPointError` if θ becomes NaN or infinite.
    """
    measure = measure or run.evaluate
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
        history.append({"round": epoch + 1, **means, **measure(model)})
    for parameter in model.parameters():
        parameter.grad = None
    return history
