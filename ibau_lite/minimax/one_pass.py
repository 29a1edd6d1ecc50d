"""The inner loop of the published code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.minimax.ascent import Maximum, starting_point
from ibau_lite.minimax.risk import Risk
from ibau_lite.sets import Region

__all__ = ["OnePass"]


@dataclass(frozen=True)
class OnePass:
    r"""The inner loop of the published code: one optimiser step on each batch of the clean set.

    δ ← δ + `step`·∇₁H_b(δ, θ) from δ = 0 ("sgd"; or Adam with that step), unconstrained on the
    way, then projected to the ball once. One forward and one backward pass over the clean set.
    There is no guarantee that H grows, so the last point is returned, and `values` are H on the
    batches, each before its step. What that δ is worth is not known without another pass: `value`
    is the last of the `values`, and the gap is not computed (NaN). Raises
    `FloatingPointError` where the step is so long that δ or H overflows.

    Source: the code released with Zeng et al. 2022.
    """

    step: float = 10.0
    optimizer: str = "sgd"
    batch_size: int = 100

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', got {self.optimizer!r}")
        if not self.step > 0 or self.batch_size < 1:
            raise ValueError(f"step and batch_size must be positive, got {self}")

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> Maximum:
        """One pass over the images of the risk, in their order, from `start` (zero by default)."""
        delta = starting_point(risk, theta, start).clone()
        kind = torch.optim.SGD if self.optimizer == "sgd" else torch.optim.Adam
        optimizer = kind([delta], lr=self.step, maximize=True)
        values = []
        for first in range(0, len(risk), self.batch_size):
            batch = risk.subset(slice(first, first + self.batch_size))
            value, delta.grad = batch.value_and_gradient(delta, theta)
            optimizer.step()
            values.append(value)
        if not bool(delta.isfinite().all() & values[-1].isfinite()):
            raise FloatingPointError(
                f"δ or H is NaN or infinite after a pass: lower step {self.step:g}"
            )
        delta = ball.project(delta)
        return Maximum(delta, float(values[-1]), torch.stack(values), math.nan, ball)
