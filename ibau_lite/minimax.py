"""The minimax problem, min_θ max_{‖δ‖ ≤ C_δ} H(δ, θ), and its inner half.

H(δ, θ) = (1/n) Σᵢ L(f_θ(xᵢ + δ), yᵢ) is a `Risk`; {δ : ‖δ‖ ≤ C_δ} is an `L2Ball` of
`ibau_lite.sets`; an `Ascent` goes looking for the maximiser δ(θ) in one set. A `Search` does it in
several: `Untargeted`, or `Targeted` toward the classes that stand out. What is done with the answer
is up to `ibau_lite.hypergrad`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.logits import at, check_reads_alone
from ibau_lite.sets import Region
from ibau_lite.streams import stream

__all__ = [
    "Ascent",
    "Climb",
    "FirstOrderOracle",
    "Maximum",
    "OnePass",
    "Risk",
    "Scattered",
    "Search",
    "Target",
    "Targeted",
    "Toward",
    "Untargeted",
    "climbed",
    "images_for_each",
    "scores",
    "starting_point",
    "toward_each_class",
]


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


Target = int | Literal["scattered"] | None
"""What a δ leads to: one class, each class to another one, or nothing in particular."""


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
    searched. `target` says what was climbed (`climbed`): the class, "scattered", or None for H.
    """

    delta: Tensor = field(repr=False)
    value: float
    values: Tensor = field(repr=False)
    gap: float
    region: Region
    climbs: tuple[float, ...] = ()
    target: Target = None


class Climb(Protocol):
    """What looks for the worst δ in one set, from `start` or zero: `Ascent`, `OnePass`."""

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> Maximum: ...


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
class OnePass:
    r"""The inner loop of the published code: one optimiser step on each batch of the clean set.

    δ ← δ + `step`·∇₁H_b(δ, θ) from δ = 0 ("sgd"; or Adam with that step), unconstrained on the
    way, then projected to the ball once. One forward and one backward pass over the clean set.
    There is no guarantee that H grows, so the last point is returned, and `values` are H on the
    batches, each before its step. What that δ is worth is not known without another pass: `value`
    is the last of the `values`, and the gap is not computed (NaN). Raises
    `FloatingPointError` where the step is so long that δ or H overflows.

    Source: the code released with Zeng et al. 2022.
    """

    step: float = 10.0
    optimizer: str = "sgd"
    batch_size: int = 100

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', got {self.optimizer!r}")
        if not self.step > 0 or self.batch_size < 1:
            raise ValueError(f"step and batch_size must be positive, got {self}")

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> Maximum:
        """One pass over the images of the risk, in their order, from `start` (zero by default)."""
        delta = starting_point(risk, theta, start).clone()
        kind = torch.optim.SGD if self.optimizer == "sgd" else torch.optim.Adam
        optimizer = kind([delta], lr=self.step, maximize=True)
        values = []
        for first in range(0, len(risk), self.batch_size):
            batch = risk.subset(slice(first, first + self.batch_size))
            value, delta.grad = batch.value_and_gradient(delta, theta)
            optimizer.step()
            values.append(value)
        if not bool(delta.isfinite().all() & values[-1].isfinite()):
            raise FloatingPointError(
                f"δ or H is NaN or infinite after a pass: lower step {self.step:g}"
            )
        delta = ball.project(delta)
        return Maximum(delta, float(values[-1]), torch.stack(values), math.nan, ball)


