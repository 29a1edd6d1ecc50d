"""Passes over the clean set: the loop under every defence that trains on shuffled batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite.data import Labelled
from ibau_lite.defenses.protocol import Evaluator, answers, check_finite
from ibau_lite.training import augment, reshuffled

if TYPE_CHECKING:  # the baseline is one of the passes
    from ibau_lite.defenses.fine_tuning import FineTuningConfig

__all__ = ["AdamSteps", "Step", "passes"]

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""`(images, labels)` of a batch → what the step measured, its "loss" among it; θ has moved."""


class AdamSteps:
    """Adam with a linearly falling step, the same for all: what differs is the loss alone."""

    def __init__(self, model: nn.Module, config: FineTuningConfig, images: int) -> None:
        self._optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        steps = config.batches(images)
        self._decay = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, 0.0, steps)

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._decay.step()


def passes(
    model: nn.Module,
    clean: Labelled,
    config: FineTuningConfig,
    step: Step,
    *,
    generator: torch.Generator,
    name: str,
    progress: bool = False,
    evaluator: Evaluator | None = None,
) -> tuple[list[dict[str, Any]], float]:
    """Call `step` on every augmented batch of `config.epochs` shuffled passes.

    Returns the history (one row a pass: means of what the steps measured, and the evaluator's
    answers) and the seconds without the evaluator's. Batches are in the model's dtype. Raises
    `FloatingPointError` if θ becomes NaN or infinite.
    """
    dtype = next(model.parameters()).dtype
    history: list[dict[str, Any]] = []
    seconds = 0.0
    for epoch in tqdm(range(config.epochs), disable=not progress, desc=name):
        started, rows = time.perf_counter(), []
        order = reshuffled(len(clean), config.passed(len(clean)), generator)
        for index in order.split(config.batch_size):
            index = index.to(clean.labels.device)
            images = augment(clean.images[index], generator, flip=config.flip, shift=config.shift)
            rows.append(step(images.to(dtype), clean.labels[index]))
        means = {key: float(torch.stack([r[key].detach() for r in rows]).mean()) for key in rows[0]}
        seconds += time.perf_counter() - started
        history.append({"round": epoch + 1, **means})
        check_finite(model, f"epoch {epoch + 1}", "lower lr")
        history[-1].update(answers(evaluator, model))
    for parameter in model.parameters():
        parameter.grad = None
    return history, seconds
