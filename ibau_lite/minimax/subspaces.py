"""Linear subspaces of the perturbations, and the part of a ball that lies in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite.minimax.ball import Ball

__all__ = ["Blocks", "Subspace", "Window", "Within", "windows"]


@dataclass(frozen=True)
class Window:
    """The δ [C, H, W] that vanish outside a square of `size`×`size` pixels."""

    top: int
    left: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.top < 0 or self.left < 0:
            raise ValueError(f"a window has a size of at least 1 at a corner >= 0, got {self}")

    def __call__(self, delta: Tensor) -> Tensor:
        """P δ, the nearest δ of the subspace."""
        rows, columns = (slice(start, start + self.size) for start in (self.top, self.left))
        kept = torch.zeros_like(delta)
        kept[:, rows, columns] = delta[:, rows, columns]
        return kept


def windows(shape: torch.Size) -> Iterator[Window]:
    """Windows of half the image's side that overlap by half and reach every edge: nine on a square
    image of 8 pixels or more.
    """
    side = max(1, min(shape[-2:]) // 2)
    for top in _starts(shape[-2], side):
        for left in _starts(shape[-1], side):
            yield Window(top, left, side)


def _starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin: from one edge to the other in steps of about side / 2."""
    room = length - side
    gaps = max(1, round(2 * room / side))
    return sorted({round(k * room / gaps) for k in range(gaps + 1)})


@dataclass(frozen=True)
class Blocks:
    """The δ [C, H, W] that are constant on blocks of `size`×`size` pixels (less at the edge)."""

    size: int = 2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a block has a size of at least 1, got {self.size}")

    def __call__(self, delta: Tensor) -> Tensor:
        """P δ, the nearest δ of the subspace: the mean of each block."""
        for axis in (-2, -1):
            block = torch.arange(delta.shape[axis], device=delta.device) // self.size
            shape = list(delta.shape)
            shape[axis] = -(-shape[axis] // self.size)
            ones = torch.ones_like(block, dtype=delta.dtype)  # bincount would wait for the device
            count = delta.new_zeros(shape[axis]).index_add(0, block, ones)
            sums = delta.new_zeros(shape).index_add(axis, block, delta)
            along = count[:, None] if axis == -2 else count
            delta = (sums / along).index_select(axis, block)
        return delta


Subspace = Window | Blocks
"""An orthogonal projection P = Pᵀ = P² of perturbations, called on one."""


@dataclass(frozen=True)
class Within:
    """{δ ∈ V : ‖δ‖₂ ≤ radius}, V a linear subspace: a ball like any other, in fewer dimensions.

    Raises `ValueError` for a ball of another norm, where the projections do not commute.
    """

    ball: Ball
    subspace: Subspace

    def __post_init__(self) -> None:
        if self.ball.norm != "l2":
            raise ValueError(f"within a subspace the norm must be 'l2', got {self.ball.norm!r}")

    @property
    def radius(self) -> float:
        return self.ball.radius

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖₂, a scalar."""
        return self.ball.length(delta)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point: first into the subspace, then to the radius."""
        return self.ball.project(self.subspace(delta))

    def steepest(self, gradient: Tensor) -> Tensor:
        """P g/‖P g‖; zero where P g = 0."""
        return self.ball.steepest(self.subspace(gradient))

    def dual(self, gradient: Tensor) -> Tensor:
        """‖P g‖₂ = max_{u ∈ V, ‖u‖ ≤ 1} ⟨u, g⟩, a scalar."""
        return self.ball.dual(self.subspace(gradient))
