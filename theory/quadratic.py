"""A problem on which everything in Theorem 1 is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .convergence import Constants

__all__ = ["Quadratic", "quadratic"]

Theta = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Quadratic:
    r"""An inner objective that is quadratic in δ, its curvature moving with θ.

    .. math:: H(\delta, \theta) = -\tfrac12\, s\; \delta^\top Q\,\delta + \delta^\top C\,\theta,
              \quad s = 1 + \langle a, \theta\rangle, \qquad
              F(\delta, \theta) = H(\delta, \theta) + \langle b, \delta\rangle .

    Q [d, d] symmetric positive definite, C [d, p], a [p], b [d]; θ is the dict {"theta": [p]}.
    With b = 0 outer and inner objective coincide; with a = 0 the Hessians are constant, ρ̂ = 0.
    Everything is float64. Raises `ValueError` for shapes that do not fit.
    """

    Q: Tensor = field(repr=False)
    C: Tensor = field(repr=False)
    a: Tensor = field(repr=False)
    b: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        d, p = self.C.shape
        if self.Q.shape != (d, d) or self.a.shape != (p,) or self.b.shape != (d,):
            raise ValueError(
                f"Q, C, a, b have shapes {[tuple(m.shape) for m in (self.Q, self.C, self.a)]}, "
                f"{tuple(self.b.shape)}; expected [d, d], [d, p], [p], [d]"
            )

    def inner(self, delta: Tensor, theta: Theta) -> Tensor:
        """H(δ, θ)."""
        t = theta["theta"]
        return -0.5 * self.scale(theta) * (delta @ self.Q @ delta) + delta @ self.C @ t

    def outer(self, delta: Tensor, theta: Theta) -> Tensor:
        """F(δ, θ)."""
        return self.inner(delta, theta) + self.b @ delta

    def scale(self, theta: Theta) -> Tensor:
        """s = 1 + ⟨a, θ⟩; H is concave in δ where it is positive."""
        return 1 + self.a @ theta["theta"]

    def solution(self, theta: Theta) -> Tensor:
        """δ(θ) = Q⁻¹Cθ/s."""
        return torch.linalg.solve(self.Q, self.C @ theta["theta"]) / self.scale(theta)

    def gradient(self, theta: Theta) -> Theta:
        r"""∇ψ(θ), from ψ in closed form and without implicit differentiation.

        .. math:: \psi = \frac{\tfrac12 u^\top Q^{-1} u + b^\top Q^{-1} u}{s}, \quad u = C\theta .
        """
        t, s = theta["theta"], self.scale(theta)
        u = self.C @ t
        solved_u, solved_b = torch.linalg.solve(self.Q, torch.stack([u, self.b], 1)).T
        numerator = 0.5 * u @ solved_u + self.b @ solved_u
        return {"theta": self.C.T @ (solved_u + solved_b) / s - self.a * numerator / s**2}

    def mixed(self, delta: Tensor) -> Tensor:
        """B = ∇²₂₁H(δ, θ) = Cᵀ − a(Qδ)ᵀ, [p, d]."""
        return self.C.T - torch.outer(self.a, self.Q @ delta)

    def constants(self, theta: Theta, delta: Tensor) -> Constants:
        r"""The constants of Theorem 1 in closed form, valid on the segment U from δ(θ) to `delta`.

        η₁, η₂ and ρ̂₂ are norms of whole matrices; along the segment alone they may be smaller.
        Hessians in δ do not depend on δ, so that ρ̂₁ = 0; B is affine in δ, so that ρ̂₂ = ‖a‖‖Q‖,
        and its norm is largest at an end of the segment. Raises `ValueError` where s ≤ 0.
        """
        s = float(self.scale(theta))
        eigenvalues = s * torch.linalg.eigvalsh(self.Q)
        ends = [_norm(self.mixed(d)) for d in (delta, self.solution(theta))]
        return Constants(
            mu_H=float(eigenvalues.min()),
            L_H=float(eigenvalues.max()),
            eta_1=float(eigenvalues.max()),
            eta_2=max(ends),
            rho_1=0.0,
            rho_2=float(torch.linalg.vector_norm(self.a)) * _norm(self.Q),
            L_21=ends[0],
            M=float(torch.linalg.vector_norm(self.b)),
            kind="exact",
        )


def quadratic(
    kappa: float,
    *,
    d: int = 12,
    p: int = 5,
    moving: float = 0.0,
    different: float = 0.0,
    seed: int = 0,
) -> tuple[Quadratic, Theta]:
    """A random `Quadratic` whose Q has eigenvalues from 1 to κ, evenly spaced in their logarithm.

    `moving` is ‖a‖ (curvature that depends on θ), `different` is ‖b‖ (an outer objective that is
    not the inner one). Returns the problem and a θ of norm ½ at which s ≥ 1 − moving/2. Raises
    `ValueError` unless κ ≥ 1, 0 ≤ moving < 2 and different ≥ 0.
    """
    if not (kappa >= 1 and 0 <= moving < 2 and different >= 0):
        raise ValueError(
            f"kappa = {kappa}, moving = {moving}, different = {different}; expected kappa >= 1, "
            "0 <= moving < 2 (H must stay concave), different >= 0"
        )
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rotation, _ = torch.linalg.qr(draw(d, d))
    eigenvalues = torch.logspace(0, 1, d, base=kappa, dtype=torch.float64)
    Q = rotation * eigenvalues @ rotation.T
    C, a, b, t = draw(d, p), draw(p), draw(d), draw(p)
    problem = Quadratic(0.5 * (Q + Q.T), C, moving * a / a.norm(), different * b / b.norm())
    return problem, {"theta": 0.5 * t / t.norm()}


def _norm(matrix: Tensor) -> float:
    """The largest singular value."""
    return float(torch.linalg.matrix_norm(matrix, ord=2))
