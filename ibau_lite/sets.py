"""Sets of perturbations δ: climbed by the inner player, and differentiated through by the outer.

Every set is one frozen object with a `radius` and

============================= =====================================================================
`norm(delta)`                 the norm whose ball it is
`project(delta)`              Π(δ), the nearest point of the set
`lmo(gradient)`               the direction of a step: where ⟨u, g⟩ is largest for ‖u‖ ≤ 1
`dual_norm(gradient)`         max ⟨u, g⟩ over ‖u‖ ≤ 1
`tangent(delta, gradient)`    how the maximiser δ(θ) can move: the KKT conditions, differentiated
============================= =====================================================================

`L2Ball`, `LinfBall` and `L1Ball` are balls. `Sphere` has a tangent only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds

__all__ = [
    "INTERIOR",
    "Constraint",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "Region",
    "Sphere",
    "Tangent",
]


@dataclass(frozen=True, eq=False)
class Tangent:
    """The directions in which δ(θ) can move: the projector P onto them, and the multiplier λ.

    With f the function that δ maximises, the response is ∇δ = M⁺ P ∇²₁₂ f, M = P (λI - ∇₁² f) P.
    Whether a constraint is active stays a boolean on the device, so that nothing waits for it.
    """

    project: Callable[[Tensor], Tensor]
    multiplier: Tensor | float


class Constraint(Protocol):
    """What `hypergradient` asks of a set: its tangent at δ, given ∇₁ f(δ, θ)."""

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent: ...


class Region(Constraint, Protocol):
    """What an ascent asks of a convex set around zero."""

    @property
    def radius(self) -> float:
        """The largest norm in it."""

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖, a scalar."""

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the set."""

    def lmo(self, gradient: Tensor) -> Tensor:
        """The direction of a step, of norm 1 (0 where nothing climbs)."""

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """max ⟨u, g⟩ over the set's u of norm at most 1."""


INTERIOR = Tangent(project=lambda v: v, multiplier=0.0)


@dataclass(frozen=True)
class _Ball:
    """{δ : ‖δ‖ <= radius}, in units of pixel values in [0, 1].

    The bound counts as reached where ‖δ‖ >= (1 - tolerance) radius. Raises ValueError unless the
    radius is positive and finite.
    """

    radius: float
    tolerance: float = field(default=1e-4, kw_only=True)

    def __post_init__(self) -> None:
        check_kinds(self)
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"radius must be a positive finite number, got {self.radius!r}")


