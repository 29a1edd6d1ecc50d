r"""Theorem 2: what a linear model keeps of a promise made on n images.

For f(x) = θx with centred rows, ‖θ‖_F ≤ C_F, ‖x‖ ≤ χ, with probability at least 1 − ξ, for all such
θ and all ‖δ‖₂ ≤ C_δ at once,

.. math:: \Pr[\arg\max_j(\theta(x+\delta))_j \ne y] \;\le\; \hat R_\gamma(\theta,\delta)
          + 2\sqrt{\pi(k-1)}\;\frac{C_F(\chi + C_\delta)}{\gamma\sqrt n}
          + \sqrt{\frac{\ln(1/\xi)}{2n}} ,

and for k = 2 with 2√2 in place of 2√π.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .margins import Bound, Choice, candidates, confidence, margins, ramp_risk

__all__ = [
    "augmented",
    "augmented_weights",
    "centred",
    "choose_margin",
    "complexity",
    "talk_complexity",
]


def centred(theta: Tensor) -> Tensor:
    """θ_j − (1/k) Σ_l θ_l: the same classifier and the same margins, the smallest norm ‖θ‖_F.

    `theta` [k, d] → [k, d].
    """
    return theta - theta.mean(0, keepdim=True)


def augmented(images: Tensor, centre: float = 0.5) -> Tensor:
    """x̃ = (x − centre, 1): images [n, ...] as features [n, d + 1] that carry a bias.

    The centre is chosen before any image is seen. Around 1/2 an image of d pixels in [0, 1] has
    ‖x̃‖ ≤ √(d/4 + 1), half of what it has around 0.
    """
    flat = images.flatten(1) - centre
    return torch.cat([flat, flat.new_ones(len(flat), 1)], 1)


def augmented_weights(weight: Tensor, bias: Tensor, centre: float = 0.5) -> Tensor:
    """θ̃ = (W, b + centre·W1): θ̃x̃ = Wx + b for `augmented` features; centred over the classes.

    `weight` [k, d] and `bias` [k] → [k, d + 1].
    """
    return centred(torch.cat([weight, (bias + centre * weight.sum(1))[:, None]], 1))


def complexity(
    norm: float, gamma: float, n: int, classes: int, chi: float, c_delta: float
) -> float:
    r"""2√(π(k−1)) C_F (χ + C_δ)/(γ√n); with 2√2 in place of 2√π for two classes.

    `norm` bounds ‖θ‖_F of the centred θ, `chi` the norm of an image (or is χ_S, see the page).
    Raises `ValueError` for a negative number, γ or n that are not positive, or one class.
    """
    if classes < 2 or n < 1 or not gamma > 0:
        raise ValueError(
            "at least two classes, n >= 1 and gamma > 0 are expected, "
            f"got {classes}, {n} and {gamma}"
        )
    if min(norm, chi, c_delta) < 0:
        raise ValueError(f"norm, chi and c_delta must be >= 0, got {norm}, {chi}, {c_delta}")
    constant = 2 * math.sqrt(2.0 if classes == 2 else math.pi * (classes - 1))
    return constant * norm * (chi + c_delta) / (gamma * math.sqrt(n))


def talk_complexity(
    row_norm: float, gamma: float, n: int, classes: int, chi: float, c_delta: float
) -> float:
    """(4k/γ) C_θ (χ + C_δ)/√n: the form with C_θ, a bound on every row ‖θ_j‖₂, as in the talk.

    It follows from `complexity`, since ‖θ‖_F ≤ √k C_θ; it is never the smaller one.
    """
    return 4 * classes * row_norm * (chi + c_delta) / (gamma * math.sqrt(n))


def choose_margin(
    theta: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    chi: float,
    c_delta: float,
    xi: float = 0.05,
    delta: Tensor | None = None,
    gammas: Tensor | None = None,
    ratio: float = 1.1,
) -> Choice:
    r"""The smallest bound over γ for a θ found by training: nothing is fixed beforehand but χ, C_δ.

    The corollary of the page: Theorem 2 for every normalised margin r_m = r₀ ratio^{−m},
    m = 0, 1, …, with ξ_m = ξ/((m+1)(m+2)) and r₀ = √2(χ + C_δ), holds at once. So for any θ ≠ 0 and
    γ > 0, with the first r_m ≤ γ/‖θ‖_F, complexity and confidence are those of r_m and ξ_m.

    Args: `theta` [k, d] (centred here), `features` [n, d], `labels` [n]; `delta` [d] the universal
        perturbation at which the sample is read, 0 by default; `gammas`, the candidates, by default
        `margins.candidates`.
    Raises: `ValueError` for ‖δ‖ > C_δ, an image longer than χ, a ratio <= 1, a θ of zeros, and as
        `margins`, `complexity` and `confidence`.
    """
    theta = centred(theta.double())
    features = features.double()
    norm = float(torch.linalg.vector_norm(theta))
    moved = features if delta is None else features + delta.double()
    _check(norm, features, delta, chi, c_delta, ratio)
    margin = margins(moved @ theta.T, labels)
    n, classes = len(features), len(theta)
    start = math.sqrt(2) * (chi + c_delta)
    best: Choice | None = None
    for gamma in (candidates(margin) if gammas is None else gammas).tolist():
        m = max(0, math.ceil(math.log(start * norm / gamma, ratio)))
        cell = start * ratio**-m  # the largest normalised margin of the grid that γ reaches
        bound = Bound(
            float(ramp_risk(margin, cell * norm)),
            complexity(1.0, cell, n, classes, chi, c_delta),
            confidence(n, xi / ((m + 1) * (m + 2))),
        )
        if best is None or bound.total < best.bound.total:
            best = Choice(gamma, bound)
    assert best is not None
    return best


def _check(
    norm: float, features: Tensor, delta: Tensor | None, chi: float, c_delta: float, ratio: float
) -> None:
    if not (norm > 0 and math.isfinite(norm)):
        raise ValueError(f"theta: a finite θ other than zero is expected, its norm is {norm}")
    if not ratio > 1:
        raise ValueError(f"ratio: a number above 1 is expected, got {ratio}")
    slack = 1 + 1e-9  # of rounding, for points that were projected to the sphere
    longest = float(torch.linalg.vector_norm(features, dim=1).max())
    if longest > chi * slack:
        raise ValueError(f"chi must bound every image: the longest has norm {longest:g} > {chi:g}")
    size = 0.0 if delta is None else float(torch.linalg.vector_norm(delta.double()))
    if size > c_delta * slack:
        raise ValueError(
            f"delta: a norm of at most c_delta = {c_delta:g} is expected, got {size:g}"
        )
