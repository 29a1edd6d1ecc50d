"""An ascent that looks at parts of the images first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.minimax.ascent import Ascent, Maximum
from ibau_lite.minimax.risk import Risk
from ibau_lite.sets import Region

__all__ = ["Scouted"]


@dataclass(frozen=True)
class Scouted:
    r"""Climb on parts of the images first, then on all of them from the best that was found.

    H of a poisoned network has several hills, and an ascent ends on the one it stands nearest to,
    which on one draw of images is the trigger's and on the next is not. The images are cut into
    `parts` Q₁, …, Q_p, each is climbed from the start, δ_j ≈ arg max H_{Q_j}, and the last climb,
    on all images, leaves from the δ_j with the largest H on all. It never returns less than that.
    The scouts together cost one climb on all images and `parts` evaluations of H, so the whole
    costs about twice `climb`. `climbs` of the result are H on all images at every δ_j, in order.

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
