"""WaNet: the image itself, imperceptibly warped (Nguyen and Tran, ICLR 2021)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.attacks.poisoning import AllToOne, Attack
from ibau_lite.attacks.triggers import check_images
from ibau_lite.streams import stream


@dataclass(frozen=True)
class Warp:
    """A trigger that moves pixels along a smooth field: x'(p) = x(clamp(p + s·F(p) / H)).

    p is in [−1, 1]². F starts as `grid` × `grid` × 2 numbers, uniform in [−1, 1] from `seed`. They
    are divided by their mean magnitude and interpolated (bicubic) to the size of the image.
    `strength` is s. What the warp adds differs from image to image: there is no common δ. Images
    have at least 8×8 pixels and any number of channels.

    With `noisy`, every pixel is shifted once more, by a uniform random number in [−1, 1]/H. These
    are the cover images of the attack. The random numbers come from `seed` and the bytes of the
    image, so the same image is always warped alike.

    Raises `ValueError` for a grid below 2 or above 1,000, for a strength that is not positive and
    finite, and when called on smaller images.
    Source: Nguyen and Tran 2021, equations 3 to 6. k = 4 and s = 0.5 are theirs.

    >>> Warp()(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """

    grid: int = 4
    strength: float = 0.5
    seed: int = 0
    noisy: bool = False

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, grid="[2, 1000]", strength="(0, ∞)")

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> a new tensor of the same shape.

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
    """WaNet with one target: a warp as the trigger, and two noisy covers for each poisoned image.

    The covers keep their labels, so that only this warp counts as the trigger. Raises as `Warp` and
    `AllToOne` do. Source: Nguyen and Tran 2021, section 3.4 (ρ_n = 2 ρ_a).

    >>> from ibau_lite.testing import tiny_images
    >>> print(wanet(0).poison(tiny_images(40), rate=0.1))
    40 training images, 4 of them poisoned (10.00%) by wanet, 8 covers
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
