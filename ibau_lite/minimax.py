"""The minimax problem, min_θ max_{‖δ‖ ≤ C_δ} H(δ, θ), and its inner half.

H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ) is a `Risk`; {δ : ‖δ‖ ≤ C_δ} is an `L2Ball` of
`ibau_lite.sets`; an `Ascent` goes looking for the maximiser δ(θ), and `Scouted` does it from
several places, since H has several hills. What is done with the answer is up to
`ibau_lite.hypergrad`. Further searches: `ibau_lite.searches`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite._kinds import check_kinds
from ibau_lite.logits import at, check_reads_alone
from ibau_lite.sets import Region
from ibau_lite.streams import stream

__all__ = ["Ascent", "FirstOrderOracle", "Maximum", "Risk", "Scouted", "Search", "starting_point"]


@dataclass(frozen=True, eq=False)
class Risk:
    """H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ) − penalty·‖δ‖², with L the cross-entropy.

    Called as `risk(delta, theta)` it is one differentiable scalar over all its images, the form
    that `ibau_lite.hypergrad` takes; `value` and `value_and_gradient` need memory for `chunk`
    images only.

    Fields:
        model: a classifier in evaluation mode (H must not depend on the other images of a batch);
            its buffers are used as they are, its parameters replaced by `theta`.
        images [n, C, H, W], labels [n]: on any device; they go to δ's a call, or a chunk, at a
            time, so that a set larger than the device's memory (or a memory map) will do. Labels
            may also be probabilities [n, K]: L is the cross-entropy with them.
        penalty: of the inner objective of the published code (0.001); 0 in the talk.
        clamp: evaluate at clamp(x + δ, 0, 1), which is what a camera could see; the talk does not.
        stamped: a boolean [n]: images that carry δ, all of them by default.
        chunk: how many images `value_and_gradient` and `chunks` take at once.

    δ and the model are of one floating dtype, to which the images are cast a call at a time.
    Raises `ValueError` for no images, shapes that do not fit, a mask that is not boolean, a
    negative penalty, a chunk below 1, or a model (or a part of it) in training mode or with a norm
    that mixes images in evaluation mode.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    penalty: float = 0.0
    clamp: bool = False
    stamped: Tensor | None = None
    chunk: int = 500

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(
                "H is a mean over images [n, C, H, W]: at least one is needed, "
                f"got shape {list(self.images.shape)}"
            )
        for name in ("labels", "stamped"):
            given = getattr(self, name)
            if given is None:
                continue
            soft = name == "labels" and given.is_floating_point()  # [n, K]
            if len(given) != len(self.images) or given.ndim != 1 + soft:
                raise ValueError(
                    f"{name} must have shape [{len(self.images)}{', classes' if soft else ''}], "
                    f"got {list(given.shape)}"
                )
        if self.stamped is not None and self.stamped.dtype != torch.bool:
            raise ValueError(f"stamped must be boolean, got {self.stamped.dtype}")
        if not (self.penalty >= 0 and math.isfinite(self.penalty)):
            raise ValueError(f"penalty must be finite and at least 0, got {self.penalty!r}")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if any(module.training for module in self.model.modules()):
            raise ValueError(
                "the model must be in evaluation mode (model.eval()): H is not a function of θ "
                "and δ alone while batch statistics or dropout enter it"
            )
        check_reads_alone(self.model)

    def __call__(self, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """H(δ, θ) for δ [C, H, W] and θ a dict of tensors: a differentiable scalar.

        Raises `ValueError` for a δ of another shape. A parameter that `theta` does not name is
        taken from the model.
        """
        logits = self.logits(delta, theta)
        soft = self.labels.is_floating_point()
        value = F.cross_entropy(logits, self.labels.to(logits if soft else delta.device))
        # (δ·δ), not ‖δ‖²: the norm has no derivative at δ = 0.
        return value - self.penalty * (delta * delta).sum() if self.penalty else value

    def logits(self, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """f_θ(xᵢ + δ) as H takes it, stamped and clamped: [n, K]. Errors as for H."""
        if delta.shape != self.images.shape[1:]:
            raise ValueError(
                f"delta must have the shape {list(self.images.shape[1:])} of one image, "
                f"got {list(delta.shape)}"
            )
        shift = delta
        if self.stamped is not None:
            shift = delta * self.stamped.to(delta)[:, None, None, None]
        inputs = self.images.to(delta) + shift
        if self.clamp:
            inputs = inputs.clamp(0, 1)
        return at(self.model, theta, inputs)

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice) -> Risk:
        """The same risk over some of the images."""
        stamped = None if self.stamped is None else self.stamped[index]
        return Risk(
            self.model,
            self.images[index],
            self.labels[index],
            self.penalty,
            self.clamp,
            stamped,
            self.chunk,
        )

    def chunks(self) -> Iterator[tuple[float, Risk]]:
        """Parts of at most `chunk` images with their weights: H = Σ weight · H_part."""
        for start in range(0, len(self), self.chunk):
            part = self.subset(slice(start, start + self.chunk))
            yield len(part) / len(self), part

    def value(self, delta: Tensor, theta: Mapping[str, Tensor]) -> float:
        """H at (δ, θ), a chunk at a time and without a graph."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        with torch.no_grad():
            return sum(weight * float(part(delta, fixed)) for weight, part in self.chunks())

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(H, ∇₁H) at (δ, θ): a scalar and a tensor like δ, without a graph."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        value, gradient = delta.new_zeros(()), torch.zeros_like(delta)
        for weight, part in self.chunks():
            point = delta.detach().requires_grad_(True)
            with torch.enable_grad():
                partial = part(point, fixed)
                (slope,) = torch.autograd.grad(partial, point)
            value, gradient = value + weight * partial.detach(), gradient + weight * slope
        return value, gradient


class FirstOrderOracle(Protocol):
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
    satisfy the first-order conditions. `climbs` are the values that the climbs reached, as the
    search says: where they differ, H has several local maxima. `region` is the set that was
    searched.
    """

    delta: Tensor = field(repr=False)
    value: float
    values: Tensor = field(repr=False)
    gap: float
    region: Region
    climbs: tuple[float, ...] = ()


class Search(Protocol):
    """What looks for the worst δ in a set, from `start` or zero: one δ is found, or several.

    The searches of `ibau_lite.searches` are further ones.
    """

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> Maximum | tuple[Maximum, ...]: ...


@dataclass(frozen=True)
class Ascent:
    r"""Projected steepest ascent in the ball, δ ← Π(δ + sₜ·u(∇₁H)), u the steepest direction.

    The length of a step does not depend on the size of the gradient (a poisoned network that is
    sure of itself has almost none), only on the ball and the iteration:
    sₜ = `step`·C_δ·(1 − t/T), so that the last steps settle. Of `starts` climbs the first leaves
    from the point given (zero by default), the others from random points of the sphere, drawn from
    `seed`. The best of all iterates is returned, with the Frank–Wolfe gap

    .. math:: \max_{\|z\| \le C_\delta} \langle \nabla_1 H, z - \delta\rangle
              = C_\delta \|\nabla_1 H\|_* - \langle \nabla_1 H, \delta\rangle ,

    an upper bound of max H − H(δ) where H is concave in δ. A climb costs `steps` + 1 forward and
    backward passes over the images of the risk.

    Raises `ValueError` for less than one step or start, or a step outside (0, 2].
    Source: Madry et al. 2018 (normalised projected ascent, random starts); Jaggi 2013 (the gap).
    """

    steps: int = 10
    step: float = 0.5
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

    def __call__(
        self,
        risk: FirstOrderOracle,
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
        self, risk: FirstOrderOracle, theta: Mapping[str, Tensor], ball: Region, delta: Tensor
    ) -> Maximum | None:
        """One climb; None if H was finite nowhere on it."""
        values: list[Tensor] = []
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for t in range(self.steps + 1):
            value, gradient = risk.value_and_gradient(delta, theta)
            values.append(value)
            if bool(torch.isfinite(value)) and (best is None or bool(value > best[0])):
                best = (value, delta, gradient)
            if t < self.steps:
                size = self.step * ball.radius * (1 - t / self.steps)
                delta = ball.project(delta + size * ball.lmo(gradient))
        if best is None:
            return None
        value, delta, gradient = best
        gap = ball.radius * ball.dual_norm(gradient) - (gradient * delta).sum()
        return Maximum(delta, float(value), torch.stack(values), float(gap), ball)


def starting_point(
    risk: FirstOrderOracle, theta: Mapping[str, Tensor], start: Tensor | None
) -> Tensor:
    """`start`, or zero, where θ is and in its dtype (images may be elsewhere, in another)."""
    like = next(iter(theta.values()), risk.images)
    if start is None:
        return torch.zeros(risk.images.shape[1:], dtype=like.dtype, device=like.device)
    return start.detach().to(like)


@dataclass(frozen=True)
class Scouted:
    r"""Climb on parts of the images first, then on all of them from the best that was found.

    H of a poisoned network has several local maxima, and which one an ascent reaches varies with
    the draw of images. The images are cut into `parts` Q₁, …, Q_p. Each part is climbed from the
    start, δ_j ≈ arg max H_{Q_j}. The last climb, on all images, leaves from the δ_j with the
    largest H on all, and never returns less than that. The climbs on parts together cost one climb
    on all images and `parts` evaluations of H, so the whole costs about twice `climb`. `climbs` of
    the result are H on all images at every δ_j, in order.

    Raises `ValueError` for less than one part; fewer images than parts make as many parts as there
    are images. Warns and raises as `Ascent` does.
    """

    climb: Ascent = Ascent(8)
    parts: int = 4

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.parts < 1:
            raise ValueError(f"parts must be at least 1, got {self.parts}")

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> Maximum:
        """Climb on each part from `start` (zero by default), then on all images from the best."""
        scouts: list[tuple[float, Tensor]] = []
        for index in torch.arange(len(risk)).tensor_split(min(self.parts, len(risk))):
            part = risk.subset(slice(int(index[0]), int(index[-1]) + 1))
            delta = self.climb(part, theta, ball, start).delta
            scouts.append((risk.value(delta, theta), delta))
        _, best = max(scouts, key=lambda scout: scout[0] if math.isfinite(scout[0]) else -math.inf)
        found = self.climb(risk, theta, ball, best)
        return replace(found, climbs=tuple(value for value, _ in scouts))
