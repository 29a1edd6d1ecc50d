"""Constraint sets as implicit differentiation sees them: a tangent space and a multiplier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ibau_lite.kinds import check_kinds, checking


@dataclass(frozen=True, eq=False)
class Tangent:
    """The directions in which δ(θ) can move: the projector P onto them, and the multiplier λ.

    With f the function that δ maximises, the response is ∇δ = M⁺ P ∇²₁₂ f, M = P (λI - ∇₁² f) P.
    Whether a constraint is active stays a number on the device, which is not waited for.
    """

    project: Callable[[Tensor], Tensor]
    multiplier: Tensor | float


class Constraint(Protocol):
    """What `hypergradient` asks of a constraint: its tangent at δ, given ∇₁ f(δ, θ)."""

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent: ...


INTERIOR = Tangent(project=lambda v: v, multiplier=0.0)


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
        if checking() and not bool((delta * delta).sum() > 0):
            raise ValueError("delta = 0 (or NaN) lies on no sphere; use constraint=None there")
        return _sphere(delta, gradient, torch.ones((), dtype=torch.bool, device=delta.device))


@dataclass(frozen=True)
class L2Ball:
    """‖δ‖₂ <= radius: the `Sphere` where the bound is active at δ, the interior form elsewhere.

    Active: ‖δ‖ >= (1 - tolerance) radius and f still grows outwards, ⟨∇₁ f, δ⟩ > 0. Raises
    ValueError for a δ outside the ball.
    """

    radius: float
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_kinds(self)
        _check_radius(self.radius)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        size = torch.linalg.vector_norm(delta)
        _check_inside(size, self.radius, self.tolerance)
        at_bound = size >= (1 - self.tolerance) * self.radius
        return _sphere(delta, gradient, at_bound & _grows_outwards(delta, gradient))


@dataclass(frozen=True)
class LinfBall:
    """|δ_i| <= radius: coordinates held at the bound do not move, the others are interior.

    Held: |δ_i| >= (1 - tolerance) radius and f still grows outwards, δ_i ∂f/∂δ_i > 0 (strict
    complementarity); P is the projector onto the free coordinates and λ = 0. Raises ValueError for
    a δ outside the box.
    """

    radius: float
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_kinds(self)
        _check_radius(self.radius)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        _check_inside(delta.abs().max(), self.radius, self.tolerance)
        held = (delta.abs() >= (1 - self.tolerance) * self.radius) & (gradient * delta > 0)
        return Tangent(project=lambda v: torch.where(held, 0.0, v), multiplier=0.0)


@dataclass(frozen=True)
class L1Ball:
    """‖δ‖₁ <= radius: δ stays on the face that it lies on, and within the ball it is free.

    On the boundary, where f still grows outwards, ⟨∇₁ f, δ⟩ > 0, the coordinates that are zero stay
    zero (strict complementarity: |∂f/∂δ_i| is smaller there than on the support S) and Σ |δ_i| does
    not change, so that P v = v_S - s ⟨s, v⟩/|S| with s = sign δ. A face is flat: λ = 0. Raises
    ValueError for a δ outside the ball.
    """

    radius: float
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_kinds(self)
        _check_radius(self.radius)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
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
class InSubspace:
    """δ ∈ V = range(P), and within V where `constraint` lets it move (anywhere, if None).

    `subspace` is the orthogonal projection v -> P v. The tangent space is that of the constraint
    for the gradient P ∇₁ f, met with V: for the ball and its sphere, which hold P δ where they hold
    δ ∈ V, the two projectors commute. (A box does so for a V that is spanned by coordinates only.)
    """

    subspace: Callable[[Tensor], Tensor]
    constraint: Constraint | None = None

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        within = INTERIOR
        if self.constraint is not None:
            within = self.constraint.tangent(delta, self.subspace(gradient))
        return Tangent(lambda v: self.subspace(within.project(v)), within.multiplier)


def _sphere(delta: Tensor, gradient: Tensor, held: Tensor) -> Tangent:
    """The tangent of the sphere through δ where `held` (a boolean scalar), else that of no
    constraint."""
    square = (delta * delta).sum().clamp_min(torch.finfo(delta.dtype).tiny)

    def project(v: Tensor) -> Tensor:
        return torch.where(held, v - (delta * v).sum() / square * delta, v)

    return Tangent(project, torch.where(held, (gradient * delta).sum() / square, 0.0))


def _grows_outwards(delta: Tensor, gradient: Tensor) -> Tensor:
    return (gradient * delta).sum() > 0


def _check_radius(radius: float) -> None:
    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"radius = {radius!r}; expected a finite number > 0")


def _check_inside(size: Tensor, radius: float, tolerance: float) -> None:
    if not checking():
        return
    if not bool(size <= (1 + tolerance) * radius):
        raise ValueError(
            f"delta has norm {float(size):.6g}; expected at most radius = {radius:g}: project it"
        )
