"""{δ : ‖δ‖ ≤ C_δ}: where the inner problem looks for δ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite.kinds import check_kinds

__all__ = ["Ball"]


@dataclass(frozen=True)
class Ball:
    """{δ : ‖δ‖ ≤ radius} in the Euclidean ("l2") or the maximum ("linf") norm.

    The radius is in units of pixel values in [0, 1]. Raises `ValueError` unless it is positive and
    finite, and for another norm.
    """

    radius: float
    norm: str = "l2"

    def __post_init__(self) -> None:
        check_kinds(self)
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"radius must be a positive finite number, got {self.radius!r}")
        if self.norm not in ("l2", "linf"):
            raise ValueError(f"norm must be 'l2' or 'linf', got {self.norm!r}")

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖, a scalar."""
        return delta.abs().amax() if self.norm == "linf" else torch.linalg.vector_norm(delta)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball, arg min_{‖z‖ ≤ C} ‖z − δ‖₂; points inside stay."""
        if self.norm == "linf":
            return delta.clamp(-self.radius, self.radius)
        # From so far out that the length overflows, 1/∞ would lead to zero: come nearer first.
        largest = delta.abs().amax()
        far = self.length(delta).isinf() & largest.isfinite()
        delta = delta / torch.where(far, largest / self.radius, 1.0)
        return delta * (self.radius / self.length(delta)).clamp_max(1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """arg max_{‖u‖ ≤ 1} ⟨u, g⟩: g/‖g‖₂, or sign(g); zero where g = 0."""
        if self.norm == "linf":
            return gradient.sign()
        # First by the largest entry: the squares of a gradient of 1e-23 are zero in float32, and
        # the gradients of a network that is sure of itself are that small.
        tiny = torch.finfo(gradient.dtype).tiny
        scaled = gradient / gradient.abs().amax().clamp_min(tiny)
        return scaled / self.length(scaled).clamp_min(tiny)

    def dual(self, gradient: Tensor) -> Tensor:
        """‖g‖_* = max_{‖u‖ ≤ 1} ⟨u, g⟩, a scalar."""
        if self.norm == "linf":
            return gradient.abs().sum()
        return torch.linalg.vector_norm(gradient)
