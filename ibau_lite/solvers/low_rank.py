"""A symmetric operator known by a few eigenpairs, and the two ways to find them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ibau_lite.solvers.iterative import (
    Layout,
    LinearSystem,
    MatVec,
    Monitor,
    NegativeCurvatureWarning,
    Solution,
    Vector,
)

__all__ = ["LowRank", "Ritz", "lanczos", "nystrom"]


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


@dataclass(frozen=True, eq=False)
class Ritz(LowRank):
    """Ritz values and vectors of a symmetric operator, with what is known of their error.

    ``errors`` [k]: some eigenvalue of A lies within errors[i] of values[i]. ``weights`` [k], of sum
    one: the squared components of the starting vector, which make Σ weights f(values) the Gauss
    quadrature of ⟨start, f(A) start⟩ (Golub and Meurant 2010).
    """

    errors: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)


def lanczos(
    matvec: MatVec,
    dim: int,
    k: int,
    *,
    start: Tensor | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Ritz:
    r"""The eigenpairs of a symmetric A as far as k products show them.

    .. math:: A Q_k = Q_k T_k + \beta_k\, q_{k+1} e_k^\top, \qquad T_k = S \Theta S^\top:\quad
              \text{values } \Theta,\ \text{vectors } Q_k S,\ \text{errors } \beta_k |S_{k i}| .

    ``matvec`` takes and gives [dim]; the process starts at ``start`` [dim], or at a random
    direction drawn from ``seed``. Every new vector is made orthogonal to all before it, twice, so
    that no eigenvalue is counted again. Fewer than k values come back where the Krylov space ends
    before.

    As a `LowRank` model, A ≈ Q_k T_k Q_kᵀ. ``negative_curvature`` is set where a Ritz value is
    below zero by more than rounding: A then surely has a negative eigenvalue. Raises ValueError
    unless 1 <= k <= dim, for a zero ``start``, and where a product is not finite.

    Source: Lanczos 1950; Paige 1972 for the error bounds; Golub and Van Loan 2013.
    """
    if not 1 <= k <= dim:
        raise ValueError(f"k = {k}; expected 1 <= k <= dim = {dim}")
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(dim, generator=generator, dtype=torch.float64)
        start = draw.to(device, dtype or torch.get_default_dtype())
    size = torch.linalg.vector_norm(start)
    if start.shape != (dim,) or not bool(torch.isfinite(size) & (size > 0)):
        raise ValueError(f"start must be a finite non-zero vector of shape ({dim},)")
    basis = start.new_zeros(k, dim)
    alphas, betas = start.new_zeros(k), start.new_zeros(k)
    basis[0] = start / size
    steps = k
    for j in range(k):
        q = matvec(basis[j]).detach()
        alphas[j] = basis[j] @ q
        for _ in range(2):
            q = q - basis[: j + 1].T @ (basis[: j + 1] @ q)
        betas[j] = torch.linalg.vector_norm(q)
        if not bool(torch.isfinite(betas[j])):
            raise ValueError("matvec gave numbers that are not finite")
        rounding = math.sqrt(dim) * torch.finfo(q.dtype).eps
        if bool(betas[j] <= rounding * (alphas.abs().max() + betas.max())):
            steps = j + 1
            break
        if j + 1 < k:
            basis[j + 1] = q / betas[j]
    return _ritz(basis[:steps], alphas[:steps], betas[:steps])


def _ritz(basis: Tensor, alphas: Tensor, betas: Tensor) -> Ritz:
    """Diagonalise the tridiagonal matrix in the basis [k, dim]."""
    tridiagonal = torch.diag(alphas) + torch.diag(betas[:-1], 1) + torch.diag(betas[:-1], -1)
    values, rotation = torch.linalg.eigh(tridiagonal)
    rounding = len(basis) * torch.finfo(values.dtype).eps * values.abs().max()
    return Ritz(
        values=values,
        vectors=basis.T @ rotation,
        negative_curvature=bool(values[0] < -rounding),
        products=len(basis),
        errors=betas[-1] * rotation[-1].abs(),
        weights=rotation[0].square(),
    )


def nystrom(
    matvec: MatVec,
    dim: int,
    rank: int,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    batched: bool = False,
) -> LowRank:
    r"""The best explanation of A ⪰ 0 by its action on ``rank`` random directions Ω [dim, rank].

    .. math:: \hat A = (A\Omega)\,(\Omega^\top A \Omega)^{+}\,(A\Omega)^\top ,

    exact where A has rank <= ``rank``. It costs ``rank`` products, in one call with rows [rank,
    dim] if ``batched``; otherwise ``matvec`` takes and gives [dim]. Its `LowRank.preconditioner`
    makes conjugate gradients fast on A + μI; its `LowRank.solve` inverts Â + μI without further
    products.

    Where ΩᵀAΩ has negative eigenvalues, A is not positive semi-definite: they are left out, so that
    Â stays so, ``negative_curvature`` is set, and `NegativeCurvatureWarning` says it (use
    `lanczos`). Raises ValueError unless 1 <= rank <= dim, and where a product is not finite.

    Source: Frangella, Tropp and Udell 2021, *Randomized Nyström preconditioning*, algorithm 2.1
    (an eigendecomposition takes the place of the Cholesky factor, which cannot see the sign).
    """
    if not 1 <= rank <= dim:
        raise ValueError(f"rank = {rank}; expected 1 <= rank <= dim = {dim}")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(dim, rank, generator=generator, dtype=torch.float64)
    directions = torch.linalg.qr(draw)[0].to(device, dtype or torch.get_default_dtype())
    images = _images(matvec, directions, batched)

    core = directions.T @ images
    values, basis = torch.linalg.eigh((core + core.T) / 2)
    # The size that algorithm 2.1 takes for rounding, too.
    rounding = math.sqrt(dim) * torch.finfo(images.dtype).eps * torch.linalg.matrix_norm(images, 2)
    negative = bool(values[0] < -rounding)
    if negative:
        warnings.warn(
            "nystrom met negative curvature: the operator is not positive semi-definite, and its "
            "negative part is left out. Use lanczos, or shift the operator",
            NegativeCurvatureWarning,
            stacklevel=2,
        )
    kept = values > rounding
    if not bool(kept.any()):  # nothing above rounding: the zero operator is the best explanation
        return LowRank(torch.zeros_like(values[:1]), directions[:, :1], negative, rank)
    factor = images @ (basis[:, kept] / values[kept].sqrt())  # Â = factor factorᵀ
    vectors, singular, _ = torch.linalg.svd(factor, full_matrices=False)
    return LowRank(singular.square().flip(0), vectors.flip(1), negative, rank)


def _images(matvec: MatVec, directions: Tensor, batched: bool) -> Tensor:
    """A Ω, checked."""
    rows = directions.T.contiguous()
    images = matvec(rows) if batched else torch.stack([matvec(row) for row in rows])
    if images.shape != rows.shape:
        raise ValueError(f"matvec gave {tuple(images.shape)} for {tuple(rows.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("matvec gave numbers that are not finite")
    return images.detach().T
