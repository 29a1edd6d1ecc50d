"""Further searches for δ: several sets, several classes, and the published code's single pass."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.minimax import Ascent, FirstOrderOracle, Maximum, Risk, starting_point
from ibau_lite.sets import Blocks, L1Ball, L2Ball, Region, Within, windows

__all__ = ["Aimed", "AimedUnion", "OnePass", "Scattering"]


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


@dataclass(frozen=True)
class Aimed:
    r"""Aim at each class in turn, then climb H on all images from the best that was found.

    A backdoor sends every image to one class, but H grows in whatever direction leaves the true
    one: where the nearest hill belongs to another class, an ascent never sees the trigger's. So for
    every class k a scout climbs

    .. math:: A_k(\delta) = -\frac1m \sum_{i \le m} L(f_\theta(x_i + \delta), k)

    from the start, on the first `images` images; of these points the `finals` with the largest H
    on all images are climbed on, by H on all images, and the best of it all is returned. With K
    classes that costs K·`images`·(`steps` + 1) image passes forward and back for the scouts, K
    evaluations of H, and `finals` climbs. `climbs` of the result are H on all images at the scouts'
    points, class by class. A penalty of the risk counts in H only.

    Raises `ValueError` for less than one image or final climb. Warns and raises as `Ascent` does.
    Source of the scouts: Wang et al. 2019 (Neural Cleanse) search a trigger for every class;
    universal and targeted perturbations are Moosavi-Dezfooli et al. 2017.
    """

    climb: Ascent = Ascent(8)
    images: int = 50
    finals: int = 2

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.images < 1 or self.finals < 1:
            raise ValueError(
                f"images and finals must be at least 1, got {self.images} and {self.finals}"
            )

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> Maximum:
        """Aim at every class from `start` (zero by default), then climb from the best."""
        part = risk.subset(slice(self.images))
        scouts: list[tuple[float, Tensor]] = []
        for label in range(classes(risk, theta)):
            delta = self.climb(Toward.of(part, label), theta, ball, start).delta
            scouts.append((risk.value(delta, theta), delta))
        ranked = sorted(scouts, key=lambda scout: -scout[0])
        found = [self.climb(risk, theta, ball, delta) for _, delta in ranked[: self.finals]]
        best = max(found, key=lambda maximum: maximum.value)
        return replace(best, climbs=tuple(value for value, _ in scouts))


@dataclass(frozen=True, eq=False)
class Toward:
    """−H, for a risk whose labels are all the class that is aimed at."""

    risk: Risk

    @classmethod
    def of(cls, risk: Risk, label: int) -> Toward:
        """Toward the class `label` with the images of a risk; its penalty is left out."""
        labels = torch.full((len(risk),), label, device=risk.labels.device)
        return cls(replace(risk, labels=labels, penalty=0.0))

    @property
    def images(self) -> Tensor:
        return self.risk.images

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        value, gradient = self.risk.value_and_gradient(delta, theta)
        return -value, -gradient


def classes(risk: Risk, theta: Mapping[str, Tensor]) -> int:
    """How many classes the model tells apart."""
    one = risk.subset(slice(1))
    with torch.no_grad():
        return one.logits(starting_point(one, theta, None), theta).shape[1]


@dataclass(frozen=True, eq=False)
class Scattering:
    r"""What a δ that misleads every image, each class elsewhere, maximises.

    .. math:: S(\delta) = \frac1n \sum_i \min\bigl(L(f_\theta(x_i + \delta), y_i), c\bigr)
              + w\, \mathcal H\Bigl(\frac1n \sum_i \mathrm{softmax} f_\theta(x_i + \delta)\Bigr)

    with the entropy 𝓗 in nats. H alone is largest where a δ leads all images to one class, since no
    logit is in its way; that is how universal perturbations of any network end. An all-to-all
    backdoor, whose δ leads every class to another one, stands lower. The `cap` c takes from H what
    makes one class worth it, and the entropy, with the `weight` w, is least where all images get
    one answer. A penalty of the risk is left out.

    Source: Moosavi-Dezfooli et al. 2017 observe that universal perturbations end in a few dominant
    labels; this objective is ours.
    """

    risk: Risk
    cap: float = 5.0
    weight: float = 3.0

    @property
    def images(self) -> Tensor:
        return self.risk.images

    def value_and_gradient(
        self, delta: Tensor, theta: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(S, ∇S) at (δ, θ), a chunk at a time: the mean answer first, then the slopes."""
        fixed = {name: parameter.detach() for name, parameter in theta.items()}
        parts = list(self.risk.chunks())
        with torch.no_grad():
            mean = torch.stack(
                [share * part.logits(delta, fixed).softmax(1).mean(0) for share, part in parts]
            ).sum(0)
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        value = -self.weight * (mean * log_mean).sum()
        gradient = torch.zeros_like(delta)
        for share, part in parts:
            point = delta.detach().requires_grad_(True)
            with torch.enable_grad():
                logits = part.logits(point, fixed)
                labels = part.labels.to(logits.device)
                loss = F.cross_entropy(logits, labels, reduction="none").clamp_max(self.cap).mean()
                # d𝓗(p̄) = −Σ log p̄ dp̄, since Σ dp̄ = 0
                scattered = -(logits.softmax(1).mean(0) * log_mean).sum()
                (slope,) = torch.autograd.grad(loss + self.weight * scattered, point)
            value, gradient = value + share * loss.detach(), gradient + share * slope
        return value, gradient


