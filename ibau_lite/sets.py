"""Sets of perturbations δ: climbed by the inner player, and differentiated through by the outer.

Every set is one frozen object with a `radius` and

============================= =====================================================================
`norm(delta)`                 the norm whose ball it is
`project(delta)`              Π(δ), the nearest point of the set
`lmo(gradient)`               the direction of a step: where ⟨u, g⟩ is largest for ‖u‖ ≤ 1
`dual_norm(gradient)`         max ⟨u, g⟩ over ‖u‖ ≤ 1
`tangent(delta, gradient)`    how the maximiser δ(θ) can move: the KKT conditions, differentiated
`span`                        the set without its bound (None: the whole space)
============================= =====================================================================

`L2Ball`, `LinfBall` and `L1Ball` are balls. `Within` is the part of a ball in a `Window`, or
constant on `Blocks`. `Sphere` and a `Within` of no ball have a tangent only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds, checking

__all__ = [
    "INTERIOR",
    "Blocks",
    "Constraint",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "Region",
    "Sphere",
    "Subspace",
    "Tangent",
    "Window",
    "Within",
    "windows",
]


@dataclass(frozen=True, eq=False)
class Tangent:
    """The directions in which δ(θ) can move: the projector P onto them, and the multiplier λ.

    With f the function that δ maximises, the response is ∇δ = M⁺ P ∇²₁₂ f, M = P (λI - ∇₁² f) P.
    Whether a constraint is active stays a number on the device, which is not waited for.
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

    @property
    def span(self) -> Constraint | None:
        """The set without its bound; None: the whole space."""

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

    @property
    def span(self) -> None:
        """None: a ball spans the whole space."""
        return None


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
        if checking() and not bool((delta * delta).sum() > 0):
            raise ValueError("delta = 0 (or NaN) lies on no sphere; use constraint=None there")
        return _sphere(delta, gradient, torch.ones((), dtype=torch.bool, device=delta.device))


@dataclass(frozen=True)
class Window:
    """The δ [C, H, W] that vanish outside a square of `size`×`size` pixels."""

    top: int
    left: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.top < 0 or self.left < 0:
            raise ValueError(f"a window has a size of at least 1 at a corner >= 0, got {self}")

    def __call__(self, delta: Tensor) -> Tensor:
        """P δ, the nearest δ of the subspace."""
        rows, columns = (slice(start, start + self.size) for start in (self.top, self.left))
        kept = torch.zeros_like(delta)
        kept[:, rows, columns] = delta[:, rows, columns]
        return kept


def windows(shape: torch.Size) -> Iterator[Window]:
    """Windows of half the image's side that overlap by half and reach every edge: nine on a square
    image of 8 pixels or more.
    """
    side = max(1, min(shape[-2:]) // 2)
    for top in _starts(shape[-2], side):
        for left in _starts(shape[-1], side):
            yield Window(top, left, side)


def _starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin: from one edge to the other in steps of about side / 2."""
    room = length - side
    gaps = max(1, round(2 * room / side))
    return sorted({round(k * room / gaps) for k in range(gaps + 1)})


@dataclass(frozen=True)
class Blocks:
    """The δ [C, H, W] that are constant on blocks of `size`×`size` pixels (less at the edge)."""

    size: int = 2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a block has a size of at least 1, got {self.size}")

    def __call__(self, delta: Tensor) -> Tensor:
        """P δ, the nearest δ of the subspace: the mean of each block."""
        for axis in (-2, -1):
            block = torch.arange(delta.shape[axis], device=delta.device) // self.size
            shape = list(delta.shape)
            shape[axis] = -(-shape[axis] // self.size)
            ones = torch.ones_like(block, dtype=delta.dtype)  # bincount would wait for the device
            count = delta.new_zeros(shape[axis]).index_add(0, block, ones)
            sums = delta.new_zeros(shape).index_add(axis, block, delta)
            along = count[:, None] if axis == -2 else count
            delta = (sums / along).index_select(axis, block)
        return delta


Subspace = Window | Blocks
"""An orthogonal projection P = Pᵀ = P² of perturbations, called on one."""


@dataclass(frozen=True)
class Within:
    """{δ ∈ V : ‖δ‖₂ ≤ radius}, V = range(P): a ball like any other, in fewer dimensions.

    `subspace` is the orthogonal projection v -> P v. With `ball=None` (or a `Sphere`) it can be
    differentiated through, not climbed. The tangent space is that of the ball for the gradient
    P ∇₁ f, met with V: the two projectors commute, as the ball holds P δ where it holds δ ∈ V.
    Raises ValueError for a ball of another norm, where they do not commute.
    """

    ball: L2Ball | Sphere | None
    subspace: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if not (self.ball is None or isinstance(self.ball, (L2Ball, Sphere))):
            raise ValueError(f"within a subspace the ball must be an L2Ball, got {self.ball!r}")

    @property
    def radius(self) -> float:
        return self._bound.radius

    @property
    def span(self) -> Within:
        """V."""
        return Within(None, self.subspace)

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖₂, a scalar."""
        return self._bound.norm(delta)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point: first into the subspace, then to the radius."""
        return self._bound.project(self.subspace(delta))

    def lmo(self, gradient: Tensor) -> Tensor:
        """P g/‖P g‖; zero where P g = 0."""
        return self._bound.lmo(self.subspace(gradient))

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """‖P g‖₂ = max_{u ∈ V, ‖u‖ ≤ 1} ⟨u, g⟩, a scalar."""
        return self._bound.dual_norm(self.subspace(gradient))

    def tangent(self, delta: Tensor, gradient: Tensor) -> Tangent:
        """The tangent of the ball within V."""
        within = INTERIOR
        if self.ball is not None:
            within = self.ball.tangent(delta, self.subspace(gradient))
        return Tangent(lambda v: self.subspace(within.project(v)), within.multiplier)

    @property
    def _bound(self) -> L2Ball:
        if not isinstance(self.ball, L2Ball):
            raise TypeError(f"{self} has no radius to climb to; give it an L2Ball")
        return self.ball


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
    if not checking():
        return
    if not bool(size <= (1 + tolerance) * radius):
        raise ValueError(
            f"delta has norm {float(size):.6g}; expected at most radius = {radius:g}: project it"
        )
