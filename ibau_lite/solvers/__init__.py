"""Matrix-free solvers of (A + damping I) x = b for a symmetric A known only by its products.

========================  ==========================  ==========================================
solver                    wants A + damping I to be   what it costs
========================  ==========================  ==========================================
`FixedPoint`              positive, below 2/step      K steps: K - 1 products, one more to check
`ConjugateGradient`       positive definite           K steps: K products
`MINRES`                  symmetric, any sign         K steps: K products
`nystrom` → `LowRank`     positive semi-definite      rank products once, then none
`lanczos` → `Ritz`        symmetric, any sign         k products once, then none
========================  ==========================  ==========================================

The first three hold their settings: equal settings are equal solvers, called as
`MINRES(max_iter=5)(matvec, b)`. Every solve returns a `Solution`: the answer, and how much of an
answer it is.
"""

from __future__ import annotations

from ibau_lite.solvers.iterative import (
    MINRES,
    ConjugateGradient,
    ConvergenceWarning,
    FixedPoint,
    MatVec,
    NegativeCurvatureWarning,
    Solution,
    SolverWarning,
    Vector,
)
from ibau_lite.solvers.low_rank import LowRank, Ritz, lanczos, nystrom

__all__ = [
    "MINRES",
    "ConjugateGradient",
    "ConvergenceWarning",
    "FixedPoint",
    "LowRank",
    "MatVec",
    "NegativeCurvatureWarning",
    "Ritz",
    "Solution",
    "SolverWarning",
    "Vector",
    "lanczos",
    "nystrom",
]
