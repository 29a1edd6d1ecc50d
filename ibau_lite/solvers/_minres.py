"""MINRES: the smallest residual in a Krylov space, for symmetric systems of any sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite.solvers._solution import Monitor, Solution, check_settings
from ibau_lite.solvers._system import LinearSystem, MatVec, Vector, dot, norm


@dataclass(frozen=True)
class MINRES:
    r"""Solve (A + damping I) x = b for a symmetric A + damping I, definite or not.

    .. math:: x_K = \arg\min_{x \,\in\, x_0 + \mathcal{K}_K} \|b - (A + \mu I)\,x\|_2 ,

    so that the residual never grows. K = ``max_iter`` iterations cost K products (one more for a
    warm start ``x0``, and one each time ``tol``, or rounding where there is none, seems to be
    reached: convergence is only claimed for a residual computed from its definition). Negative
    curvature is no obstacle here; ``Solution.negative_curvature`` still tells whether a residual r
    with ⟨r, (A + μI) r⟩ < 0 was met.

    A singular system whose b is outside the range ends at a least-squares solution, with
    `ConvergenceWarning`. Shapes, ``batched``, errors and other warnings as in `ConjugateGradient`.

    Source: Paige and Saunders 1975; the test of curvature: Liu and Roosta 2022, *MINRES: from
    negative curvature detection to monotonicity properties*.
    """

    max_iter: int
    tol: float | None = None
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(
        self, matvec: MatVec, b: Vector, *, x0: Vector | None = None, batched: bool = False
    ) -> Solution:
        """x with (A + damping I) x ≈ b."""
        system = LinearSystem(matvec, b, x0=x0, damping=self.damping, batched=batched)
        x, r = system.start()
        watch = Monitor(system, r, max_iter=self.max_iter, tol=self.tol)
        rotations = _Rotations(r)
        for _ in range(self.max_iter):
            if watch.idle():
                break
            tau, direction, negative, singular = rotations.advance(system.apply)
            watch.note(negative)
            watch.exhaust(singular)
            x = torch.where(watch.active, x + tau * direction, x)
            if (rows := watch.claims(rotations.phi)) is not None:
                rotations.restart(rows, system.residual(x))  # should it fall short of the claim
            watch.record(rotations.phi)
        return watch.conclude(x, "MINRES", needs_definite=False, recurred=True)


class _Rotations:
    """The Lanczos process started at r, made triangular by one plane rotation a step."""

    def __init__(self, r: Tensor) -> None:
        self.beta = self.phi = norm(r)
        self.v, self.v_before = _divide(r, self.beta), torch.zeros_like(r)
        self.d = self.d_before = torch.zeros_like(r)
        zero = torch.zeros_like(self.beta)
        self.c, self.s, self.delta, self.epsilon, self.scale = zero - 1, zero, zero, zero, zero

    def restart(self, rows: Tensor, r: Tensor) -> None:
        """Begin anew at the true residual r in these rows."""
        for name, fresh in vars(_Rotations(r)).items():
            setattr(self, name, torch.where(rows, fresh, getattr(self, name)))

    def advance(self, apply: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One product: (length, direction) of the step in x, and the rows that are negative,
        singular."""
        q = apply(self.v)
        alpha = dot(self.v, q)
        q = q - alpha * self.v - self.beta * self.v_before
        beta = norm(q)
        self.scale = torch.maximum(self.scale, (alpha**2 + self.beta**2 + beta**2).sqrt())
        rounding = 10 * torch.finfo(q.dtype).eps * self.scale  # what ‖A‖ eps leaves of a zero

        # The previous rotation acts on the new column of the tridiagonal matrix ...
        delta_two = self.c * self.delta + self.s * alpha
        gamma_one = self.s * self.delta - self.c * alpha
        epsilon = self.s * beta
        negative = self.c * gamma_one > rounding  # ⟨r, A r⟩ = -‖r‖² c γ₁
        # ... and a new one clears the entry below the diagonal.
        gamma = torch.hypot(gamma_one, beta)
        singular = gamma <= rounding
        direction = (self.v - delta_two * self.d - self.epsilon * self.d_before) / gamma
        self.delta, self.epsilon = -self.c * beta, epsilon
        self.c, self.s = gamma_one / gamma, beta / gamma
        tau, self.phi = self.c * self.phi, torch.where(singular, self.phi, self.s * self.phi)

        self.d_before, self.d = self.d, direction
        self.v_before, self.v, self.beta = self.v, _divide(q, beta), beta
        return tau, direction, negative, singular


def _divide(u: Tensor, size: Tensor) -> Tensor:
    """u / ‖u‖, and zero for a zero u."""
    return u / torch.where(size > 0, size, 1.0)
