"""The inner maximisation: projected steepest ascent, and what it tells of what it found."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.sets import Region
from ibau_lite.streams import stream

__all__ = ["Ascent", "Maximum", "Objective", "starting_point"]


class Objective(Protocol):
    """What can be climbed: a `Risk`, or something else with a value and a gradient in δ."""

    @property
    def images(self) -> Tensor:
        """Images [n, C, H, W]: δ has the shape of one of them."""

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The value at (δ, θ), a scalar, and its gradient in δ."""


@dataclass(frozen=True, eq=False)
class Maximum:
    """What an inner maximisation found.

    `delta` is the best point seen and `value` H there; `values` [steps + 1] are H at the iterates
    of the climb that found it; `gap` is max_{‖z‖ ≤ C_δ} ⟨∇₁H, z − δ⟩ ≥ max H − H(δ) wherever H is
    concave (see `Ascent`), and a measure of stationarity elsewhere: 0 exactly at points that
    satisfy the first-order conditions. `climbs` are the best values of all climbs, one a start:
    where they differ, H has several hills. `region` is the set that was searched.
    """

    delta: Tensor = field(repr=False)
    value: float
    values: Tensor = field(repr=False)
    gap: float
    region: Region
    climbs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ascent:
    r"""Projected steepest ascent in the ball, δ ← Π(δ + sₜ·u(mₜ)), u the steepest direction.

    The length of a step does not depend on the size of the gradient (a poisoned network that is
    sure of itself has almost none), only on the ball and the iteration:
    sₜ = `step`·C_δ·(1 − t/T), so that the last steps settle. mₜ is ∇₁H, or with `momentum` μ > 0
    the accelerated direction mₜ = μ mₜ₋₁ + u(∇₁H). Of `starts` climbs the first leaves from the
    point given (zero by default), the others from random points of the sphere, drawn from `seed`.
    The best of all iterates is returned, with the Frank–Wolfe gap

    .. math:: \max_{\|z\| \le C_\delta} \langle \nabla_1 H, z - \delta\rangle
              = C_\delta \|\nabla_1 H\|_* - \langle \nabla_1 H, \delta\rangle ,

    an upper bound of max H − H(δ) where H is concave in δ. A climb costs `steps` + 1 forward and
    backward passes over the images of the risk.

    Raises `ValueError` for less than one step or start, a step outside (0, 2] or a momentum outside
    [0, 1).
    Source: Madry et al. 2018 (normalised projected ascent, random starts); Dong et al. 2018 (the
    momentum of normalised gradients); Jaggi 2013 (the gap).
    """

    steps: int = 10
    step: float = 0.5
    momentum: float = 0.0
    starts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.steps < 1 or self.starts < 1:
            raise ValueError(
                f"steps and starts must be at least 1, got {self.steps} and {self.starts}"
            )
        if not 0 < self.step <= 2:
            raise ValueError(f"step is a fraction of the radius in (0, 2], got {self.step}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def __call__(
        self,
        risk: Objective,
        theta: Mapping[str, Tensor],
        ball: Region,
        start: Tensor | None = None,
    ) -> Maximum:
        """Climb from every start (`start`, or zero, is the first) and return the best point seen.

        Warns if H became NaN or infinite on the way; the best finite iterate is returned then.
        Raises `FloatingPointError` if there is none.
        """
        first = ball.project(starting_point(risk, theta, start))
        draws = stream(self.seed, "defense", "ascent")
        climbs = [self._climb(risk, theta, ball, first)]
        for _ in range(self.starts - 1):
            direction = torch.randn(first.shape, generator=draws, dtype=torch.float64).to(first)
            climbs.append(self._climb(risk, theta, ball, ball.radius * ball.lmo(direction)))
        finite = [climb for climb in climbs if climb is not None]
        if not finite:
            raise FloatingPointError(
                f"H is NaN or infinite at all {self.steps + 1} iterates of {self.starts} climb(s): "
                "are θ and the start finite?"
            )
        best = max(finite, key=lambda climb: climb.value)
        if len(finite) < len(climbs) or not bool(torch.isfinite(best.values).all()):
            warnings.warn(
                "H became NaN or infinite during the ascent; the best finite iterate is returned",
                RuntimeWarning,
                stacklevel=2,
            )
        return replace(best, climbs=tuple(climb.value for climb in finite))

    def _climb(
        self, risk: Objective, theta: Mapping[str, Tensor], ball: Region, delta: Tensor
    ) -> Maximum | None:
        """One climb; None if H was finite nowhere on it."""
        values: list[Tensor] = []
        best: tuple[Tensor, Tensor, Tensor] | None = None
        direction = torch.zeros_like(delta)
        for t in range(self.steps + 1):
            value, gradient = risk.value_and_gradient(delta, theta)
            values.append(value)
            if bool(torch.isfinite(value)) and (best is None or bool(value > best[0])):
                best = (value, delta, gradient)
            if t < self.steps:
                direction = self.momentum * direction + ball.lmo(gradient)
                size = self.step * ball.radius * (1 - t / self.steps)
                ahead = ball.lmo(direction) if self.momentum else direction
                delta = ball.project(delta + size * ahead)
        if best is None:
            return None
        value, delta, gradient = best
        gap = ball.radius * ball.dual_norm(gradient) - (gradient * delta).sum()
        return Maximum(delta, float(value), torch.stack(values), float(gap), ball)


def starting_point(risk: Objective, theta: Mapping[str, Tensor], start: Tensor | None) -> Tensor:
    """`start`, or zero, where θ is and in its dtype (images may be elsewhere, in another)."""
    like = next(iter(theta.values()), risk.images)
    if start is None:
        return torch.zeros(risk.images.shape[1:], dtype=like.dtype, device=like.device)
    return start.detach().to(like)
