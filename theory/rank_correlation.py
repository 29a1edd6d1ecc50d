"""Does a bound order networks as their measured gaps do? Kendall's τ."""

from __future__ import annotations

from torch import Tensor

__all__ = ["kendall"]


def kendall(x: Tensor, y: Tensor) -> float:
    r"""τ = (concordant − discordant)/(n(n−1)/2) over all pairs; a pair tied in x or y counts zero.

    1 if the two orders agree, −1 if one is the reverse of the other, about 0 if they have nothing
    to do with each other. Without ties (1 + τ)/2 of the pairs are ordered alike. Raises
    `ValueError` for fewer than two values or different lengths. Source: Kendall 1938 (τ_a).
    """
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"two vectors of one length >= 2 are expected, got {list(x.shape)} and {list(y.shape)}"
        )
    rises = (x[:, None] - x[None, :]).sign() * (y[:, None] - y[None, :]).sign()
    return float(rises.double().sum()) / (len(x) * (len(x) - 1))
