"""The Lanczos process: extreme eigenvalues, and a low-rank model of any symmetric operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ibau_lite.solvers._low_rank import LowRank
from ibau_lite.solvers._system import MatVec


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
