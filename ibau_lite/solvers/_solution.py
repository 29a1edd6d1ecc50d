"""What a solver answers: the vector, the evidence, and a reason in words."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor

from ibau_lite.replay import recording
from ibau_lite.solvers._system import LinearSystem, Vector, norm


class SolverWarning(UserWarning):
    """The result of a solve may be wrong; `Solution.reason` says why."""


class ConvergenceWarning(SolverWarning):
    """The tolerance was not reached, the iteration diverged, or a number was not finite."""


class NegativeCurvatureWarning(SolverWarning):
    """The operator is not positive definite where the solver needs it to be."""


@dataclass(frozen=True, eq=False)
class Solution:
    """An approximate solution of (A + damping I) x = b.

    ``x`` is built like b. ``residuals`` holds ‖b - (A + damping I) x_i‖₂ for x_0 … x_iterations, of
    shape [iterations + 1], or [iterations + 1, k] for k right-hand sides. ``converged``: every
    residual is at most tol·‖b‖ (without a tolerance: ten rounding units times ‖b‖).
    ``negative_curvature``: a direction p with ⟨p, (A + damping I) p⟩ <= 0 was met. ``products``:
    how many products with A were paid for.
    """

    x: Vector
    iterations: int
    residuals: Tensor = field(repr=False)
    converged: bool
    negative_curvature: bool
    reason: str
    products: int


def check_budget(max_iter: int, tol: float | None) -> None:
    """ValueError where a solve has no meaningful end."""
    if not isinstance(max_iter, Integral) or max_iter < 0:
        raise ValueError(f"max_iter = {max_iter!r}; expected an integer >= 0")
    if tol is not None and not 0 <= tol < float("inf"):
        raise ValueError(
            f"tol = {tol!r}; expected None or a finite number >= 0, relative to the norm of b"
        )


class Monitor:
    """Watches the rows of a solve: which still run, which met negative curvature, which are not
    finite.

    Everything stays on the device; `idle` is the one place that may wait for it, and it does so
    only on a CPU (where nothing is to be waited for) or when a tolerance was asked for.
    """

    def __init__(
        self, system: LinearSystem, r: Tensor, *, max_iter: int, tol: float | None
    ) -> None:
        check_budget(max_iter, tol)
        self.system, self.max_iter, self.tol = system, max_iter, tol
        self.epsilon = torch.finfo(system.b.dtype).eps
        # So close to rounding a recurrence has nothing left to follow, and spoils what it found.
        self.bound = (10 * self.epsilon if tol is None else max(tol, self.epsilon)) * norm(system.b)
        self.residuals = [norm(r)]
        self.finite = torch.isfinite(self.residuals[0])
        self.active = self.finite & (self.residuals[0] > self.bound)
        self.negative = torch.zeros_like(self.active)
        self.exhausted = torch.zeros_like(self.active)
        self.steps = torch.zeros_like(self.active, dtype=torch.long)

    def idle(self) -> bool:
        """No row is running, as far as may be known without waiting for an accelerator."""
        may_look = self.tol is not None or self.active.device.type == "cpu"
        return may_look and not bool(self.active.any())

    def claims(self, size: Tensor) -> Tensor | None:
        """The running rows that claim a residual within the tolerance; None without any, or tol."""
        if self.tol is None:
            return None
        rows = self.active & (size <= self.bound)
        return rows if bool(rows.any()) else None

    def note(self, negative: Tensor) -> None:
        """Remember the running rows where negative curvature shows."""
        self.negative = self.negative | (self.active & negative)

    def halt(self, negative: Tensor) -> None:
        """Leave the running rows with negative curvature as they are from now on."""
        self.note(negative)
        self.active = self.active & ~negative

    def exhaust(self, rows: Tensor) -> None:
        """Leave the running rows whose Krylov space holds nothing more to find."""
        self.exhausted = self.exhausted | (self.active & rows)
        self.active = self.active & ~rows

    def record(self, size: Tensor | None) -> None:
        """Count a step of the running rows and keep the norm of its residual (None: unknown)."""
        self.steps = self.steps + self.active
        if size is None:
            return
        self.residuals.append(torch.where(self.active, size, self.residuals[-1]))
        self.finite = self.finite & torch.isfinite(self.residuals[-1])
        self.active = self.active & self.finite & (self.residuals[-1] > self.bound)

    def conclude(
        self,
        x: Tensor,
        name: str,
        *,
        needs_definite: bool = True,
        may_diverge: bool = False,
        recurred: bool = False,
    ) -> Solution:
        """Build the `Solution`, and warn where it may be wrong; only here is the device waited
        for, and not while its kernels are only recorded (a CUDA graph).

        Residuals that `recurred` go on to fall where the true one cannot follow: before such a one
        counts as converged it is computed from its definition, unless a claim (`tol`) did that.
        """
        if recording():
            return self._unseen(x)
        steps = int(self.steps.max())
        residuals = torch.stack(self.residuals[: steps + 1])[:, :, 0]
        first, last = residuals[0], residuals[-1]
        broken = not bool(self.finite.all() and torch.isfinite(x).all())
        negative = bool(self.negative.any())
        checked = steps < len(self.residuals)
        converged = checked and not broken and bool((last <= self.bound[:, 0]).all())
        if converged and recurred and self.tol is None and steps:
            residuals[-1] = last = norm(self.system.residual(x))[:, 0]
            converged = bool((last <= self.bound[:, 0]).all())
        grew = may_diverge and not broken and bool((last > first).any())
        scale = norm(self.system.b)[:, 0]
        relative = float((last / torch.where(scale > 0, scale, 1.0)).max())
        evidence = f"relative residual {relative:.3g} after {steps} iterations"

        # Warnings carry no numbers, so that a solve repeated in a loop is reported once.
        if broken:
            reason = f"not finite: b or a product holds NaN or inf; x is NaN there ({evidence})"
            self._warn(f"{name}: not finite; x is NaN there", ConvergenceWarning)
        elif converged:
            reason = f"converged: {evidence}"
        elif negative and needs_definite:
            reason = f"negative curvature: the operator is not positive definite ({evidence})"
            self._warn(
                f"{name} met negative curvature: the operator is not positive definite and x is "
                "not its solution. Use minres, more damping, or the form on the norm sphere",
                NegativeCurvatureWarning,
            )
        elif grew:
            reason = (
                f"diverging: the residual grew; step is too large for this operator ({evidence})"
            )
            self._warn(f"{name} diverges: step is too large", ConvergenceWarning)
        elif bool(self.exhausted.any()):
            reason = (
                "least squares: the operator is singular and b is not in its range, so that the "
                f"residual cannot vanish ({evidence})"
            )
            self._warn(
                f"{name}: singular system; x is a least-squares solution", ConvergenceWarning
            )
        elif self.tol is not None:
            reason = f"tolerance {self.tol:g} not reached: {evidence}, max_iter = {self.max_iter}"
            self._warn(f"{name} did not reach its tolerance", ConvergenceWarning)
        else:
            where = "" if checked else "; the residual is that of the iterate before x"
            reason = f"stopped as asked, no tolerance given: {evidence}{where}"
        layout = self.system.layout
        return Solution(
            x=layout.restore(torch.where(self.finite, x, torch.nan)),
            iterations=steps,
            residuals=residuals if layout.batched else residuals[:, 0],
            converged=converged,
            negative_curvature=negative,
            reason=reason,
            products=self.system.products,
        )

    def _unseen(self, x: Tensor) -> Solution:
        """What can be said of a solve whose numbers will be there when it is replayed."""
        layout = self.system.layout
        residuals = torch.stack(self.residuals)[:, :, 0]
        return Solution(
            x=layout.restore(torch.where(self.finite, x, torch.nan)),
            iterations=len(self.residuals) - 1,
            residuals=residuals if layout.batched else residuals[:, 0],
            converged=False,
            negative_curvature=False,
            reason="recorded in a CUDA graph: nothing is known until it is replayed",
            products=self.system.products,
        )

    def _warn(self, message: str, category: type[SolverWarning]) -> None:
        warnings.warn(message, category, stacklevel=4)  # the line that called the solver
