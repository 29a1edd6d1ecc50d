"""Constraint sets as implicit differentiation sees them: a tangent space and a multiplier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tangent:
    """The directions in which δ(θ) can move: the projector P onto them, and the multiplier λ.

    With f the function that δ maximises, the response is ∇δ = M⁺ P ∇²₁₂ f, M = P (λI - ∇₁² f) P.
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
        square = (delta * delta).sum()
        if not bool(square > 0):
            raise ValueError("delta = 0 (or NaN) lies on no sphere; use constraint=None there")

        def project(v: Tensor) -> Tensor:
            return v - (delta * v).sum() / square * delta

        return Tangent(project, (gradient * delta).sum() / square)


@dataclass(frozen=True)
class L2Ball:
    """‖δ‖₂ <= radius: the `Sphere` where the bound is active at δ, the interior form elsewhere.

    Active: ‖δ‖ >= (1 - tolerance) radius and f still grows outwards, ⟨∇₁ f, δ⟩ > 0. Raises
    ValueError for a δ outside the ball.
    """

    radius: float
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        size = float(torch.linalg.vector_norm(delta))
        _check_inside(size, self.radius, self.tolerance)
        held = size >= (1 - self.tolerance) * self.radius and _grows_outwards(delta, gradient)
        return Sphere().tangent(delta, gradient) if held else INTERIOR


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
        _check_radius(self.radius)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        _check_inside(float(delta.abs().max()), self.radius, self.tolerance)
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
        _check_radius(self.radius)

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        size = float(delta.abs().sum())
        _check_inside(size, self.radius, self.tolerance)
        if size < (1 - self.tolerance) * self.radius or not _grows_outwards(delta, gradient):
            return INTERIOR
        sign = delta.sign()
        support = sign.abs()

        def project(v: Tensor) -> Tensor:
            return support * v - (sign * v).sum() / support.sum() * sign

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


def _grows_outwards(delta: Tensor, gradient: Tensor) -> bool:
    return bool((gradient * delta).sum() > 0)


def _check_radius(radius: float) -> None:
    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"radius = {radius!r}; expected a finite number > 0")


def _check_inside(size: float, radius: float, tolerance: float) -> None:
    if not size <= (1 + tolerance) * radius:
        raise ValueError(
            f"delta has norm {size:.6g}; expected at most radius = {radius:g}: project it"
        )
