"""Sampled constants of Theorem 1: the largest values seen, by products with vectors only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ibau_lite.hypergrad import Objective, SecondDerivatives
from ibau_lite.solvers import lanczos

from .convergence import Constants

__all__ = ["mixed_norm", "sampled_constants"]

Theta = Mapping[str, Tensor]
Product = Callable[[Tensor], Tensor]


def sampled_constants(
    inner: Objective,
    outer: Objective,
    solution: Tensor,
    delta: Tensor,
    theta: Theta,
    *,
    points: int = 3,
    steps: int = 30,
    seed: int = 0,
) -> Constants:
    r"""Estimates of the constants of Theorem 1 for H = `inner`, F = `outer` around δ(θ).

    Norms are taken at δ(θ) = `solution`, at δ̃ = `delta`, at `points` points evenly spaced between
    them and at as many random ones of the ball around δ(θ) that reaches to δ̃: μ_H and L_H are the
    extreme eigenvalues of −∇₁²H that were seen, L₂₁ the largest ‖∇²₂₁H‖, η₁ and η₂ the largest
    ‖∇₁²F‖ and ‖∇²₂₁F‖ (their suprema on a convex set are the Lipschitz constants). ρ̂₁ and ρ̂₂ are
    seen along lines through δ(θ) only,

    .. math:: \hat\rho_1 \approx \max_j
              \frac{\|\nabla_1^2 H(\delta_j) - \nabla_1^2 H(\delta(\theta))\|}
                   {\|\delta_j - \delta(\theta)\|} \quad\text{(ρ̂₂ likewise).}

    All norms are extreme Ritz values of `steps` Lanczos steps, so they too are seen from below. M
    is taken at δ(θ); ``outer is inner`` gives M = 0, whatever is left of the gradient there. The
    cost is about 10·steps products a point.

    Raises `ValueError` where δ̃ = δ(θ), and as `Constants` where H is not concave at one of the
    points.
    """
    e = delta - solution
    if not bool(e.norm() > 0):
        raise ValueError("delta equals the solution: there is no segment to sample")
    generator = torch.Generator().manual_seed(seed)
    others = [delta]
    for j in range(points):
        u = torch.randn(e.shape, generator=generator, dtype=torch.float64).to(e)
        size = torch.rand((), generator=generator, dtype=torch.float64).to(e)
        others += [solution + (j + 1) / (points + 1) * e, solution + size * e.norm() / u.norm() * u]

    best = _Point(inner, solution, theta, steps)
    rows = [best.norms(None if outer is inner else outer)]
    changes = [(0.0, 0.0)]
    for place in others:
        here = _Point(inner, place, theta, steps)
        rows.append(here.norms(None if outer is inner else outer))
        gap = float((place - solution).norm())
        changes.append(tuple(change / gap for change in here.changes(best)))  # type: ignore[arg-type]
    low, high, mixed, eta_1, eta_2 = zip(*rows, strict=True)
    rho_1, rho_2 = (max(column) for column in zip(*changes, strict=True))
    slope = (
        0.0 if outer is inner else float(SecondDerivatives(outer, solution, theta).gradient.norm())
    )
    return Constants(
        mu_H=min(low),
        L_H=max(high),
        eta_1=max(eta_1),
        eta_2=max(eta_2),
        rho_1=rho_1,
        rho_2=rho_2,
        L_21=max(mixed),
        M=slope,
        kind="sampled",
    )


def mixed_norm(inner: Objective, delta: Tensor, theta: Theta, *, steps: int = 30) -> float:
    """‖∇²₂₁H(δ, θ)‖, seen from below by `steps` Lanczos steps on BᵀB."""
    return _Point(inner, delta, theta, steps).mixed_norm()


class _Point:
    """Products with the two Hessians of a function at one δ, and their norms."""

    def __init__(self, function: Objective, delta: Tensor, theta: Theta, steps: int) -> None:
        self.delta, self.theta, self.steps = delta, theta, steps
        self.graph = SecondDerivatives(function, delta, theta)
        self._shapes = {name: p.shape for name, p in theta.items()}

        # Bᵀ is the mixed product of the same function with its arguments exchanged.
        def exchanged(flat: Tensor, other: Mapping[str, Tensor]) -> Tensor:
            return function(other["delta"], self._split(flat))

        self._exchanged = SecondDerivatives(exchanged, self._flat(theta), {"delta": delta})

    def mixed(self, v: Tensor) -> Tensor:
        """B v as one vector."""
        return self._flat(self.graph.mixed(v))

    def mixed_transposed(self, t: Tensor) -> Tensor:
        """Bᵀ t, like δ."""
        return self._exchanged.mixed(t)["delta"]

    def mixed_norm(self) -> float:
        """‖B‖."""
        return self._largest(self.mixed, self.mixed_transposed)

    def norms(self, outer: Objective | None) -> tuple[float, float, float, float, float]:
        """Extreme eigenvalues of -A, ‖B‖, and ‖A‖ and ‖B‖ of `outer` (None: of the same)."""
        values = self._ritz(lambda v: -self.graph.hessian(v))
        low, high, mixed = float(values[0]), float(values[-1]), self.mixed_norm()
        if outer is None:
            return low, high, mixed, max(-low, high), mixed
        other = _Point(outer, self.delta, self.theta, self.steps)
        return (
            low,
            high,
            mixed,
            float(other._ritz(other.graph.hessian).abs().max()),
            (other.mixed_norm()),
        )

    def changes(self, best: _Point) -> tuple[float, float]:
        """‖A − A*‖ and ‖B − B*‖."""
        hessian = self._ritz(lambda v: self.graph.hessian(v) - best.graph.hessian(v))
        mixed = self._largest(
            lambda v: self.mixed(v) - best.mixed(v),
            lambda t: self.mixed_transposed(t) - best.mixed_transposed(t),
        )
        return float(hessian.abs().max()), mixed

    def _ritz(self, product: Product) -> Tensor:
        """Ritz values, ascending, of a symmetric operator on tensors like δ."""
        shape, size = self.delta.shape, self.delta.numel()
        return lanczos(
            lambda v: product(v.reshape(shape)).reshape(-1),
            size,
            min(self.steps, size),
            dtype=self.delta.dtype,
            device=self.delta.device,
        ).values

    def _largest(self, forward: Product, backward: Product) -> float:
        """The largest singular value of `forward`, whose transpose is `backward`."""
        return float(self._ritz(lambda v: backward(forward(v)))[-1].clamp_min(0).sqrt())

    def _flat(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].reshape(-1) for name in self._shapes])

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = flat.split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in named}
