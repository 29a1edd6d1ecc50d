"""Conjugate gradients, with a preconditioner and with an eye on the sign of the curvature."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ibau_lite.solvers._solution import Monitor, Solution, check_settings
from ibau_lite.solvers._system import LinearSystem, MatVec, Vector, dot, norm


@dataclass(frozen=True)
class ConjugateGradient:
    r"""Solve (A + damping I) x = b for a symmetric positive definite A + damping I.

    .. math:: x_K = \arg\min_{x \,\in\, x_0 + \mathcal{K}_K}
              \tfrac12 \langle x, (A + \mu I) x\rangle - \langle b, x\rangle, \qquad
              \mathcal{K}_K = \mathrm{span}\{r_0, \dots, (A + \mu I)^{K-1} r_0\},

    so that ‖x_K − x‖ ≤ 2√κ ((√κ − 1)/(√κ + 1))^K ‖x_0 − x‖ with κ the condition number. K =
    ``max_iter`` iterations cost K products (and one for a warm start ``x0``, and one for each time
    ``tol``, or rounding where there is none, seems to be reached: convergence is only claimed for
    a residual computed from its definition).

    A direction p with ⟨p, (A + μI) p⟩ ≤ 0 ends that right-hand side at the last iterate before p,
    with `NegativeCurvatureWarning`: beyond it the minimum above does not exist. If it is the first
    direction, x = x0.

    The call takes ``preconditioner``: r -> z, an approximation of (A + μI)⁻¹ r that is itself
    symmetric positive definite; one that is not stops the solve in the same way. Shapes, ``x0`` and
    ``batched`` as in `FixedPoint`. Raises ValueError (shapes, ``max_iter`` < 0, ``tol`` or
    ``damping`` < 0). Warns with `ConvergenceWarning` where ``tol`` was not reached or a number
    is not finite.

    Source: Hestenes and Stiefel 1952; the stop at negative curvature: Steihaug 1983.
    """

    max_iter: int
    tol: float | None = None
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(
        self,
        matvec: MatVec,
        b: Vector,
        *,
        x0: Vector | None = None,
        preconditioner: MatVec | None = None,
        batched: bool = False,
    ) -> Solution:
        """x with (A + damping I) x ≈ b."""
        system = LinearSystem(matvec, b, x0=x0, damping=self.damping, batched=batched)
        precondition = system.layout.lift(preconditioner or (lambda r: r), "preconditioner(r)")
        x, r = system.start()
        watch = Monitor(system, r, max_iter=self.max_iter, tol=self.tol)
        z = precondition(r)
        p, rho = z, dot(r, z)
        for _ in range(self.max_iter):
            if watch.idle():
                break
            image = system.apply(p)
            curvature = dot(p, image)
            # Curvature within rounding of none is none; rho <= 0 is the preconditioner's fault.
            watch.halt((curvature <= watch.epsilon * norm(p) * norm(image)) | (rho <= 0))
            alpha = torch.where(watch.active, rho / curvature, 0.0)
            x = x + alpha * p
            r = r - alpha * image
            if watch.claims(norm(r)) is not None:
                r = system.residual(x)
            watch.record(norm(r))
            z = precondition(r)
            rho, previous = dot(r, z), rho
            p = z + torch.where(watch.active, rho / previous, 0.0) * p
        return watch.conclude(x, "ConjugateGradient", recurred=True)
