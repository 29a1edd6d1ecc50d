"""A picture as a value: float32 numbers [C, H, W] that compare, hash and never change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Frozen float32 numbers [C, H, W], of which a dense trigger is made; built by `Pattern.of`.

    Patterns are compared and hashed by their bytes. So two patterns are equal if and only if every
    bit is. Raises `ValueError` for a shape that is not [C, H, W] with at least one number, and for
    bytes that do not fit the shape.

    >>> Pattern.of(torch.ones(1, 2, 2)) == Pattern.of(torch.ones(1, 2, 2))
    True
    """

    shape: tuple[int, int, int]
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape: [C, H, W], each at least 1, is expected, got {list(shape)}")
        if len(self.data) != 4 * shape[0] * shape[1] * shape[2]:
            raise ValueError(
                f"data: the bytes of {list(shape)} float32 numbers are expected, "
                f"got {len(self.data)} bytes"
            )
        object.__setattr__(self, "shape", shape)

    @classmethod
    def of(cls, values: Tensor) -> Pattern:
        """Freeze a tensor [C, H, W]. Raises `ValueError` for another shape, NaN or infinity."""
        if values.ndim != 3 or not values.isfinite().all():
            raise ValueError(
                f"values: finite numbers [C, H, W] are expected, got {list(values.shape)}, "
                f"{'all' if values.isfinite().all() else 'not all'} finite"
            )
        content = values.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
        channels, height, width = values.shape
        return cls((channels, height, width), content)

    @classmethod
    def read_back(
        cls, name: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> Pattern:
        """Freeze `tensors[name]` and compare it with `data[name]`, its `to_dict`.

        Raises `ValueError` if the numbers are missing or are not those that `data` describes.
        """
        if name not in tensors:
            raise ValueError(f"{name}: its numbers are expected beside the description, got none")
        pattern = cls.of(tensors[name])
        if pattern.to_dict() != data[name]:
            raise ValueError(
                f"{name}: the numbers with digest {data[name]} are expected, got "
                f"{pattern.to_dict()}; the file was changed or mixed up"
            )
        return pattern

    def tensor(self) -> Tensor:
        """The numbers as a new float32 tensor [C, H, W]."""
        return torch.frombuffer(bytearray(self.data), dtype=torch.float32).reshape(self.shape)

    def like(self, images: Tensor) -> Tensor:
        """The numbers as [1, C, H, W] on the device and in the dtype of `images`.

        The tensor is shared between calls and must not be written to. Raises `ValueError` for
        images [N, C, H, W] of another size. Raises it for another number of channels, too, unless
        the pattern has one channel.
        """
        channels, height, width = self.shape
        if images.shape[2:] != (height, width) or channels not in (1, images.shape[1]):
            some = "any number of" if channels == 1 else str(channels)
            raise ValueError(
                f"images of {height}×{width} pixels with {some} channels are expected by this "
                f"pattern, got {list(images.shape[1:])}; compute or draw one for your images"
            )
        return _on(self, images.device, images.dtype)

    @property
    def sha256(self) -> str:
        """Sixteen hexadecimal digits that stand for the numbers."""
        return hashlib.sha256(f"{self.shape}".encode() + self.data).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Give shape and digest as plain JSON data; `attacks.save` keeps the numbers."""
        return {"shape": list(self.shape), "sha256": self.sha256}

    def __str__(self) -> str:
        return f"{'×'.join(map(str, self.shape))} numbers {self.sha256[:8]}"


# A trigger is stamped on every batch of a training run: its tensor is built once.
@lru_cache(maxsize=64)
def _on(pattern: Pattern, device: torch.device, dtype: torch.dtype) -> Tensor:
    return pattern.tensor()[None].to(device, dtype)