@dataclass(frozen=True, eq=False)
class Toward:
    r"""A_k(δ, θ) = −(1/n) Σᵢ L(f_θ(xᵢ + δ), k): how far δ leads the images to the class `target`.

    The images are those of `risk`; its labels and its penalty are left out. Called and climbed as a
    `Risk` is. Source: Moosavi-Dezfooli et al. 2017 (universal perturbations, here with a target).
    """

    risk: Risk
    target: int

    @property
    def images(self) -> Tensor:
        """Images [n, C, H, W]."""
        return self.risk.images

    def __call__(self, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """A_k at (δ, θ): a differentiable scalar."""
        return -self._relabelled(delta, theta)

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(A_k, ∇₁A_k) at (δ, θ), without a graph."""
        value, gradient = self._relabelled.value_and_gradient(delta, theta)
        return -value, -gradient

    @property
    def _relabelled(self) -> Risk:
        labels = torch.full((len(self.risk),), self.target, device=self.risk.labels.device)
        return replace(self.risk, labels=labels, penalty=0.0)


@dataclass(frozen=True, eq=False)
class Scattered:
    r"""How far δ leads all images away from their classes, but not to one class.

    .. math:: B(\delta, \theta) = \frac1n \sum_i \bigl(1 - p_{y_i}(x_i + \delta)\bigr)
              + \mathcal H\Bigl(\frac1n \sum_i p(x_i + \delta)\Bigr),
              \qquad p = \mathrm{softmax} f_\theta,

    with the entropy 𝓗 in nats. H is largest where δ leads all images to one class, which is how
    universal perturbations of any network end. The entropy is least there, and the first term is
    bounded, so that no image is worth more than being wrong. An all-to-all backdoor, whose trigger
    leads each class to another one, stands higher here than what a network without one has. Called
    and climbed as a `Risk` is; its penalty is left out.

    Source: Moosavi-Dezfooli et al. 2017 observe that universal perturbations end in a few
    dominant labels; this objective is ours.
    """

    risk: Risk

    @property
    def images(self) -> Tensor:
        """Images [n, C, H, W]."""
        return self.risk.images

    def __call__(self, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """B at (δ, θ): a differentiable scalar."""
        answers = self.risk.logits(delta, theta).softmax(1)
        labels = self.risk.labels.to(answers.device)
        mean = answers.mean(0)
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        return 1 - answers.gather(1, labels[:, None]).mean() - (mean * log_mean).sum()

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B, ∇₁B) at (δ, θ), without a graph; all images at once, since 𝓗 is of their mean."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        point = delta.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self(point, fixed)
            (slope,) = torch.autograd.grad(value, point)
        return value.detach(), slope


def climbed(risk: Risk, target: Target) -> Risk | Toward | Scattered:
    """What a δ with this target climbs, on the images of `risk`."""
    if target is None:
        return risk
    return Scattered(risk) if target == "scattered" else Toward(risk, target)


def toward_each_class(
    risk: Risk,
    theta: Mapping[str, Tensor],
    sets: Sequence[Region],
    climb: Ascent,
    progress: Callable[[], object] = lambda: None,
) -> tuple[list[list[Tensor]], Tensor]:
    r"""A δ toward every class in every set, and the heights [S, K] of H there.

    .. math:: \delta_k^S \approx \arg\max_{\delta \in S} A_k(\delta, \theta), \qquad
              h_k^S = H(\delta_k^S, \theta) .

    `progress` is called after every climb. With K classes and n images that costs S·K·n·(`steps` +
    2) image passes. Source: Wang et al. 2019 (Neural Cleanse) look for a trigger of every class.
    """
    deltas: list[list[Tensor]] = []
    for region in sets:
        deltas.append([])
        for target in range(_classes(risk, theta)):
            deltas[-1].append(climb(Toward(risk, target), theta, region).delta)
            progress()
    return deltas, torch.tensor([[risk.value(d, theta) for d in row] for row in deltas])


def scores(heights: Tensor) -> Tensor:
    r"""How far each class stands out: s_k = mean over sets of h_k / median_j h_j. [S, K] → [K].

    >>> scores(torch.tensor([[1.0, 2.0, 6.0], [1.0, 1.0, 2.0]]))
    tensor([0.7500, 1.0000, 2.5000])
    """
    return (heights / heights.quantile(0.5, dim=1, keepdim=True)).mean(0)


class Search(Protocol):
    """The inner player of a defence: δ in the `sets`, given those of the round before.

    What comes back are the δ that the outer player takes in turn: of `before` those that are kept,
    as they are, and then what is new.
    """

    def __call__(
        self,
        risk: Risk,
        theta: Mapping[str, Tensor],
        sets: Sequence[Region],
        before: tuple[Maximum, ...] = (),
    ) -> tuple[Maximum, ...]: ...


@dataclass(frozen=True)
class Untargeted:
    """δ ≈ arg max H in every set, anew in each round: the talk's inner player."""

    climb: Climb = Ascent(8)

    def __call__(
        self,
        risk: Risk,
        theta: Mapping[str, Tensor],
        sets: Sequence[Region],
        before: tuple[Maximum, ...] = (),
    ) -> tuple[Maximum, ...]:
        """One δ a set; `before` is forgotten."""
        return tuple(self.climb(risk, theta, region) for region in sets)


@dataclass(frozen=True)
class Targeted:
    r"""Climb toward the classes that stand out, in every set, and keep what was found before.

    A backdoor sends every image to one class, but H grows in whatever direction leaves the true
    one: where the nearest maximum belongs to another class, an ascent of H never sees the trigger.
    So the first round climbs toward every class k, by A_k of `Toward`, and scores the classes
    (`scores`). Those whose score is at least `threshold`, and half of the highest, are the
    suspects. Where there is none, a δ climbs `Scattered` in each set: if one of them misleads at
    least the share `scattered` of the images (None: it is not asked), and no answer has more than
    two thirds of them, the suspect is no class but an all-to-all backdoor. Otherwise the `fallback`
    highest classes are the suspects.

    In every round δ is sought toward each suspect in each set, and the outer player takes these and
    all δ of earlier rounds in turn: a network that follows the newest δ alone (`keep` False)
    forgets the older ones.

    Of the images of the risk a climb toward a class sees max(20, 400 / K) in the first round and 50
    later, `Scattered` all of them. `climbs` of the result are the scores of the classes.

    Raises `ValueError` for a threshold below 1, no suspect, or a share outside (0, 1].
    Source: Wang et al. 2019 (a trigger for every class, outliers from the median); Brown 1951
    (fictitious play: answer all earlier moves of the other player); Tramèr and Boneh 2019, Maini et
    al. 2020 (training against a union of sets).
    """

    climb: Ascent = Ascent(8)
    threshold: float = 2.0
    fallback: int = 3
    keep: bool = True
    scattered: float | None = 0.8

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, scattered="(0, 1]")
        if not self.threshold >= 1 or self.fallback < 1:
            raise ValueError(
                "threshold and fallback must be at least 1, got "
                f"{self.threshold} and {self.fallback}"
            )

    def __call__(
        self,
        risk: Risk,
        theta: Mapping[str, Tensor],
        sets: Sequence[Region],
        before: tuple[Maximum, ...] = (),
    ) -> tuple[Maximum, ...]:
        """`before`, and a δ toward each suspect in each set; the first call finds the suspects."""
        if before:
            known, suspects = before[0].climbs, dict.fromkeys(each.target for each in before)
        else:
            few = risk.subset(slice(images_for_each(_classes(risk, theta))))
            found = scores(toward_each_class(few, theta, sets, self.climb)[1])
            known, suspects = tuple(found.tolist()), dict.fromkeys(self.suspects(found))
            if float(found.max()) < self.threshold and self._scatters(risk, theta, sets):
                suspects = {"scattered": None}
        new, some = [], risk.subset(slice(_IMAGES))
        for target in suspects:
            for region in sets:
                seen = risk if target == "scattered" else some
                maximum = self.climb(climbed(seen, target), theta, region)
                value = risk.value(maximum.delta, theta)
                new.append(replace(maximum, value=value, climbs=known, target=target))
        return (*before, *new) if self.keep else tuple(new)

    def _scatters(self, risk: Risk, theta: Mapping[str, Tensor], sets: Sequence[Region]) -> bool:
        """Whether a δ misleads most images, and not for the sake of one class."""
        if self.scattered is None:
            return False
        for region in sets:
            delta = self.climb(Scattered(risk), theta, region).delta
            with torch.no_grad():
                answers = risk.logits(delta, theta).argmax(1)
            misled = float((answers != risk.labels.to(answers.device)).double().mean())
            if misled >= self.scattered and 3 * int(answers.bincount().max()) <= 2 * len(answers):
                return True
        return False

    def suspects(self, found: Tensor) -> list[int]:
        """The classes that stand out, the highest score first, or the `fallback` highest."""
        ranked = found.argsort(descending=True).tolist()
        least = max(self.threshold, float(found.max()) / 2)
        return [k for k in ranked if found[k] >= least] or ranked[: self.fallback]


_IMAGES = 50  # of a climb toward a suspect


def images_for_each(classes: int) -> int:
    """How many images a climb toward one of so many classes sees: 400 in all, and at least 20."""
    return max(20, 400 // classes)


def _classes(risk: Risk, theta: Mapping[str, Tensor]) -> int:
    """How many classes the model tells apart."""
    one = risk.subset(slice(1))
    with torch.no_grad():
        return one.logits(starting_point(one, theta, None), theta).shape[1]
