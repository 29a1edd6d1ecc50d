r"""Margins, the ramp loss, and the form that Theorems 2 and 3 share.

.. math:: \Pr[\arg\max_j f(x+\delta)_j \ne y] \;\le\;
          \underbrace{\hat R_\gamma(\theta, \delta)}_{\text{empirical}}
          + \text{complexity} + \text{confidence}
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Bound",
    "Choice",
    "candidates",
    "confidence",
    "margin_error",
    "margins",
    "ramp_risk",
    "root_mean_square",
]


@dataclass(frozen=True)
class Bound:
    """A margin bound, term by term: `total` = `empirical` + `complexity` + `confidence`.

    `empirical` is what the sample shows (R̂_γ or the ramp risk), `complexity` the price of having
    chosen θ and δ by looking at it, `confidence` the price of being right with probability 1 − ξ.
    """

    empirical: float
    complexity: float
    confidence: float

    @property
    def total(self) -> float:
        """The bound on the probability of an error; it may exceed 1."""
        return self.empirical + self.complexity + self.confidence

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing: every probability is at most 1."""
        return not self.total < 1


@dataclass(frozen=True)
class Choice:
    """A margin γ that was chosen after the fact, and the bound that pays for the choice."""

    gamma: float
    bound: Bound


def candidates(margin: Tensor) -> Tensor:
    """64 margins γ to choose from, evenly spaced by logarithm below the largest that occurs."""
    high = float(margin.abs().max())
    return torch.logspace(-3, 0, 64, dtype=torch.float64) * (high if high > 0 else 1.0)


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    r"""m(x, y) = f(x)_y − max_{j≠y} f(x)_j.

    `scores` [..., n, k] and `labels` int64 [n] give [..., n]. A margin above 0 is a right answer
    whatever becomes of ties. Raises `ValueError` for fewer than two classes, shapes that do not
    fit, or a label that is no class.
    """
    classes = scores.shape[-1]
    if classes < 2:
        raise ValueError(f"scores: at least two classes are expected, got {classes}")
    if labels.shape != scores.shape[-2:-1]:
        raise ValueError(
            f"labels: shape {list(scores.shape[-2:-1])} is expected, got {list(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels: classes 0 to {classes - 1} are expected, got {labels.unique()}")
    mine = labels.expand(scores.shape[:-1])[..., None]
    right = scores.gather(-1, mine)[..., 0]
    return right - scores.scatter(-1, mine, -math.inf).amax(-1)


def margin_error(margin: Tensor, gamma: float = 0.0) -> Tensor:
    r"""R̂_γ = (1/n) Σᵢ 1[mᵢ ≤ γ] over the last axis; at γ = 0 the share of errors, ties counted."""
    if not gamma >= 0:
        raise ValueError(f"gamma is a margin >= 0, got {gamma}")
    return (margin <= gamma).to(margin.dtype).mean(-1)


def ramp_risk(margin: Tensor, gamma: float) -> Tensor:
    r"""(1/n) Σᵢ Φ_γ(mᵢ) with Φ_γ(t) = min(1, max(0, 1 − t/γ)), over the last axis.

    1[t ≤ 0] ≤ Φ_γ(t) ≤ 1[t ≤ γ]: both theorems hold with this in place of R̂_γ, and it is the
    smaller of the two. Raises `ValueError` unless γ > 0.
    """
    _check_positive("gamma", gamma)
    return (1 - margin / gamma).clamp(0, 1).mean(-1)


def confidence(n: int, xi: float, *, empirical: bool = False) -> float:
    r"""√(ln(1/ξ)/(2n)), or 3√(ln(2/ξ)/(2n)) where the complexity is itself read off the sample.

    Source: McDiarmid's inequality, once and twice. Raises `ValueError` unless n >= 1, 0 < ξ < 1.
    """
    if n < 1 or not 0 < xi < 1:
        raise ValueError(f"n >= 1 and 0 < xi < 1 are expected, got n = {n}, xi = {xi}")
    if empirical:
        return 3 * math.sqrt(math.log(2 / xi) / (2 * n))
    return math.sqrt(math.log(1 / xi) / (2 * n))


def root_mean_square(features: Tensor) -> float:
    """χ_S = ((1/n) Σᵢ ‖xᵢ‖²)^{1/2} of features [n, d]."""
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features: [n, d] with n >= 1 is expected, got {list(features.shape)}")
    return float(features.double().square().sum(1).mean().sqrt())


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: a positive finite number is expected, got {value!r}")
