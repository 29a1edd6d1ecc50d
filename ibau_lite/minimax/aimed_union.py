"""A search in several sets at once, all aimed at one class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ibau_lite.minimax.aimed import Toward, classes
from ibau_lite.minimax.ascent import Ascent, Maximum, Objective, Region
from ibau_lite.minimax.ball import Ball
from ibau_lite.minimax.risk import Risk
from ibau_lite.minimax.sparse import SparseBall
from ibau_lite.minimax.subspaces import Blocks, Within, windows

__all__ = ["AimedUnion"]


@dataclass(frozen=True)
class AimedUnion:
    r"""Find the class by sparse δ, then climb toward it in several sets.

    What a trigger looks like is not known: spread over the image, smooth, or a patch. In the ball
    alone the largest H may belong to a δ of another class, to which any network can be led, and a
    patch of a larger norm is not in it. So

    1. for every class k a scout climbs −L(f(x + δ), k) in the ball of sparse δ; the aim is the
       class whose scout ends with the largest H on all images.
    2. two δ are sought in each of three sets: the `ball`, those of it that are constant on
       `blocks`, and ‖δ‖ ≤ `patch` inside a window of half the image's side, of nine windows the one
       in which the aim succeeds best. One δ climbs toward the aim, and from there H on all images,
       wherever that leads; the other climbs H alone, and is kept if it leads most images to the
       aim.

    Returns all of them, as a tuple of `Maximum`. A defence takes one after the other, which is the
    average over a union of perturbation sets. All climbs but that on all images see the first
    `images` images: with K classes, nine windows and n images in all a step of every climb costs
    (K + 15)·`images` + 3 n image passes forward and back. The `climbs` are H at the scouts' points,
    class by class.

    Raises `ValueError` for less than one image. Warns and raises as `Ascent` does.
    Source: Wang et al. 2019 (a trigger for every class); Tramèr and Boneh 2019, Maini et al. 2020
    (training against a union of perturbation sets).
    """

    climb: Ascent = Ascent(8)
    images: int = 50
    scouts: SparseBall = SparseBall(50.0)
    blocks: int = 2
    patch: float = 6.0

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}")
        Blocks(self.blocks), Ball(self.patch)  # refuse what they refuse

    def __call__(
        self, risk: Risk, theta: Mapping[str, Tensor], ball: Ball, start: Tensor | None = None
    ) -> tuple[Maximum, ...]:
        """Climb from `start` (zero by default), brought into the set of each climb."""
        part = risk.subset(slice(self.images))

        def climb(objective: Objective, region: Region, at: Tensor | None = start) -> Maximum:
            return self.climb(objective, theta, region, at)

        def height(objective: Objective, region: Region) -> float:
            return risk.value(climb(objective, region).delta, theta)

        ways = [Toward.of(part, label) for label in range(classes(risk, theta))]
        heights = [height(way, self.scouts) for way in ways]
        aim = max(range(len(ways)), key=heights.__getitem__)
        patches = [Within(Ball(self.patch), each) for each in windows(risk.images.shape[1:])]
        patch = max(patches, key=lambda region: height(ways[aim], region))
        found = []
        for region in (ball, Within(ball, Blocks(self.blocks)), patch):
            found.append(climb(risk, region, climb(ways[aim], region).delta))
            away = climb(part, region)
            if _leads_to(risk, theta, away.delta) == aim:
                found.append(away)
        return tuple(replace(maximum, climbs=tuple(heights)) for maximum in found)


def _leads_to(risk: Risk, theta: Mapping[str, Tensor], delta: Tensor) -> int:
    """The class to which δ leads most images."""
    with torch.no_grad():
        answers = [part.logits(delta, theta).argmax(1) for _, part in risk.chunks()]
    return int(torch.cat(answers).mode().values)
