"""What K steps of the fixed-point iteration make of each eigenvalue (page `neumann.md`)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["filter_factor", "recovered"]


def filter_factor(eigenvalues: Tensor, *, step: float, steps: int, damping: float = 0.0) -> Tensor:
    r"""What the coordinate of b in an eigen-direction is multiplied by, instead of 1/λ.

    .. math:: \phi_K(\lambda) = \alpha \sum_{k<K} (1 - \alpha(\lambda + m))^k
              = \frac{1 - (1 - \alpha(\lambda + m))^K}{\lambda + m},

    with α = `step`, K = `steps`, m = `damping`; αK where λ + m = 0. Same shape as `eigenvalues`.
    Raises `ValueError` for α ≤ 0 or K < 0. `solvers.FixedPoint` is the iteration itself.
    """
    _check(step, steps)
    shifted = eigenvalues.to(torch.float64) + damping
    # expm1 and log1p keep small αλ exact; |1 - αλ| otherwise.
    small = (step * shifted).abs() < 0.5
    safe = torch.where(small, shifted, torch.zeros_like(shifted))
    gentle = -torch.expm1(steps * torch.log1p(-step * safe))
    power = torch.where(small, gentle, 1 - (1 - step * shifted) ** steps)
    zero = (step * shifted).abs() < 1e-290  # where the division below would lose digits
    return torch.where(zero, step * steps, power / torch.where(zero, 1.0, shifted))


def recovered(eigenvalues: Tensor, *, step: float, steps: int) -> Tensor:
    r"""The fraction of 1/λ that K steps give, 1 − (1 − αλ)^K; above 1 or below 0 where they
    diverge."""
    return filter_factor(eigenvalues, step=step, steps=steps) * eigenvalues.to(torch.float64)


def _check(step: float, steps: int) -> None:
    if not step > 0 or steps < 0:
        raise ValueError(f"step = {step}, steps = {steps}; expected step > 0 and steps >= 0")
