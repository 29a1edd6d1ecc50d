r"""The complexity of a linear class with a universal δ, by Monte Carlo and by its bound.

With noise g [n, k] (Gaussian or Rademacher), features X [n, d] and P = I − 11ᵀ/k, Theorem 2 needs

.. math:: \frac1n \mathbf E_g \sup_{\theta, \delta}
          \sum_{i,j} g_{ij}\, \theta_j \cdot (x_i + \delta)
          \;\le\; C \sqrt{k-1}\; \frac{\chi_S + C_\delta}{\sqrt n} ,

the supremum over centred θ with ‖θ‖_F ≤ C and over ‖δ‖ ≤ C_δ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .margins import root_mean_square

__all__ = ["Estimate", "complexity_bound", "complexity_monte_carlo", "supremum"]


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo mean with its standard error."""

    mean: float
    error: float


def supremum(noise: Tensor, features: Tensor, c_delta: float) -> Tensor:
    r"""The supremum above for one draw of the noise and C = 1: sup over θ and δ, exactly.

    With A = P gᵀX and b = P gᵀ1 it is max_δ ‖A + bδᵀ‖_F, a convex function of δ, attained at
    δ = C_δ Aᵀb/‖Aᵀb‖: √(‖A‖²_F + 2C_δ‖Aᵀb‖ + C_δ²‖b‖²).

    `noise` [..., n, k], `features` [n, d] → [...]. Raises `ValueError` for a negative radius.
    """
    if not c_delta >= 0:
        raise ValueError(f"c_delta is a radius >= 0, got {c_delta}")
    centred = noise - noise.mean(-1, keepdim=True)
    a = centred.transpose(-1, -2) @ features
    b = centred.sum(-2)
    along = torch.linalg.vector_norm((b[..., None, :] @ a)[..., 0, :], dim=-1)
    square = a.square().sum((-1, -2)) + 2 * c_delta * along + c_delta**2 * b.square().sum(-1)
    return square.sqrt()


def complexity_monte_carlo(
    features: Tensor,
    classes: int,
    c_delta: float,
    *,
    noise: str = "gaussian",
    draws: int = 200,
    seed: int = 0,
) -> Estimate:
    """(1/n) E sup for C = 1 on this sample, from `draws` draws of the noise.

    `noise` is "gaussian", which the proof uses, or "rademacher". Raises `ValueError` for another,
    fewer than two classes or draws, and as `supremum`.
    """
    if noise not in ("gaussian", "rademacher"):
        raise ValueError(f"noise must be 'gaussian' or 'rademacher', got {noise!r}")
    if classes < 2 or draws < 2:
        raise ValueError(f"at least 2 classes and 2 draws are expected, got {classes}, {draws}")
    generator = torch.Generator().manual_seed(seed)
    features = features.double()
    values = []
    for _ in range(draws):  # one at a time: the noise of all would be [draws, n, k]
        g = torch.randn(len(features), classes, generator=generator, dtype=torch.float64)
        g = g.sign() if noise == "rademacher" else g
        values.append(supremum(g, features, c_delta) / len(features))
    sample = torch.stack(values)
    return Estimate(float(sample.mean()), float(sample.std() / math.sqrt(draws)))


def complexity_bound(features: Tensor, classes: int, c_delta: float) -> float:
    """√(k − 1)·(χ_S + C_δ)/√n: what the Monte Carlo mean may not exceed, for C = 1."""
    reach = root_mean_square(features) + c_delta
    return math.sqrt((classes - 1) / len(features)) * reach
