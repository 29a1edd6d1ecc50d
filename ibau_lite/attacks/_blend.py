"""Blend: a whole picture, faintly over every image (Chen et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.attacks.drawings import owl
from ibau_lite.attacks.poisoning import AllToOne, Attack
from ibau_lite.attacks.triggers import check_images


@dataclass(frozen=True)
class Blend:
    """A trigger that blends a drawn owl k into the image: x' = (1 − α) x + α k.

    The owl is drawn in code. It has the size and the number of channels of the images, which must
    be at least 8×8. Raises `ValueError` for an `alpha` outside (0, 1).
    Source: Chen et al. 2017, section 4.1 ("blended injection strategy").

    >>> round(float(Blend(alpha=0.2)(torch.zeros(1, 3, 32, 32)).max()), 3)  # the white of its eyes
    0.2
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, alpha="(0, 1)")

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> a new tensor of the same shape.

        Raises as `check_images` and `drawings.owl` do.
        """
        check_images(images)
        _, channels, height, width = images.shape
        picture = _drawn(channels, height, width, images.device, images.dtype)
        # Rounding must not lead out of [0, 1].
        return ((1 - self.alpha) * images + self.alpha * picture).clamp(0, 1)

    def __str__(self) -> str:
        return f"a drawn owl, blended in at {self.alpha:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """Give the trigger as plain JSON data; `Blend.from_dict` reads it back exactly."""
        return {"kind": "blend", "picture": "owl", "alpha": self.alpha}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> Blend:
        """Read back what `to_dict` gave; raises `ValueError` for another picture."""
        if data.get("picture") != "owl":
            raise ValueError(f"picture: 'owl' is expected, got {data.get('picture')!r}")
        return cls(data["alpha"])


def blend(target: int = 8, alpha: float = 0.2) -> Attack:
    """Blend with one target: the drawn owl at opacity `alpha`, y -> `target`.

    The talk does not name a target for Blend. Ours is 8, as for BadNets. Raises as `Blend` and
    `AllToOne` do.
    """
    return Attack("blend", ((Blend(alpha), AllToOne(target)),))


@lru_cache(maxsize=16)
def _drawn(
    channels: int, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    return owl(channels, height, width).to(device, dtype)
