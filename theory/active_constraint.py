"""Theorem 1 where the constraint is active: its constants and its operator on the sphere.

The page `active_constraint.md` states and proves what this module computes. H is the objective that
δ maximises on ‖δ‖ = C, F the one that θ minimises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite.hypergrad import ImplicitSystem, Objective
from ibau_lite.sets import Sphere
from ibau_lite.solvers import Ritz, lanczos

from .convergence import KINDS

__all__ = ["SphereConstants", "arc", "tangent_spectrum", "trust_region"]


@dataclass(frozen=True)
class SphereConstants:
    r"""The constants of Theorem 1 on the sphere ‖δ‖ = `radius`, at one θ.

    ==============  ====================================================================
    `mu_S`          M ⪰ μ_S I on the tangent space, at δ(θ) and at δ̃, > 0
    `L_H`           ‖∇₁²H‖ and the Lipschitz constant of ∇₁H; no sign is asked for
    `eta_1`, …      η₁, η₂, ρ̂₁, ρ̂₂, L₂₁ as in `convergence.Constants`
    `M_T`           ‖P∇₁F(δ(θ), θ)‖, the tangential slope of F; 0 where F = H
    `G`             ‖∇₁F(δ(θ), θ)‖; λC where F = H
    `multiplier`    λ at δ(θ), > 0
    ==============  ====================================================================

    Raises `ValueError` where μ_S, λ or the radius is not positive (the theorem says nothing there),
    for a negative or NaN constant, and for another `kind` than in `convergence.Constants`.
    """

    mu_S: float
    L_H: float
    eta_1: float
    eta_2: float
    rho_1: float
    rho_2: float
    L_21: float
    M_T: float
    G: float
    multiplier: float
    radius: float
    kind: str

    def __post_init__(self) -> None:
        for name in ("mu_S", "multiplier", "radius"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} = {getattr(self, name):.6g}; the theorem on the sphere needs it to be "
                    "positive: a strict maximum at which the constraint is active"
                )
        for name in ("L_H", "eta_1", "eta_2", "rho_1", "rho_2", "L_21", "M_T", "G"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}; expected a number >= 0")
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}; expected one of {', '.join(KINDS)}")

    @property
    def stability(self) -> float:
        r"""The factor of ‖e‖ (eq-kkt-bound).

        .. math:: \eta_2 + \frac{(\eta_1 + G/C) L_{21}}{\mu_S} + \frac{\hat\rho_2 M_T}{\mu_S}
                  + \frac{\hat\rho_S L_{21} M_T}{\mu_S^2}, \qquad
                  \hat\rho_S = \hat\rho_1 + \frac{3 L_H + \max(\lambda, \mu_S)}{C} .
        """
        direct = self.eta_2 + (self.eta_1 + self.G / self.radius) * self.L_21 / self.mu_S
        if self.M_T == 0:
            return direct
        rho_S = self.rho_1 + (3 * self.L_H + max(self.multiplier, self.mu_S)) / self.radius
        return direct + self.M_T / self.mu_S * (self.rho_2 + rho_S * self.L_21 / self.mu_S)

    def bound(self, distance: float, solve_error: float = 0.0) -> float:
        """Theorem 1 on the sphere, for ‖e‖ ≤ `distance` and ‖w_K − w‖ ≤ `solve_error`."""
        if not (distance >= 0 and solve_error >= 0):
            raise ValueError(f"distance = {distance}, solve_error = {solve_error}; expected >= 0")
        return self.stability * distance + self.L_21 * solve_error

    def second_order(self, length: float, tangential: float) -> float:
        r"""The second-order law for F = H, on an arc of that `length` s.

        .. math:: \tfrac12\Bigl(\hat\rho_2 + \tfrac{L_{21}}{C} + \tfrac{L_{21}}{\mu_S}
                  \bigl(\hat\rho_1 + \tfrac{3L_H}{C} + \tfrac{\tau}{C^2}\bigr)\Bigr) s^2

        with τ = `tangential`, the largest ‖P∇₁H‖ on the arc. Raises `ValueError` where M_T is not
        0, or for a negative argument.
        """
        if not (length >= 0 and tangential >= 0):
            raise ValueError(f"length = {length}, tangential = {tangential}; expected >= 0")
        if self.M_T != 0:
            raise ValueError(f"M_T = {self.M_T:.6g}; the second-order law holds where F = H")
        turning = self.rho_1 + 3 * self.L_H / self.radius + tangential / self.radius**2
        factor = self.rho_2 + self.L_21 / self.radius + turning * self.L_21 / self.mu_S
        return 0.5 * factor * length**2


def arc(delta: Tensor, other: Tensor) -> float:
    """The length of the great-circle arc between two points of one sphere, 2C asin(‖e‖/2C).

    Raises `ValueError` where their norms differ by more than a part in 10⁶.
    """
    radius, size = float(delta.norm()), float(other.norm())
    if not abs(radius - size) <= 1e-6 * radius:
        raise ValueError(f"norms {radius:.6g} and {size:.6g}; expected points of one sphere")
    return 2 * radius * math.asin(min(1.0, float((delta - other).norm()) / (2 * radius)))


def tangent_spectrum(
    inner: Objective, delta: Tensor, theta: Mapping[str, Tensor], *, steps: int = 40, seed: int = 0
) -> tuple[float, Ritz]:
    r"""(λ, Ritz values of M on the tangent space) at δ on the sphere through it.

    .. math:: M = P (\lambda I - \nabla_1^2 H) P, \qquad
              \lambda = \langle \nabla_1 H, \delta \rangle / \|\delta\|^2 .

    The smallest eigenvalue is μ_S: where it is positive and λ > 0, δ is near a strict maximum on
    the ball. Lanczos starts at a random tangent vector b; the normal, which only rounding can
    bring in, is given the eigenvalue ⟨b, Mb⟩/⟨b, b⟩, which hides among those of M. Raises as
    `lanczos`, and `ValueError` for δ = 0.
    """
    system = ImplicitSystem(inner, delta, theta, constraint=Sphere())
    project = system.tangent.project
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(delta.shape, generator=generator, dtype=torch.float64).to(delta)
    start = project(project(start))
    between = (start * system.matvec(start)).sum() / (start * start).sum()

    def product(v: Tensor) -> Tensor:
        v = v.reshape(delta.shape)
        return (system.matvec(v) + between * (v - project(v))).reshape(-1)

    ritz = lanczos(
        product,
        delta.numel(),
        min(steps, delta.numel() - 1),
        start=start.reshape(-1),
        dtype=delta.dtype,
        device=delta.device,
    )
    return float(system.tangent.multiplier), ritz


def trust_region(Q: Tensor, c: Tensor, radius: float) -> tuple[Tensor, float]:
    r"""The maximiser of ½zᵀQz + ⟨c, z⟩ over ‖z‖ ≤ radius that lies on the surface, and λ.

    .. math:: (\lambda I - Q)\,\delta = c, \qquad \|\delta\| = C, \qquad
              \lambda > \max(0, \lambda_{\max}(Q)),

    by bisection on λ, for a symmetric Q [d, d] and c [d] in float64. Raises `ValueError` where
    there is no such λ: the maximum is in the interior, or c has no part in the direction of the
    largest eigenvalue (the hard case). Source: Moré and Sorensen 1983.
    """
    values, vectors = torch.linalg.eigh(Q)
    parts = vectors.T @ c
    low = max(0.0, float(values[-1]))
    high = low + float(c.norm()) / radius  # there ‖δ‖ ≤ C

    def size(multiplier: float) -> float:
        return float((parts / (multiplier - values)).norm())

    nearly = low + 1e-12 * (high - low)
    if not (radius > 0 and high > low and size(nearly) > radius):
        raise ValueError(
            f"no multiplier above {low:.6g} puts the maximum on the sphere of radius {radius:g}: "
            "it is inside, or c has no part along the largest eigenvalue"
        )
    low = nearly
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if size(middle) > radius else (low, middle)
    delta = vectors @ (parts / (high - values))
    return delta * (radius / delta.norm()), high
