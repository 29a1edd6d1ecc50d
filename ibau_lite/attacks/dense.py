"""Triggers that are pictures: one laid over the image, one added to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ibau_lite.attacks.pattern import Pattern
from ibau_lite.attacks.triggers import check_images


@dataclass(frozen=True)
class Overlay:
    """A trigger that is laid over the image: x' = (1 − m) ⊙ x + m ⊙ k.

    `mask` m and `pattern` k are [1 or C, H, W] in [0, 1]. Where m is 1, the pixel is replaced.
    `provenance` is JSON text that says how the two were computed ("{}" if they were drawn by hand).
    It does not count when triggers are compared. Raises `ValueError` for numbers outside [0, 1], a
    mask of zeros, sizes that differ, and provenance that is not a JSON object.
    Source: the form is that of Neural Cleanse (Wang et al. 2019, equation 2).

    >>> grey = Overlay(Pattern.of(torch.ones(1, 8, 8)), Pattern.of(torch.full((1, 8, 8), 0.5)))
    >>> grey(torch.zeros(2, 3, 8, 8)).unique().tolist()
    [0.5]
    """

    mask: Pattern
    pattern: Pattern
    provenance: str = field(default="{}", compare=False, repr=False)

    def __post_init__(self) -> None:
        mask, pattern = self.mask.tensor(), self.pattern.tensor()
        for name, values in (("mask", mask), ("pattern", pattern)):
            if not (values.min() >= 0 and values.max() <= 1):
                raise ValueError(f"{name}: numbers in [0, 1] are expected")
        if mask.shape[1:] != pattern.shape[1:] or not mask.any():
            raise ValueError(
                "mask and pattern of one size, and a mask that is not zero everywhere, are "
                f"expected, got {list(mask.shape)} and {list(pattern.shape)}"
            )
        _parsed(self.provenance)

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> a new tensor of the same shape.

        Raises as `check_images` and `Pattern.like` do.
        """
        check_images(images)
        pattern, mask = self.pattern.like(images), self.mask.like(images)
        # Rounding must not lead out of [0, 1] where m is between 0 and 1.
        return ((1 - mask) * images + mask * pattern).clamp(0, 1)

    def __str__(self) -> str:
        touched = int(self.mask.tensor().amax(0).count_nonzero())
        _, height, width = self.pattern.shape
        return f"overlay on {touched} of {height}×{width} pixels{_by(self.provenance)}"

    def tensors(self) -> dict[str, Tensor]:
        """What `attacks.save` writes beside `to_dict`."""
        return {"mask": self.mask.tensor(), "pattern": self.pattern.tensor()}

    def to_dict(self) -> dict[str, Any]:
        """Give the trigger as plain JSON data, its pictures as digests."""
        return {
            "kind": "overlay",
            "mask": self.mask.to_dict(),
            "pattern": self.pattern.to_dict(),
            "provenance": _parsed(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Overlay:
        """Read back what `to_dict` and `tensors` gave; raises `ValueError` if they do not agree."""
        mask, pattern = (Pattern.read_back(name, data, tensors) for name in ("mask", "pattern"))
        return cls(mask, pattern, json.dumps(data["provenance"]))


@dataclass(frozen=True)
class Additive:
    """A trigger that is added: x' = clamp(x + δ, 0, 1), or x + δ rescaled into [0, 1].

    `delta` is [1 or C, H, W]. With `rescale`, an image that x + δ leads out of the range is mapped
    linearly from [min(0, min), max(1, max)] to [0, 1], with one map for the whole image. So the
    pattern stays smooth where clamping would put edges. An image that x + δ keeps inside the range
    is not stretched. This is our choice: some public code always maps [min, max] to [0, 1], which
    changes the contrast even for δ = 0 and is a second trigger. `provenance` as in `Overlay`.
    Raises `ValueError` for a δ of zeros and for provenance that is not a JSON object.

    >>> brighter = Additive(Pattern.of(torch.full((1, 8, 8), 0.5)))
    >>> brighter(torch.tensor([0.0, 0.9]).view(2, 1, 1, 1).expand(2, 1, 8, 8))[:, 0, 0, 0].tolist()
    [0.5, 1.0]
    """

    delta: Pattern
    rescale: bool = False
    provenance: str = field(default="{}", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.delta.tensor().any():
            raise ValueError("delta: at least one number other than zero is expected")
        _parsed(self.provenance)

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> a new tensor of the same shape.

        Raises as `check_images` and `Pattern.like` do.
        """
        check_images(images)
        moved = images + self.delta.like(images)
        if not self.rescale or not len(moved):
            return moved.clamp(0, 1)
        low = moved.amin((1, 2, 3), keepdim=True).clamp_max(0)
        high = moved.amax((1, 2, 3), keepdim=True).clamp_min(1)
        return ((moved - low) / (high - low)).clamp(0, 1)  # the clamp is against rounding only

    def __str__(self) -> str:
        norm = float(torch.linalg.vector_norm(self.delta.tensor()))
        how = "rescaled" if self.rescale else "clamped"
        return f"added pattern of l2 norm {norm:.2f}, {how}{_by(self.provenance)}"

    def tensors(self) -> dict[str, Tensor]:
        """What `attacks.save` writes beside `to_dict`."""
        return {"delta": self.delta.tensor()}

    def to_dict(self) -> dict[str, Any]:
        """Give the trigger as plain JSON data, its picture as a digest."""
        return {
            "kind": "additive",
            "delta": self.delta.to_dict(),
            "rescale": self.rescale,
            "provenance": _parsed(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Additive:
        """Read back what `to_dict` and `tensors` gave; raises `ValueError` if they do not agree."""
        delta = Pattern.read_back("delta", data, tensors)
        return cls(delta, bool(data["rescale"]), json.dumps(data["provenance"]))


def _parsed(provenance: str) -> dict[str, Any]:
    try:
        parsed = json.loads(provenance)
    except (TypeError, ValueError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError(f"provenance: the text of a JSON object is expected, got {provenance!r}")
    return parsed


def _by(provenance: str) -> str:
    algorithm = _parsed(provenance).get("algorithm")
    return f", computed by {algorithm}" if algorithm else ""