@dataclass(frozen=True)
class L2Ball(_Ball):
    """{δ : ‖δ‖₂ <= radius}; on its boundary δ(θ) moves as on the `Sphere`.

    The boundary holds δ where it is reached and f still grows outwards, ⟨∇₁ f, δ⟩ > 0. Raises
    ValueError for a radius that is not positive and finite, and `tangent` for a δ outside the ball.
    """

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖₂, a scalar."""
        return torch.linalg.vector_norm(delta)

    def project(self, delta: Tensor) -> Tensor:
        """δ·min(1, C/‖δ‖₂), the nearest point; points inside stay."""
        # From so far out that the norm overflows, 1/∞ would lead to zero: come nearer first.
        largest = delta.abs().amax()
        far = self.norm(delta).isinf() & largest.isfinite()
        delta = delta / torch.where(far, largest / self.radius, 1.0)
        return delta * (self.radius / self.norm(delta)).clamp_max(1.0)

    def lmo(self, gradient: Tensor) -> Tensor:
        """g/‖g‖₂ = arg max_{‖u‖₂ ≤ 1} ⟨u, g⟩; zero where g = 0."""
        # First by the largest entry: the squares of a gradient of 1e-23 are zero in float32, and
        # the gradients of a network that is sure of itself are that small.
        tiny = torch.finfo(gradient.dtype).tiny
        scaled = gradient / gradient.abs().amax().clamp_min(tiny)
        return scaled / self.norm(scaled).clamp_min(tiny)

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """‖g‖₂, a scalar."""
        return torch.linalg.vector_norm(gradient)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        """The tangent of the `Sphere` where the bound holds δ, that of the interior elsewhere."""
        size = torch.linalg.vector_norm(delta)
        _check_inside(size, self.radius, self.tolerance)
        at_bound = size >= (1 - self.tolerance) * self.radius
        return _sphere(delta, gradient, at_bound & _grows_outwards(delta, gradient))


@dataclass(frozen=True)
class LinfBall(_Ball):
    """{δ : |δ_i| <= radius}: entries held at the bound do not move, the others are interior.

    Held: the bound is reached and f still grows outwards, δ_i ∂f/∂δ_i > 0 (strict
    complementarity). Raises ValueError for a radius that is not positive and finite, and `tangent`
    for a δ outside the box.
    """

    def norm(self, delta: Tensor) -> Tensor:
        """max |δ_i|, a scalar."""
        return delta.abs().amax()

    def project(self, delta: Tensor) -> Tensor:
        """Every entry clamped to [-C, C], the nearest point; points inside stay."""
        return delta.clamp(-self.radius, self.radius)

    def lmo(self, gradient: Tensor) -> Tensor:
        """sign(g) = arg max_{‖u‖_∞ ≤ 1} ⟨u, g⟩; zero where g = 0."""
        return gradient.sign()

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """‖g‖₁, a scalar."""
        return gradient.abs().sum()

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        """P is the projector onto the entries that are not held, and λ = 0."""
        _check_inside(delta.abs().max(), self.radius, self.tolerance)
        held = (delta.abs() >= (1 - self.tolerance) * self.radius) & (gradient * delta > 0)
        return Tangent(project=lambda v: torch.where(held, 0.0, v), multiplier=0.0)


@dataclass(frozen=True)
class L1Ball(_Ball):
    """{δ : ‖δ‖₁ <= radius}, the ball of sparse δ, climbed in many entries at once.

    Of two δ of one Euclidean norm the one that changes few entries is the shorter here: a patch
    gets further than a δ that changes every pixel a little. The exact linear minimisation oracle of
    the norm is a single entry, which would need as many steps as a trigger has pixels; as in SLIDE
    the direction is the sign of the gradient in the `fraction` of the entries where it is largest.

    On the boundary, where f still grows outwards, δ stays on the face that it lies on. Raises
    ValueError for a radius that is not positive and finite or a fraction outside (0, 1], and
    `tangent` for a δ outside the ball.
    Source: Tramèr and Boneh 2019 (SLIDE); Duchi et al. 2008 (the projection).
    """

    fraction: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction!r}")

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖₁, a scalar."""
        return delta.abs().sum()

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball, arg min_{‖z‖₁ ≤ C} ‖z − δ‖₂: every entry shrinks alike."""
        if bool(self.norm(delta) <= self.radius):
            return delta
        # In float32 an entry beyond 2²⁴ radii swallows the others: come nearer first. An entry that
        # is more than the radius below the largest ends at zero either way.
        largest = delta.abs().amax()
        if bool(largest > 1e6 * self.radius):
            floor = (delta.abs() - largest + 4 * self.radius).clamp_min(0)
            delta = delta.sign() * floor
        sizes = delta.abs().flatten().sort(descending=True).values
        shrunk = (sizes.cumsum(0) - self.radius) / torch.arange(
            1, len(sizes) + 1, device=delta.device, dtype=delta.dtype
        )
        kept = int((sizes > shrunk).sum())
        return delta.sign() * (delta.abs() - shrunk[kept - 1]).clamp_min(0)

    def lmo(self, gradient: Tensor) -> Tensor:
        """sign(g) where |g| is largest, of l1 norm 1; zero where g = 0."""
        size = gradient.abs().flatten()
        least = size.topk(max(1, int(self.fraction * len(size)))).values[-1]
        sign = gradient.sign() * (gradient.abs() >= least)
        return sign / self.norm(sign).clamp_min(1)

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """‖g‖_∞, a scalar."""
        return gradient.abs().amax()

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        """The face that δ lies on: P v = v_S - s ⟨s, v⟩/|S| with s = sign δ and support S; λ = 0.

        Coordinates that are zero stay zero (strict complementarity: |∂f/∂δ_i| is smaller there than
        on S), and Σ |δ_i| does not change. A face is flat.
        """
        size = delta.abs().sum()
        _check_inside(size, self.radius, self.tolerance)
        at_bound = size >= (1 - self.tolerance) * self.radius
        held = at_bound & _grows_outwards(delta, gradient)
        sign = delta.sign()
        support = sign.abs()

        def project(v: Tensor) -> Tensor:
            on_face = support * v - (sign * v).sum() / support.sum().clamp_min(1) * sign
            return torch.where(held, on_face, v)

        return Tangent(project, 0.0)


@dataclass(frozen=True)
class Sphere:
    r"""The sphere ‖δ‖₂ = C through the given δ (the constraint is known to be active).

    On it the maximiser of f satisfies, with the multiplier λ and then differentiated in θ,

    .. math:: \nabla_1 f = \lambda\,\delta, \quad \|\delta\|^2 = C^2
              \quad\Longrightarrow\quad
              (\nabla_1^2 f - \lambda I)\, d\delta + \nabla^2_{12} f\, d\theta = \delta\, d\lambda,
              \quad \langle\delta, d\delta\rangle = 0 .

    P = I - δδᵀ/‖δ‖² removes dλ: P (λI - ∇₁² f) P dδ = P ∇²₁₂ f dθ, and dδ = P dδ. At a δ that is
    not quite optimal λ is the least-squares multiplier ⟨∇₁ f, δ⟩/‖δ‖², and the operator is then
    minus the Riemannian Hessian of f on the sphere. It is positive definite wherever λ > λ_max(∇₁²
    f), and at every strict maximum on the sphere.

    Only P ∇₁ outer enters the solve: what the outer function gains along the normal cannot be
    followed by δ(θ). Where outer = f, P ∇₁ f = 0 at the optimum and the indirect term vanishes
    (Danskin). Raises ValueError for δ = 0, which has no normal.
    """

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        if not bool((delta * delta).sum() > 0):
            raise ValueError("delta = 0 (or NaN) lies on no sphere; use constraint=None there")
        return _sphere(delta, gradient, torch.ones((), dtype=torch.bool, device=delta.device))


def _sphere(delta: Tensor, gradient: Tensor, held: Tensor) -> Tangent:
    """The tangent of the sphere through δ where `held` (a boolean scalar), else that of no
    constraint."""
    square = (delta * delta).sum().clamp_min(torch.finfo(delta.dtype).tiny)

    def project(v: Tensor) -> Tensor:
        return torch.where(held, v - (delta * v).sum() / square * delta, v)

    return Tangent(project, torch.where(held, (gradient * delta).sum() / square, 0.0))


def _grows_outwards(delta: Tensor, gradient: Tensor) -> Tensor:
    return (gradient * delta).sum() > 0


def _check_inside(size: Tensor, radius: float, tolerance: float) -> None:
    if not bool(size <= (1 + tolerance) * radius):
        raise ValueError(
            f"delta has norm {float(size):.6g}; expected at most radius = {radius:g}: project it"
        )
