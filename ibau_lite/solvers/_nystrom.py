"""Randomised Nyström approximation."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ibau_lite.solvers._low_rank import LowRank
from ibau_lite.solvers._solution import NegativeCurvatureWarning
from ibau_lite.solvers._system import MatVec


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
