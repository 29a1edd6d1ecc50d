"""The ball of sparse δ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite.kinds import check_kinds

__all__ = ["SparseBall"]


@dataclass(frozen=True)
class SparseBall:
    """{δ : ‖δ‖₁ ≤ radius}, climbed in many entries at once.

    Of two δ of one Euclidean norm the one that changes few entries is the shorter here: a patch
    gets further than a δ that changes every pixel a little. The exact steepest direction of the
    norm is a single entry, which would need as many steps as a trigger has pixels; as in SLIDE the
    direction is the sign of the gradient in the `fraction` of the entries where it is largest.

    Raises `ValueError` unless the radius is positive and finite and the fraction in (0, 1].
    Source: Tramèr and Boneh 2019 (SLIDE); Duchi et al. 2008 (the projection).
    """

    radius: float
    fraction: float = 0.03

    def __post_init__(self) -> None:
        check_kinds(self)
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"radius must be a positive finite number, got {self.radius!r}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction!r}")

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖₁, a scalar."""
        return delta.abs().sum()

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball, arg min_{‖z‖₁ ≤ C} ‖z − δ‖₂: every entry shrinks alike."""
        if bool(self.length(delta) <= self.radius):
            return delta
        # In float32 an entry beyond 2²⁴ radii swallows the others: come nearer first. An entry that
        # is more than the radius below the largest ends at zero either way.
        largest = delta.abs().amax()
        if bool(largest > 1e6 * self.radius):
            floor = (delta.abs() - largest + 4 * self.radius).clamp_min(0)
            delta = delta.sign() * floor
        sizes = delta.abs().flatten().sort(descending=True).values
        shrunk = (sizes.cumsum(0) - self.radius) / torch.arange(
            1, len(sizes) + 1, device=delta.device, dtype=delta.dtype
        )
        kept = int((sizes > shrunk).sum())
        return delta.sign() * (delta.abs() - shrunk[kept - 1]).clamp_min(0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """sign(g) where |g| is largest, of l1 length 1; zero where g = 0."""
        size = gradient.abs().flatten()
        least = size.topk(max(1, int(self.fraction * len(size)))).values[-1]
        sign = gradient.sign() * (gradient.abs() >= least)
        return sign / self.length(sign).clamp_min(1)

    def dual(self, gradient: Tensor) -> Tensor:
        """‖g‖_∞, a scalar."""
        return gradient.abs().amax()
