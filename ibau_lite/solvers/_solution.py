"""What a solver answers: the vector, the evidence, and a reason in words."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ibau_lite._kinds import checking
from ibau_lite.solvers._system import LinearSystem, Vector, norm


class SolverWarning(UserWarning):
    """The result of a solve may be wrong; `Solution.reason` says why."""


class ConvergenceWarning(SolverWarning):
    """The tolerance was not reached, the iteration diverged, or a number was not finite."""


class NegativeCurvatureWarning(SolverWarning):
    """The operator is not positive definite where the solver needs it to be."""


@dataclass(frozen=True, eq=False)
class Solution:
    """An approximate solution x of (A + damping I) x = b, built like b.

    The rest is computed when it is asked for, from the ``evidence`` of the solve. On an
    accelerator that waits for the device.
    """

    x: Vector
    evidence: Monitor = field(repr=False)

    @property
    def products(self) -> int:
        """How many products with A were paid for."""
        return self.evidence.system.products

    @property
    def iterations(self) -> int:
        """How many steps the longest of the solves took."""
        return int(self.evidence.steps.max())

    @cached_property
    def residuals(self) -> Tensor:
        """‖b - (A + damping I) x_i‖₂ for x_0 … x_iterations: [iterations + 1], or [iterations + 1,
        k] for k right-hand sides."""
        sizes = self.evidence.sizes()
        return sizes if self.evidence.system.layout.batched else sizes[:, 0]

    @property
    def residual(self) -> Tensor:
        """The last of the `residuals`: a scalar, or [k]."""
        return self.residuals[-1]

    @property
    def converged(self) -> bool:
        """Every residual is at most tol·‖b‖ (without a tolerance: ten rounding units times ‖b‖)."""
        return self.evidence.verdict.converged

    @property
    def negative_curvature(self) -> bool:
        """A direction p with ⟨p, (A + damping I) p⟩ <= 0 was met."""
        return bool(self.evidence.negative.any())

    @property
    def reason(self) -> str:
        """Why the solve ended, in words."""
        return self.evidence.verdict.reason


def check_settings(solver: Any) -> None:
    """Raise ValueError where a solve has no meaningful end or no meaning."""
    if not isinstance(solver.max_iter, Integral) or solver.max_iter < 0:
        raise ValueError(f"max_iter = {solver.max_iter!r}; expected an integer >= 0")
    check_tolerance(solver.tol)
    if not (math.isfinite(solver.damping) and solver.damping >= 0):
        raise ValueError(f"damping = {solver.damping}; expected a finite number >= 0")


def check_tolerance(tol: float | None) -> None:
    """Raise ValueError for a tolerance that no residual can be held to."""
    if tol is not None and not 0 <= tol < float("inf"):
        raise ValueError(
            f"tol = {tol!r}; expected None or a finite number >= 0, relative to the norm of b"
        )


@dataclass(frozen=True)
class Verdict:
    """What a solve amounts to, and the warning that it deserves (None: none)."""

    converged: bool
    reason: str
    warning: SolverWarning | None = None


class Monitor:
    """Watches the rows of a solve: which still run, which met negative curvature, which are not
    finite.

    Everything stays on the device. `idle` may wait for it, but only on a CPU (where nothing is to
    be waited for) or when a tolerance was asked for; the `verdict` does wait.
    """

    def __init__(
        self, system: LinearSystem, r: Tensor, *, max_iter: int, tol: float | None
    ) -> None:
        check_tolerance(tol)
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
        may_look = self.tol is not None or (self.active.device.type == "cpu" and checking())
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
        """Build the `Solution`, and warn where it may be wrong (unless within `unchecked`).

        Residuals that `recurred` go on to fall where the true one cannot follow: before such a one
        counts as converged it is computed from its definition, unless a claim (`tol`) did that.
        """
        self.x, self.name, self.recurred = x, name, recurred
        self.needs_definite, self.may_diverge = needs_definite, may_diverge
        if checking() and self.verdict.warning is not None:
            warnings.warn(self.verdict.warning, stacklevel=3)  # the line that called the solver
        self.system.release()  # what A keeps alive is not kept for the sake of the evidence
        return Solution(self.system.layout.restore(torch.where(self.finite, x, torch.nan)), self)

    def sizes(self) -> Tensor:
        """The norms of the residuals: [iterations + 1, k]."""
        self.verdict  # noqa: B018 (it may replace the last one by the true one)
        return torch.stack(self.residuals[: int(self.steps.max()) + 1])[:, :, 0]

    @cached_property
    def verdict(self) -> Verdict:
        """Whether it converged, and why it ended; the device is waited for."""
        steps = int(self.steps.max())
        first = self.residuals[0]
        last = self.residuals[: steps + 1][-1]
        broken = not bool(self.finite.all() and torch.isfinite(self.x).all())
        checked = steps < len(self.residuals)
        converged = checked and not broken and bool((last <= self.bound).all())
        if converged and self.recurred and self.tol is None and steps:
            converged = not self.system.released
            if converged:
                self.residuals[steps] = last = norm(self.system.residual(self.x))
                converged = bool((last <= self.bound).all())
        scale = norm(self.system.b)
        relative = float((last / torch.where(scale > 0, scale, 1.0)).max())
        evidence = f"relative residual {relative:.3g} after {steps} iterations"
        if broken:
            return Verdict(
                False,
                f"not finite: b or a product holds NaN or inf; x is NaN there ({evidence})",
                ConvergenceWarning(f"{self.name}: not finite; x is NaN there"),
            )
        if converged:
            return Verdict(True, f"converged: {evidence}")
        return self._failure(evidence, checked, bool((last > first).any()))

    def _failure(self, evidence: str, checked: bool, grew: bool) -> Verdict:
        """Why a solve with finite numbers did not converge.

        Warnings carry no numbers, so that a solve repeated in a loop is reported once.
        """
        if bool(self.negative.any()) and self.needs_definite:
            return Verdict(
                False,
                f"negative curvature: the operator is not positive definite ({evidence})",
                NegativeCurvatureWarning(
                    f"{self.name} met negative curvature: the operator is not positive definite "
                    "and x is not its solution. Use MINRES, more damping, or the form on the norm "
                    "sphere"
                ),
            )
        if self.may_diverge and grew:
            return Verdict(
                False,
                f"diverging: the residual grew; step is too large for this operator ({evidence})",
                ConvergenceWarning(f"{self.name} diverges: step is too large"),
            )
        if bool(self.exhausted.any()):
            return Verdict(
                False,
                "least squares: the operator is singular and b is not in its range, so that the "
                f"residual cannot vanish ({evidence})",
                ConvergenceWarning(f"{self.name}: singular system; x is a least-squares solution"),
            )
        if self.tol is not None:
            return Verdict(
                False,
                f"tolerance {self.tol:g} not reached: {evidence}, max_iter = {self.max_iter}",
                ConvergenceWarning(f"{self.name} did not reach its tolerance"),
            )
        where = "" if checked else "; the residual is that of the iterate before x"
        return Verdict(False, f"stopped as asked, no tolerance given: {evidence}{where}")
