"""Matrix-free solvers of (A + damping I) x = b for a symmetric A known only by its products.

=====================  ======================  ==============================================
solver                 wants A to be           what it costs
=====================  ======================  ==============================================
`fixed_point`          positive, ‖A‖ < 2/step  K steps: K - 1 products, one more to check
`conjugate_gradient`   positive definite       K steps: K products
=====================  ======================  ==============================================

Every solver returns a `Solution`: the answer, and how much of an answer it is.
"""

from __future__ import annotations

from ibau_lite.solvers._conjugate_gradient import conjugate_gradient
from ibau_lite.solvers._fixed_point import fixed_point
from ibau_lite.solvers._solution import (
    ConvergenceWarning,
    NegativeCurvatureWarning,
    Solution,
    SolverWarning,
)
from ibau_lite.solvers._system import MatVec, Vector

__all__ = [
    "ConvergenceWarning",
    "MatVec",
    "NegativeCurvatureWarning",
    "Solution",
    "SolverWarning",
    "Vector",
    "conjugate_gradient",
    "fixed_point",
]
