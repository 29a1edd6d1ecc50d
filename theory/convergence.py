"""Theorem 1: how far the computed hypergradient can be from the true one.

The page `convergence.md` states and proves what this module computes; the second-order form is on
`second_order.md`. H is the objective that δ maximises, F the one that θ minimises (F = H in the
talk), e = δ̃ - δ(θ) the error of the inner solution, v = A⁻¹g the solution of the linear system.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Constants",
    "ascent_factor",
    "contraction",
    "damped",
    "optimal_step",
    "solver_factor",
]

Method = Literal["fixed_point", "conjugate_gradient"]

KINDS = ("exact", "certified", "sampled")


@dataclass(frozen=True)
class Constants:
    r"""The eight numbers of Theorem 1 on a convex set U around δ(θ) and δ̃, at one θ.

    ========  ==========================================================================
    `mu_H`    −∇₁²H ⪰ μ_H I on U (strong concavity), > 0
    `L_H`     −∇₁²H ⪯ L_H I on U (smoothness)
    `eta_1`   ∇₁F is η₁-Lipschitz in δ on U
    `eta_2`   ∇₂F is η₂-Lipschitz in δ on U
    `rho_1`   ∇₁²H is ρ̂₁-Lipschitz in δ on U, in the spectral norm
    `rho_2`   ∇²₂₁H is ρ̂₂-Lipschitz in δ on U, in the spectral norm
    `L_21`    ‖∇²₂₁H(δ̃, θ)‖ ≤ L₂₁
    `M`       ‖∇₁F(δ(θ), θ)‖ ≤ M; 0 where F = H
    ========  ==========================================================================

    `kind` says what the numbers are: "exact" (closed form), "certified" (upper bounds that are
    proved) or "sampled" (the largest values seen, so that a bound built on them is an estimate).
    Raises `ValueError` where 0 < μ_H ≤ L_H fails (the theorem says nothing there: see
    `active_constraint`), for a negative or NaN constant, and for another `kind`.
    """

    mu_H: float
    L_H: float
    eta_1: float
    eta_2: float
    rho_1: float
    rho_2: float
    L_21: float
    M: float
    kind: str

    def __post_init__(self) -> None:
        if not 0 < self.mu_H <= self.L_H < math.inf:
            raise ValueError(
                f"mu_H = {self.mu_H:.6g}, L_H = {self.L_H:.6g}; Theorem 1 needs 0 < mu_H <= L_H, "
                "H strongly concave in delta: use a penalty, or the form on the sphere "
                "(theory.active_constraint)"
            )
        for name in ("eta_1", "eta_2", "rho_1", "rho_2", "L_21", "M"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}; expected a number >= 0")
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}; expected one of {', '.join(KINDS)}")

    @property
    def kappa(self) -> float:
        """κ = L_H/μ_H, the condition number of the inner problem."""
        return self.L_H / self.mu_H

    @property
    def stability(self) -> float:
        r"""The factor of ‖e‖ in Theorem 1.

        .. math:: \mathcal{C} = \eta_2 + \frac{\eta_1 L_{21}}{\mu_H}
                  + \frac{\hat\rho_2 M}{\mu_H} + \frac{\hat\rho_1 L_{21} M}{\mu_H^2} .
        """
        direct = self.eta_2 + self.eta_1 * self.L_21 / self.mu_H
        if self.M == 0:  # also where ρ̂ is infinite: nothing multiplies it
            return direct
        return direct + self.M / self.mu_H * (self.rho_2 + self.rho_1 * self.L_21 / self.mu_H)

    @property
    def curvature(self) -> float:
        r"""The factor of ½‖e‖² in the second-order law, ρ̂₂ + ρ̂₁L₂₁/μ_H."""
        return self.rho_2 + self.rho_1 * self.L_21 / self.mu_H

    def bound(self, distance: float, solve_error: float = 0.0) -> float:
        r"""Theorem 1: ‖∇ψ̃ − ∇ψ‖ ≤ 𝒞‖e‖ + L₂₁ε for ‖e‖ ≤ `distance`, ‖v_K − v‖ ≤ `solve_error`.

        Raises `ValueError` for a negative one.
        """
        _check_sizes(distance=distance, solve_error=solve_error)
        return self.stability * distance + self.L_21 * solve_error

    def bound_seen(self, inner_gradient: float, residual: float) -> float:
        r"""Theorem 1 from what a program sees: ‖e‖ ≤ ‖∇₁H(δ̃)‖/μ_H, ε ≤ ‖residual‖/μ_H.

        `inner_gradient` is ‖∇₁H(δ̃, θ)‖, `residual` is ‖g − A v_K‖ (absolute, undamped: with
        `compute_residual` that is `Hypergradient.residual` times ‖g‖). Raises `ValueError` for a
        negative one.
        """
        _check_sizes(inner_gradient=inner_gradient, residual=residual)
        return self.bound(inner_gradient / self.mu_H, residual / self.mu_H)

    def naive(self, distance: float) -> float:
        r"""What the direct term alone misses: ‖∇₂F(δ̃) − ∇ψ‖ ≤ η₂‖e‖ + (L₂₁ + ρ̂₂‖e‖)M/μ_H.

        The second part does not shrink to zero with e; it is absent where F = H.
        """
        _check_sizes(distance=distance)
        floor = (self.L_21 + self.rho_2 * distance) * self.M / self.mu_H if self.M else 0.0
        return self.eta_2 * distance + floor

    def second_order(self, distance: float, factor: float = 0.0) -> float:
        r"""The second-order law, for F = H and a solver that leaves `factor` of its solution.

        .. math:: \|\nabla\tilde\psi - \nabla\psi\| \le
                  \tfrac12\Bigl(\hat\rho_2 + \frac{\hat\rho_1 L_{21}}{\mu_H}\Bigr)\|e\|^2
                  + r_K L_{21}\Bigl(\|e\| + \frac{\hat\rho_1}{2\mu_H}\|e\|^2\Bigr),

        with r_K = `factor`, e.g. `solver_factor(kappa, K, method)`; 0 is an exact solve. Raises
        `ValueError` where M is not 0 (F differs from H), or for a negative argument.
        """
        _check_sizes(distance=distance, factor=factor)
        if self.M != 0:
            raise ValueError(
                f"M = {self.M:.6g}; the second-order law holds where outer and inner objective "
                "are the same, which gives M = 0"
            )
        law = 0.5 * self.curvature * distance**2
        if factor == 0:
            return law
        size = distance + 0.5 * self.rho_1 / self.mu_H * distance**2
        return law + factor * self.L_21 * size


def optimal_step(mu: float, smooth: float) -> float:
    """α = 2/(μ + L), the step with the smallest `contraction`."""
    _check_spectrum(mu, smooth)
    return 2 / (mu + smooth)


def contraction(mu: float, smooth: float, step: float | None = None) -> float:
    r"""q_α = max(|1 − αμ|, |1 − αL|) = ‖I − αS‖ at worst, for μI ⪯ S ⪯ LI.

    The best `step`, 2/(μ + L), is taken by default: q = (κ − 1)/(κ + 1). It is below 1 exactly for
    0 < α < 2/L. Raises `ValueError` unless 0 < μ ≤ L and α > 0.
    """
    if step is None:
        step = optimal_step(mu, smooth)
    _check_spectrum(mu, smooth)
    if not step > 0:
        raise ValueError(f"step = {step}; expected > 0")
    return max(abs(1 - step * mu), abs(1 - step * smooth))


def ascent_factor(constants: Constants, steps: int, step: float | None = None) -> float:
    r"""‖δ_T − δ(θ)‖/‖δ₀ − δ(θ)‖ ≤ q_α^T for T = `steps` of gradient ascent on H."""
    _check_steps(steps)
    return contraction(constants.mu_H, constants.L_H, step) ** steps


def solver_factor(kappa: float, steps: int, method: Method, *, step: float | None = None) -> float:
    r"""‖v_K − v‖/‖v‖ at worst, after K = `steps` from zero on a system of condition κ.

    .. math:: \text{fixed point: } q^K, \qquad
              \text{conjugate gradients: } \min\bigl(1,\; 2\sqrt\kappa\,\sigma^K\bigr), \quad
              q = \frac{\kappa - 1}{\kappa + 1},\;
              \sigma = \frac{\sqrt\kappa - 1}{\sqrt\kappa + 1} .

    `step` is that of the fixed point in units of 1/μ (the best one by default); beyond 2/κ the
    factor grows with K, and so does the iteration. Raises `ValueError` for κ < 1, K < 0, or another
    method.
    """
    _check_spectrum(1.0, kappa)
    _check_steps(steps)
    if method == "fixed_point":
        return contraction(1.0, kappa, step) ** steps
    if method == "conjugate_gradient":
        if steps == 0 or kappa == 1:
            return 1.0 if steps == 0 else 0.0
        root = math.sqrt(kappa)
        return min(1.0, 2 * root * ((root - 1) / (root + 1)) ** steps)
    raise ValueError(f"method = {method!r}; expected 'fixed_point' or 'conjugate_gradient'")


def damped(mu: float, smooth: float, damping: float) -> tuple[float, float]:
    r"""(κ_m, bias): the condition number of S + mI and what damping alone does to the solution.

    .. math:: \kappa_m = \frac{L + m}{\mu + m}, \qquad
              \|(S + mI)^{-1} g - S^{-1} g\| \le \frac{m}{\mu + m}\,\|S^{-1} g\| .

    K steps on the damped system leave at most r_K(κ_m) + m/(μ + m) of ‖v‖. Raises `ValueError`
    unless 0 < μ ≤ L and m ≥ 0.
    """
    _check_spectrum(mu, smooth)
    _check_sizes(damping=damping)
    return (smooth + damping) / (mu + damping), damping / (mu + damping)


def _check_spectrum(mu: float, smooth: float) -> None:
    if not 0 < mu <= smooth < math.inf:
        raise ValueError(f"eigenvalues from {mu:.6g} to {smooth:.6g}; expected 0 < mu <= L")


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps = {steps!r}; expected an integer >= 0")


def _check_sizes(**sizes: float) -> None:
    for name, size in sizes.items():
        if not size >= 0:
            raise ValueError(f"{name} = {size}; expected a number >= 0")
