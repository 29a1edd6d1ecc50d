"""The linear system of implicit differentiation, M w = P u."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from ibau_lite.hypergrad._gradient_graph import (
    GradientGraph,
    Objective,
    Parameters,
    check_reach,
)
from ibau_lite.sets import INTERIOR, Constraint
from ibau_lite.solvers import MatVec, Solution

Solver = Callable[[MatVec, Tensor], Solution]
"""(matvec, b) -> Solution, e.g. ``ConjugateGradient(max_iter=5)``."""

Sense = Literal["max", "min"]
"""What δ does to `inner`."""


def sign_of(sense: Sense) -> float:
    """s with f = s · inner the function that δ maximises."""
    if sense not in ("max", "min"):
        raise ValueError(f"sense = {sense!r}; expected 'max' or 'min': what δ does to inner")
    return 1.0 if sense == "max" else -1.0


class ImplicitSystem:
    r"""M = P (λI - s∇₁² inner) P at (δ, θ), with P and λ from the constraint (I and 0 without one).

    .. math:: \nabla\delta(\theta)^\top u = s\,\nabla^2_{21}\mathrm{inner}\; P\, M^{+} P\, u, \qquad
              s = +1 \text{ (max)},\ -1 \text{ (min)} .

    The sign makes M positive definite at a strict optimum of either sense, which is what
    `FixedPoint` and `ConjugateGradient` need; ∇δ does not depend on it. ``hessian`` replaces the
    products with ∇₁² inner, e.g. by those of `gauss_newton`. Raises ValueError for an `inner` that
    reaches no entry of θ, TypeError for a constraint without a tangent, and as `GradientGraph`.
    """

    def __init__(
        self,
        inner: Objective,
        delta: Tensor,
        theta: Mapping[str, Tensor],
        *,
        sense: Sense = "max",
        constraint: Constraint | None = None,
        hessian: Callable[[Tensor], Tensor] | None = None,
        theta_gradient: bool = False,
    ) -> None:
        self.sign = sign_of(sense)
        self.graph = GradientGraph(inner, delta, theta, theta_gradient=theta_gradient)
        check_reach(self.graph.reaches_theta, "inner(delta, theta)")
        self.tangent = INTERIOR
        if not (constraint is None or hasattr(constraint, "tangent")):
            raise TypeError(
                "constraint is a set of ibau_lite.sets, as L2Ball(4.0), or None, "
                f"got {constraint!r}"
            )
        if constraint is not None:
            self.tangent = constraint.tangent(delta.detach(), self.sign * self.graph.gradient)
        self._hessian = hessian or self.graph.hessian

    def matvec(self, v: Tensor) -> Tensor:
        """M v, of the shape of δ."""
        v = self.tangent.project(v)
        return self._shifted(v, self._hessian(v))

    def solve(self, solver: Solver, u: Tensor) -> Solution:
        """w with M w ≈ P u. ValueError where u has not the shape of δ; TypeError for no
        Solution."""
        if u.shape != self.graph.delta.shape:
            expected = tuple(self.graph.delta.shape)
            raise ValueError(
                f"the vector has shape {tuple(u.shape)}; expected {expected}, as delta"
            )
        b = self.tangent.project(u)
        b = self.tangent.project(b)  # again: where u is almost normal the first leaves its rounding
        solution = solver(self.matvec, b)
        if not isinstance(solution, Solution):
            raise TypeError(f"solver gave {type(solution).__name__}; expected a Solution")
        return solution

    def pull(
        self, u: Tensor, w: Tensor, *, certify: bool = True
    ) -> tuple[Parameters, Tensor | None]:
        """(s B P w, ‖P u - M w‖/‖P u‖): the response and its true residual, in one last pass.

        ``certify=False`` leaves the residual out: None, for about half a product less.
        """
        w = self.tangent.project(w)
        if not certify:
            return self._signed(self.graph.mixed(w, keep=False)), None
        image, mixed = self.graph.pull(w, keep=False)
        target = self.tangent.project(u)
        size = torch.linalg.vector_norm(target)
        error = torch.linalg.vector_norm(target - self._shifted(w, image))
        return self._signed(mixed), error / torch.where(size > 0, size, 1.0)

    def _signed(self, mixed: Parameters) -> Parameters:
        return {name: self.sign * b for name, b in mixed.items()}

    def _shifted(self, v: Tensor, image: Tensor) -> Tensor:
        return self.tangent.project(self.tangent.multiplier * v - self.sign * image)
