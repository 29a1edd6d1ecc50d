"""A search in several sets at once, aimed at what sparse changes lead to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.minimax.ascent import Ascent, Maximum, Objective
from ibau_lite.minimax.risk import Risk
from ibau_lite.minimax.scattering import Scattering
from ibau_lite.searches import Toward, classes
from ibau_lite.sets import Blocks, L1Ball, L2Ball, Region, Within, windows

__all__ = ["AimedUnion"]


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

        def climb(objective: Objective, region: Region, at: Tensor | None = start) -> Maximum:
            found = self.climb(objective, theta, region, at)
            return replace(found, value=risk.value(found.delta, theta))

        def sets(way: Objective, merit: Callable[[Maximum], float]) -> Iterator[Region]:
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
