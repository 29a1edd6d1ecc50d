"""An ascent that aims at every class first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.minimax.ascent import Ascent, Maximum, starting_point
from ibau_lite.minimax.risk import Risk
from ibau_lite.sets import Region

__all__ = ["Aimed", "Toward", "classes"]


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
