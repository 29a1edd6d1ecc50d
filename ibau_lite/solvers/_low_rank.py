"""A symmetric operator known by a few eigenpairs, and its inverse in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ibau_lite.solvers._solution import Monitor, Solution
from ibau_lite.solvers._system import Layout, LinearSystem, MatVec, Vector


@dataclass(frozen=True, eq=False)
class LowRank:
    r"""Â = U Λ Uᵀ with orthonormal columns in U.

    ``values`` [r], ascending, and ``vectors`` [dim, r]. ``negative_curvature``: A itself showed a
    direction of negative curvature. ``products``: how many products with A it took.
    """

    values: Tensor
    vectors: Tensor = field(repr=False)
    negative_curvature: bool
    products: int

    def __call__(self, v: Tensor) -> Tensor:
        """Â v for v of shape [dim] or [k, dim]."""
        return (v @ self.vectors * self.values) @ self.vectors.T

    def solve(
        self,
        b: Vector,
        *,
        damping: float,
        tol: float | None = None,
        matvec: MatVec | None = None,
        batched: bool = False,
    ) -> Solution:
        r"""Solve (Â + damping I) x = b, without a product with A.

        .. math:: x = U (\Lambda + \mu I)^{-1} U^\top b + \mu^{-1} (b - U U^\top b) .

        ``b``: ``dim`` numbers in any shape. With ``matvec`` the residual reported is that of the
        true operator A + μI, at the price of one product; without, that of the model Â + μI, and so
        says nothing about A. ``tol`` is what the residual is held to. As a solver for
        `hypergradient`: ``lambda matvec, b: model.solve(b, damping=1e-2)``, whose result holds the
        true residual.

        Raises ValueError for ``damping`` <= 0 or another dimension. Warns with
        `NegativeCurvatureWarning` where Â + μI is not positive definite and the residual is not
        small.
        """
        self._check(damping)
        model = LinearSystem(
            matvec or self._lift(b, batched), b, x0=None, damping=damping, batched=batched
        )
        x = self._inverse(model.b, damping)
        watch = Monitor(model, model.b, max_iter=1, tol=tol)
        watch.note((self.values.min() + damping <= 0).expand_as(watch.active))
        watch.record(torch.linalg.vector_norm(model.residual(x), dim=1, keepdim=True))
        if matvec is None:
            model.products = 0
        return watch.conclude(x, "LowRank.solve")

    def preconditioner(self, damping: float, *, batched: bool = False) -> MatVec:
        r"""r -> P⁻¹ r, an approximate inverse of A + damping I for `ConjugateGradient`.

        .. math:: P^{-1} = (\lambda_{\min} + \mu)\, U (\Lambda + \mu I)^{-1} U^\top + I - U U^\top,

        with λ_min the smallest of ``values``. Raises ValueError unless it is positive definite.
        Source: Frangella, Tropp and Udell 2021, eq. (5.3).
        """
        self._check(damping)
        smallest = self.values.min() + damping
        if not bool(smallest > 0):
            raise ValueError(
                f"smallest value + damping = {float(smallest):.3g}; expected > 0, so that the "
                "preconditioner is positive definite"
            )
        weights = smallest / (self.values + damping) - 1

        def apply(r: Vector) -> Vector:
            layout = Layout(r, batched=batched)
            rows = layout.flatten(r, "r")
            return layout.restore(rows + (rows @ self.vectors * weights) @ self.vectors.T)

        return apply

    def _inverse(self, rows: Tensor, damping: float) -> Tensor:
        weights = 1 / (self.values + damping) - 1 / damping
        return rows / damping + (rows @ self.vectors * weights) @ self.vectors.T

    def _lift(self, b: Vector, batched: bool) -> MatVec:
        layout = Layout(b, batched=batched)
        if sum(layout.sizes) != self.vectors.shape[0]:
            raise ValueError(
                f"b has {sum(layout.sizes)} coordinates; expected {self.vectors.shape[0]}"
            )
        return lambda v: layout.restore(self(layout.flatten(v, "v")))

    @staticmethod
    def _check(damping: float) -> None:
        if not (damping > 0 and math.isfinite(damping)):
            raise ValueError(
                f"damping = {damping!r}; a low-rank operator has an inverse only with damping > 0"
            )
