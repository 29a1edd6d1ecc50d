"""The fixed-point iteration (Richardson's; a truncated Neumann series)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ibau_lite.solvers._solution import Monitor, Solution, check_settings
from ibau_lite.solvers._system import LinearSystem, MatVec, Vector, dot, norm


@dataclass(frozen=True)
class FixedPoint:
    r"""Solve (A + damping I) x = b by repeating one contraction.

    .. math:: x_{i+1} = x_i + \alpha\,(b - (A + \mu I)\,x_i), \qquad
              x_K = \alpha \sum_{i<K} (I - \alpha (A + \mu I))^i\, b \quad (x_0 = 0).

    With α = ``step`` and μ = ``damping``: of 1/λ, in every eigen-direction, K steps from zero
    recover 1 - (1 - αλ)^K; so they converge exactly when 0 < λ < 2/α for every eigenvalue λ of A +
    μI. K = ``max_iter`` steps from zero cost K - 1 products (the first multiplies a zero), and one
    more for the residual of x_K; ``certify=False`` saves that one, and then nothing is claimed
    about x_K: ``residuals`` ends at x_{K-1}.

    Shapes: ``b``, ``x0`` and what ``matvec`` takes and gives are tensors of one shape, or dicts of
    them; with ``batched`` their first axis numbers independent right-hand sides. ``tol`` is
    relative to ‖b‖.

    Raises ValueError (shapes, ``step`` <= 0, ``max_iter`` < 0, ``tol`` or ``damping`` < 0). Warns
    with `NegativeCurvatureWarning` where a residual shows that A + μI is not positive, and with
    `ConvergenceWarning` where the residual grew, a number is not finite, or ``tol`` was not
    reached.

    Source: Grazzi, Franceschi, Pontil, Salzo 2020, *On the iteration complexity of hypergradient
    computation* (AID-FP); Lorraine, Vicol, Duvenaud 2020 for the Neumann series.
    """

    step: float
    max_iter: int
    tol: float | None = None
    damping: float = 0.0
    certify: bool = True

    def __post_init__(self) -> None:
        check_settings(self)
        if not (self.step > 0 and math.isfinite(self.step)):
            raise ValueError(
                f"step = {self.step!r}; expected a finite number > 0 "
                "(below 2 over the largest eigenvalue)"
            )
        if not self.certify and self.tol is not None:
            raise ValueError(
                "tol is given with certify=False; "
                "a tolerance needs the residual that certify computes"
            )

    def __call__(
        self, matvec: MatVec, b: Vector, *, x0: Vector | None = None, batched: bool = False
    ) -> Solution:
        """x with (A + damping I) x ≈ b."""
        system = LinearSystem(matvec, b, x0=x0, damping=self.damping, batched=batched)
        x, r = system.start()
        watch = Monitor(system, r, max_iter=self.max_iter, tol=self.tol)
        # ⟨r, r - r'⟩ = step ⟨r, (A + damping I) r⟩ up to rounding in the products, of this order:
        rounding = 100 * watch.epsilon * norm(system.b)
        for i in range(self.max_iter):
            if watch.idle():
                break
            x = torch.where(watch.active, x + self.step * r, x)
            if i + 1 == self.max_iter and not self.certify:
                watch.record(None)
                break
            previous, r = r, system.residual(x)
            watch.note(dot(previous, previous - r) < -rounding * norm(previous))
            watch.record(norm(r))
        return watch.conclude(x, "FixedPoint", may_diverge=True)
