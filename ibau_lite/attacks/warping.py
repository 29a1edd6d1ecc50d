"""WaNet: the image itself, imperceptibly warped (Nguyen and Tran, ICLR 2021)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.attacks.poisoning import AllToOne, Attack
from ibau_lite.attacks.triggers import check_images
from ibau_lite.streams import stream


@dataclass(frozen=True)
class Warp:
    """A trigger that moves pixels along a smooth field: x'(p) = x(clamp(p + s·F(p) / H)).

    p is in [−1, 1]². F is `grid` × `grid` × 2 numbers, uniform in [−1, 1] from `seed`, divided by
    their mean magnitude and interpolated (bicubic) to the image's size; `strength` is s. What it
    adds differs from image to image: no δ is common to all. With `noisy` every image gets its own
    uniform shift of every pixel, in [−1, 1]/H, on top: the cover images of the attack; its random
    numbers come from `seed` and the image's own bytes, so that the same image is always warped
    alike. Images of at least 8×8 pixels, any number of channels.

    Raises `ValueError` for a grid below 2 or above 1,000, a strength that is not positive and
    finite, and when called on smaller images. Source: Nguyen and Tran 2021, equations 3 to 6; k = 4
    and s = 0.5 are theirs.
    """

    grid: int = 4
    strength: float = 0.5
    seed: int = 0
    noisy: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 2 <= self.grid <= 1000 or not 0 < self.strength < math.inf:
            raise ValueError(
                "grid of 2 to 1000 and positive strength are expected, "
                f"got {self.grid!r} and {self.strength!r}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> the same, a new tensor.

        Raises as `check_images` does.
        """
        check_images(images)
        height, width = images.shape[2:]
        if min(height, width) < 8:
            raise ValueError(f"images of at least 8×8 pixels are expected, got {height}×{width}")
        if not len(images):
            return images.clone()
        places = _places(self, height, width).to(images)[None].expand(len(images), -1, -1, -1)
        if self.noisy:
            places = places + torch.stack([self._jitter(image) for image in images]) / height
        warped = F.grid_sample(images, places.clamp(-1, 1), align_corners=True)
        return warped.clamp(0, 1)  # against rounding: an interpolation stays between its pixels

    def _jitter(self, image: Tensor) -> Tensor:
        """Uniform shifts in [−1, 1], [H, W, 2], from the seed and the image."""
        content = image.detach().float().cpu().contiguous().numpy().tobytes()
        generator = stream(self.seed, "trigger", "jitter", zlib.crc32(content))
        return (2 * torch.rand(*image.shape[1:], 2, generator=generator) - 1).to(image)

    def __str__(self) -> str:
        noisy = ", and a jitter of its own for every image" if self.noisy else ""
        return f"warp along a {self.grid}×{self.grid} field, strength {self.strength:g}{noisy}"

    def to_dict(self) -> dict[str, Any]:
        """Give the trigger as plain JSON data; `Warp.from_dict` reads it back exactly."""
        return {"kind": "warp", **asdict(self)}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> Warp:
        """Read back what `to_dict` gave."""
        return cls(data["grid"], data["strength"], data["seed"], data["noisy"])


def wanet(target: int = 0, *, grid: int = 4, strength: float = 0.5, seed: int = 0) -> Attack:
    """WaNet with one target: a warp that means it, and two noisy covers for each poisoned image.

    The covers keep their labels, so that only this warp counts, not any. Raises as `Warp` and
    `AllToOne` do. Source: Nguyen and Tran 2021, section 3.4 (ρ_n = 2 ρ_a).
    """
    trigger, cover = (Warp(grid, strength, seed, noisy) for noisy in (False, True))
    return Attack("wanet", ((trigger, AllToOne(target)),), ((cover, 2.0),))


@lru_cache(maxsize=16)
def _places(warp: Warp, height: int, width: int) -> Tensor:
    """Where each pixel takes its value from: (x, y) in [−1, 1], float32 [H, W, 2]."""
    generator = stream(warp.seed, "trigger", "warp")
    field = 2 * torch.rand(1, 2, warp.grid, warp.grid, generator=generator) - 1
    field = field / field.abs().mean()
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    return torch.stack((x, y), 2) + warp.strength * field[0].permute(1, 2, 0) / height