@dataclass(frozen=True)
class AimedUnion:
    r"""Find the aim by sparse δ, then climb toward it in several sets.

    What a trigger looks like is not known: spread over the image, smooth, or a patch. In the ball
    alone the largest H may belong to a δ of another class, to which any network can be led, and a
    patch of a larger norm is not in it. So

    1. one δ climbs `Scattering` in the ball, on all images. If it misleads more than `scattered` of
       them, and no class gets more than half, that is the aim, and no class is. Otherwise a scout
       climbs −L(f(x + δ), k) for every class k in the ball of sparse δ, and H on all images at its
       end is the height of the class. The aims are the classes that stand more than `outlier`
       times as high as the median class and at least half as high as the highest (where none does,
       the highest `aims`), or those that reach `near` of the highest, whichever are more: where
       nothing stands out clearly, any may be the one.
    2. for each aim, δ are sought in three sets: the `ball`, those of it that are constant on
       `blocks`, and ‖δ‖ ≤ `patch` inside a window of half the image's side, of nine windows the one
       where the climb toward the aim ends at the largest H. With `keep_scouts` the sparse δ of its
       scout comes first. In each set one δ climbs toward the aim, and from there H on all images,
       which is kept if the class is still the most frequent answer; another climbs H alone, and is
       kept if the aim is its most frequent answer.

    Returns all of them, as a tuple of `Maximum`, whose `value` is H on all images. A defence takes
    one after the other, which is the average over a union of perturbation sets. All climbs but
    those on all images see the first `images` images: with K classes, nine windows and n images in
    all a step of every climb costs (K + 15)·`images` + 4 n image passes forward and back for one
    aim. The `climbs` are H at the scouts' points, class by class (not where the aim is scattered).

    Raises `ValueError` for less than one image or aim, an outlier below 1, or a fraction outside
    (0, 1]. Warns and raises as `Ascent` does.
    Source: Wang et al. 2019 (a trigger for every class, outliers from the median); Tramèr and Boneh
    2019, Maini et al. 2020 (training against a union of perturbation sets).
    """

    climb: Ascent = Ascent(8)
    images: int = 50
    scouts: L1Ball = L1Ball(50.0)
    blocks: int = 2
    patch: float = 6.0
    aims: int = 2
    outlier: float = 2.0
    near: float = 0.75
    scattered: float = 0.75
    keep_scouts: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.images < 1 or self.aims < 1:
            raise ValueError(
                f"images and aims must be at least 1, got {self.images} and {self.aims}"
            )
        if not self.outlier >= 1:
            raise ValueError(f"outlier is a ratio of at least 1, got {self.outlier}")
        for name in ("near", "scattered"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a fraction in (0, 1], got {getattr(self, name)}")
        Blocks(self.blocks), L2Ball(self.patch)  # refuse what they refuse

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Region, start: Tensor | None = None
    ) -> tuple[Maximum, ...]:
        """Climb from `start` (zero by default), brought into the set of each climb.

        Raises `ValueError` for a set that is no `L2Ball`.
        """
        if not isinstance(ball, L2Ball):
            raise ValueError(f"ball: an L2Ball is expected, got {ball!r}")
        part = risk.subset(slice(self.images))

        def climb(
            objective: FirstOrderOracle, region: Region, at: Tensor | None = start
        ) -> Maximum:
            found = self.climb(objective, theta, region, at)
            return replace(found, value=risk.value(found.delta, theta))

        def sets(way: FirstOrderOracle, merit: Callable[[Maximum], float]) -> Iterator[Region]:
            yield from (ball, Within(ball, Blocks(self.blocks)))
            inside = [Within(L2Ball(self.patch), each) for each in windows(risk.images.shape[1:])]
            yield max(inside, key=lambda region: merit(climb(way, region)))

        def leads_to(label: int, maximum: Maximum) -> bool:
            return int(_answers(risk, theta, maximum.delta).mode().values) == label

        scattering = Scattering(risk)
        scout = climb(scattering, ball)
        if self._is_scattered(_answers(risk, theta, scout.delta), risk.labels):
            _, *others = sets(scattering, lambda maximum: float(maximum.values.max()))
            found = [scout, *(climb(scattering, region) for region in others)]
            return tuple(replace(maximum, climbs=()) for maximum in found)
        ways = [Toward.of(part, label) for label in range(classes(risk, theta))]
        scouts = [climb(way, self.scouts) for way in ways]
        heights = [scout.value for scout in scouts]
        found = []
        for aim in self.chosen(heights):
            if self.keep_scouts:
                found.append(scouts[aim])
            for region in sets(ways[aim], lambda maximum: maximum.value):
                aimed = climb(ways[aim], region)
                onward = climb(risk, region, aimed.delta)
                found.append(onward if leads_to(aim, onward) else aimed)
                away = climb(part, region)
                if leads_to(aim, away):
                    found.append(away)
        return tuple(replace(maximum, climbs=tuple(heights)) for maximum in found)

    def _is_scattered(self, answers: Tensor, labels: Tensor) -> bool:
        """Whether most answers are wrong, and not for the sake of one class."""
        misled = float((answers != labels.to(answers.device)).double().mean())
        return misled > self.scattered and 2 * int(answers.bincount().max()) <= len(answers)

    def chosen(self, heights: Sequence[float]) -> list[int]:
        """The aims among classes of these heights, from the highest on."""
        ranked = sorted(range(len(heights)), key=lambda label: -heights[label])
        highest = heights[ranked[0]]
        least = max(self.outlier * statistics.median(heights), highest / 2)
        out = [label for label in ranked if heights[label] > least] or ranked[: self.aims]
        near = [label for label in ranked if heights[label] >= self.near * highest]
        return max(out, near, key=len)  # both begin at the highest


def _answers(risk: Risk, theta: Mapping[str, Tensor], delta: Tensor) -> Tensor:
    """The classes [n] that the model sees at x + δ."""
    with torch.no_grad():
        return torch.cat([part.logits(delta, theta).argmax(1) for _, part in risk.chunks()])
