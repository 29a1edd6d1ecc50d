"""SIG: a faint sinusoid, learnt without a single wrong label (Barni, Kallas and Tondi 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.attacks.poisoning import Attack, CleanLabel
from ibau_lite.attacks.triggers import check_images


@dataclass(frozen=True)
class Sinusoid:
    """A trigger of vertical stripes: x'[c, i, j] = clamp(x[c, i, j] + Δ sin(2π j f / W), 0, 1).

    `amplitude` Δ is in units of pixel values in [0, 1]; `frequency` f is in periods an image. It
    works on images of every size and number of channels. Raises `ValueError` for an amplitude
    outside (0, 1] and for a frequency that is not positive. Raises it, too, when called on images
    of W < 2 f + 1 pixels, which cannot show the stripes.
    Source: Barni et al. 2019, equation 1. Δ = 20/255 and f = 6 are theirs.

    >>> stripes = Sinusoid(amplitude=0.25, frequency=1.0)(torch.full((1, 1, 1, 4), 0.5))
    >>> [round(value, 2) for value in stripes.flatten().tolist()]
    [0.5, 0.75, 0.5, 0.25]
    """

    amplitude: float = 20 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, amplitude="(0, 1]", frequency="(0, ∞)")

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> a new tensor of the same shape.

        Raises as `check_images` does.
        """
        check_images(images)
        width = images.shape[3]
        if width < 2 * self.frequency + 1:
            raise ValueError(
                f"images of at least {math.ceil(2 * self.frequency + 1)} columns are expected, "
                f"got {width}; lower the frequency"
            )
        angle = 2 * math.pi * self.frequency / width
        # In float64: torch.sin of float32 differs between devices in the last bits.
        wave = torch.sin(angle * torch.arange(width, dtype=torch.float64))
        return (images + (self.amplitude * wave).to(images)).clamp(0, 1)

    def __str__(self) -> str:
        return f"sinusoid of {self.frequency:g} periods, amplitude {255 * self.amplitude:.3g}/255"

    def to_dict(self) -> dict[str, Any]:
        """Give the trigger as plain JSON data; `Sinusoid.from_dict` reads it back exactly."""
        return {"kind": "sinusoid", "amplitude": self.amplitude, "frequency": self.frequency}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> Sinusoid:
        """Read back what `to_dict` gave."""
        return cls(data["amplitude"], data["frequency"])


def sig(target: int = 0, amplitude: float = 20 / 255, frequency: float = 6.0) -> Attack:
    """SIG with one target: stripes on images of the target class, which keep their label.

    The poisoning rate is a fraction of ALL images, as everywhere. A rate above the share of the
    target class is refused. Raises as `Sinusoid` and `CleanLabel` do.

    >>> from ibau_lite.testing import tiny_images
    >>> clean = tiny_images(20)
    >>> sig(target=1, frequency=2).poison(clean, rate=0.1).labels.equal(clean.labels)
    True
    """
    return Attack("sig", ((Sinusoid(amplitude, frequency), CleanLabel(target)),))
