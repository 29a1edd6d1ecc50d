"""The iterative solvers and what they answer: the vector, the evidence, and a reason in words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "MINRES",
    "ConjugateGradient",
    "ConvergenceWarning",
    "FixedPoint",
    "MatVec",
    "NegativeCurvatureWarning",
    "Solution",
    "SolverWarning",
    "Vector",
]

Vector = Tensor | dict[str, Tensor]
"""A tensor of any shape, or a dict of tensors: one point of one vector space."""

MatVec = Callable[[Any], Any]
"""v -> A v, on vectors built like b."""


@dataclass(frozen=True)
class FixedPoint:
    r"""Solve (A + damping I) x = b by repeating one contraction.

    .. math:: x_{i+1} = x_i + \alpha\,(b - (A + \mu I)\,x_i), \qquad
              x_K = \alpha \sum_{i<K} (I - \alpha (A + \mu I))^i\, b \quad (x_0 = 0).

    With α = ``step`` and μ = ``damping``: of 1/λ, in every eigen-direction, K steps from zero
    recover 1 - (1 - αλ)^K; so they converge exactly when 0 < λ < 2/α for every eigenvalue λ of A +
    μI. K = ``max_iter`` steps from zero cost K - 1 products (the first multiplies a zero), and one
    more for the residual of x_K; ``compute_residual=False`` saves that one, and then nothing is
    claimed about x_K: ``residuals`` ends at x_{K-1}.

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
    compute_residual: bool = True

    def __post_init__(self) -> None:
        check_settings(self)
        if not (self.step > 0 and math.isfinite(self.step)):
            raise ValueError(
                f"step = {self.step!r}; expected a finite number > 0 "
                "(below 2 over the largest eigenvalue)"
            )
        if not self.compute_residual and self.tol is not None:
            raise ValueError(
                "tol is given with compute_residual=False; "
                "a tolerance needs the residual that compute_residual computes"
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
            if i + 1 == self.max_iter and not self.compute_residual:
                watch.record(None)
                break
            previous, r = r, system.residual(x)
            watch.note(dot(previous, previous - r) < -rounding * norm(previous))
            watch.record(norm(r))
        return watch.conclude(x, "FixedPoint", may_diverge=True)


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


def dot(u: Tensor, v: Tensor) -> Tensor:
    """⟨u, v⟩ row by row: [k, d] × [k, d] -> [k, 1]."""
    return (u * v).sum(dim=1, keepdim=True)


def norm(u: Tensor) -> Tensor:
    """‖u‖₂ row by row: [k, d] -> [k, 1]."""
    return torch.linalg.vector_norm(u, dim=1, keepdim=True)


class Layout:
    """How vectors built like `example` lie in the rows of a matrix [k, d].

    With ``batched`` the first axis of every tensor numbers the k vectors; without it k = 1. A
    single tensor is only viewed, never copied.
    """

    def __init__(self, example: Vector, *, batched: bool = False) -> None:
        parts = example if isinstance(example, dict) else {"": example}
        if not parts or not all(isinstance(part, Tensor) for part in parts.values()):
            raise TypeError(f"expected a tensor or a dict of tensors, got {type(example).__name__}")
        for name, part in parts.items():
            if not part.is_floating_point():
                raise ValueError(
                    f"tensor {name!r} has dtype {part.dtype}; expected a floating dtype"
                )
            if batched and part.ndim == 0:
                raise ValueError(f"tensor {name!r} has no axis to number the right-hand sides with")
        first = next(iter(parts.values()))
        rows = {part.shape[0] for part in parts.values()} if batched else {1}
        kinds = {(part.dtype, part.device) for part in parts.values()}
        if len(rows) > 1 or len(kinds) > 1:
            raise ValueError(
                f"tensors of one vector disagree: rows {rows}, dtype and device {kinds}"
            )
        if not all(part.numel() for part in parts.values()):
            raise ValueError("b is empty; expected at least one coordinate and one right-hand side")
        self.batched = batched
        self.is_dict = isinstance(example, dict)
        self.rows = rows.pop()
        self.dtype, self.device = first.dtype, first.device
        self.shapes = {name: part.shape for name, part in parts.items()}
        self.sizes = [math.prod(shape[batched:]) for shape in self.shapes.values()]

    def flatten(self, vector: Vector, what: str) -> Tensor:
        """Lay `vector` out as [k, d]; ValueError, naming `what`, where it is not built like the
        example."""
        parts = vector if isinstance(vector, dict) else {"": vector}
        found = {name: tuple(part.shape) for name, part in parts.items()}
        wanted = {name: tuple(shape) for name, shape in self.shapes.items()}
        if found != wanted:
            raise ValueError(f"{what} has shape {found or None}; expected {wanted}, as b has")
        flat = [parts[name].detach().reshape(self.rows, -1) for name in self.shapes]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def restore(self, matrix: Tensor) -> Vector:
        """The inverse of `flatten`."""
        if not self.is_dict:
            return matrix.reshape(self.shapes[""])
        pieces = matrix.split(self.sizes, dim=1)
        return {n: p.reshape(s) for (n, s), p in zip(self.shapes.items(), pieces, strict=True)}

    def lift(self, function: MatVec, what: str) -> Callable[[Tensor], Tensor]:
        """The same linear map on matrices [k, d]."""
        return lambda matrix: self.flatten(function(self.restore(matrix)), what)


class LinearSystem:
    """(A + damping I) x = b on rows, counting the products with A that were paid for."""

    def __init__(
        self, matvec: MatVec, b: Vector, *, x0: Vector | None, damping: float, batched: bool
    ) -> None:
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f"damping = {damping}; expected a finite number >= 0")
        self.layout = Layout(b, batched=batched)
        self.b = self.layout.flatten(b, "b")
        self.x0 = None if x0 is None else self.layout.flatten(x0, "x0")
        self.damping = damping
        self.products = 0
        self._matvec: Callable[[Tensor], Tensor] | None = self.layout.lift(matvec, "matvec(x)")

    def apply(self, x: Tensor) -> Tensor:
        """(A + damping I) x: one product."""
        if self._matvec is None:
            raise RuntimeError("the solve has ended, and A is not known any more")
        self.products += 1
        image = self._matvec(x)
        return image + self.damping * x if self.damping else image

    def release(self) -> None:
        """Forget A, which may hold the activations of a network."""
        self._matvec = None

    @property
    def released(self) -> bool:
        return self._matvec is None

    def residual(self, x: Tensor) -> Tensor:
        """b - (A + damping I) x, from its definition: one product."""
        return self.b - self.apply(x)

    def start(self) -> tuple[Tensor, Tensor]:
        """The first iterate and its residual; a start at zero is free, a warm start costs one
        product."""
        if self.x0 is None:
            return torch.zeros_like(self.b), self.b
        return self.x0, self.residual(self.x0)


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
        may_look = self.tol is not None or (self.active.device.type == "cpu")
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
        """Build the `Solution`, and warn where it may be wrong.

        Residuals that `recurred` go on to fall where the true one cannot follow: before such a one
        counts as converged it is computed from its definition, unless a claim (`tol`) did that.
        """
        self.x, self.name, self.recurred = x, name, recurred
        self.needs_definite, self.may_diverge = needs_definite, may_diverge
        if self.verdict.warning is not None:
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
