"""The system (A + damping I) x = b, seen as rows: one row a right-hand side, one column a
coordinate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Vector = Tensor | dict[str, Tensor]
"""A tensor of any shape, or a dict of tensors: one point of one vector space."""

MatVec = Callable[[Any], Any]
"""v -> A v, on vectors built like b."""


def dot(u: Tensor, v: Tensor) -> Tensor:
    """⟨u, v⟩ row by row: [k, d] × [k, d] -> [k, 1]."""
    return (u * v).sum(dim=1, keepdim=True)


def norm(u: Tensor) -> Tensor:
    """‖u‖₂ row by row: [k, d] -> [k, 1]."""
    return torch.linalg.vector_norm(u, dim=1, keepdim=True)


class Layout:
    """How vectors built like `example` lie in the rows of a matrix [k, d].

    With ``batched`` the first axis of every tensor numbers the k vectors; without it k = 1. A
    single tensor is only viewed, never copied.
    """

    def __init__(self, example: Vector, *, batched: bool = False) -> None:
        parts = example if isinstance(example, dict) else {"": example}
        if not parts or not all(isinstance(part, Tensor) for part in parts.values()):
            raise TypeError(f"expected a tensor or a dict of tensors, got {type(example).__name__}")
        for name, part in parts.items():
            if not part.is_floating_point():
                raise ValueError(
                    f"tensor {name!r} has dtype {part.dtype}; expected a floating dtype"
                )
            if batched and part.ndim == 0:
                raise ValueError(f"tensor {name!r} has no axis to number the right-hand sides with")
        first = next(iter(parts.values()))
        rows = {part.shape[0] for part in parts.values()} if batched else {1}
        kinds = {(part.dtype, part.device) for part in parts.values()}
        if len(rows) > 1 or len(kinds) > 1:
            raise ValueError(
                f"tensors of one vector disagree: rows {rows}, dtype and device {kinds}"
            )
        if not all(part.numel() for part in parts.values()):
            raise ValueError("b is empty; expected at least one coordinate and one right-hand side")
        self.batched = batched
        self.is_dict = isinstance(example, dict)
        self.rows = rows.pop()
        self.dtype, self.device = first.dtype, first.device
        self.shapes = {name: part.shape for name, part in parts.items()}
        self.sizes = [math.prod(shape[batched:]) for shape in self.shapes.values()]

    def flatten(self, vector: Vector, what: str) -> Tensor:
        """Lay `vector` out as [k, d]; ValueError, naming `what`, where it is not built like the
        example."""
        parts = vector if isinstance(vector, dict) else {"": vector}
        found = {name: tuple(part.shape) for name, part in parts.items()}
        wanted = {name: tuple(shape) for name, shape in self.shapes.items()}
        if found != wanted:
            raise ValueError(f"{what} has shape {found or None}; expected {wanted}, as b has")
        flat = [parts[name].detach().reshape(self.rows, -1) for name in self.shapes]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def restore(self, matrix: Tensor) -> Vector:
        """The inverse of `flatten`."""
        if not self.is_dict:
            return matrix.reshape(self.shapes[""])
        pieces = matrix.split(self.sizes, dim=1)
        return {n: p.reshape(s) for (n, s), p in zip(self.shapes.items(), pieces, strict=True)}

    def lift(self, function: MatVec, what: str) -> Callable[[Tensor], Tensor]:
        """The same linear map on matrices [k, d]."""
        return lambda matrix: self.flatten(function(self.restore(matrix)), what)


class LinearSystem:
    """(A + damping I) x = b on rows, counting the products with A that were paid for."""

    def __init__(
        self, matvec: MatVec, b: Vector, *, x0: Vector | None, damping: float, batched: bool
    ) -> None:
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f"damping = {damping}; expected a finite number >= 0")
        self.layout = Layout(b, batched=batched)
        self.b = self.layout.flatten(b, "b")
        self.x0 = None if x0 is None else self.layout.flatten(x0, "x0")
        self.damping = damping
        self.products = 0
        self._matvec: Callable[[Tensor], Tensor] | None = self.layout.lift(matvec, "matvec(x)")

    def apply(self, x: Tensor) -> Tensor:
        """(A + damping I) x: one product."""
        if self._matvec is None:
            raise RuntimeError("the solve has ended, and A is not known any more")
        self.products += 1
        image = self._matvec(x)
        return image + self.damping * x if self.damping else image

    def release(self) -> None:
        """Forget A, which may hold the activations of a network."""
        self._matvec = None

    @property
    def released(self) -> bool:
        return self._matvec is None

    def residual(self, x: Tensor) -> Tensor:
        """b - (A + damping I) x, from its definition: one product."""
        return self.b - self.apply(x)

    def start(self) -> tuple[Tensor, Tensor]:
        """The first iterate and its residual; a start at zero is free, a warm start costs one
        product."""
        if self.x0 is None:
            return torch.zeros_like(self.b), self.b
        return self.x0, self.residual(self.x0)
