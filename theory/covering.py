r"""From covering numbers to Rademacher complexity, with every constant written out.

A set G ⊂ [0, 1]ⁿ whose coverings in the normalised norm ‖g‖ = (Σgᵢ²/n)^{1/2} have entropy at most
H(u) satisfies, for every J = 0, 1, 2, … and q > 1 and with u_j = q^{−j}/2,

.. math:: \hat{\mathfrak R}(G) \;\le\; u_J
          + \sum_{j=1}^J (1+q)\, u_j \sqrt{\frac{2 H(u_j)}{n}} .
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

__all__ = ["chaining", "combined", "maurey_entropy", "volume_entropy"]

_RATIOS = (2.0, 2.5, 3.0, 3.6, 4.5, 6.0, 8.0)


def maurey_entropy(size: float, radius: float, count: int) -> float:
    r"""ln N ≤ (a/ε)² ln(2p): balls of radius ε that cover a·conv{±V₁, …, ±V_p}, ‖V‖ ≤ 1.

    `size` is a, `radius` ε, `count` p. Zero where one ball is enough. No ceiling: the page shrinks
    Maurey's average a little, which pays for it.
    """
    if radius >= size:
        return 0.0
    return (size / radius) ** 2 * math.log(2 * count)


def volume_entropy(size: float, radius: float, dimension: int) -> float:
    """ln N ≤ d ln(1 + 2a/ε): balls of radius ε that cover the Euclidean ball of radius a in R^d."""
    if radius >= size:
        return 0.0
    return dimension * math.log1p(2 * size / radius)


def combined(terms: Iterable[float]) -> float:
    r"""A = (Σ α_i^{2/3})^{3/2}: the entropy Σ (t_i/ε_i)² is A²/τ² for the best ε with Σ c_iε_i = τ.

    The α_i = c_i t_i. Raises `ValueError` for a negative term.
    """
    terms = list(terms)
    if any(term < 0 for term in terms):
        raise ValueError(f"terms >= 0 are expected, got {terms}")
    largest = max(terms, default=0.0)
    if largest == 0 or math.isinf(largest):
        return largest
    return largest * sum((term / largest) ** (2 / 3) for term in terms) ** 1.5


def chaining(entropy: Callable[[float], float], n: int) -> float:
    """The smallest value of the bound above over J and a few q. Never above 1/2, which is J = 0.

    `entropy` is H. The statement holds for every J and q, so any choice of them is allowed.
    """
    if n < 1:
        raise ValueError(f"n >= 1 is expected, got {n}")
    best = 0.5
    for q in _RATIOS:
        total, u = 0.0, 0.5
        while total < best:
            u /= q
            total += (1 + q) * u * math.sqrt(2 * entropy(u) / n)
            best = min(best, total + u)
            if u < 1e-12:
                break
    return best
