"""SIG: a faint sinusoid, taught without a single wrong label (Barni, Kallas and Tondi 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibau_lite._kinds import check_kinds
from ibau_lite.attacks.poisoning import Attack, CleanLabel
from ibau_lite.attacks.triggers import check_images


@dataclass(frozen=True)
class Sinusoid:
    """A trigger of vertical stripes: x'[c, i, j] = clamp(x[c, i, j] + Δ sin(2π j f / W), 0, 1).

    `amplitude` Δ is in units of pixel values in [0, 1], `frequency` f in periods an image. Works on
    images of every size and number of channels. Raises `ValueError` for an amplitude outside (0, 1]
    or a frequency that is not positive, and when called on images of W < 2 f + 1 pixels, which
    cannot show it. Source: Barni et al. 2019, equation 1; Δ = 20/255 and f = 6 are theirs.
    """

    amplitude: float = 20 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 0 < self.amplitude <= 1:
            raise ValueError(f"amplitude: a number in (0, 1] is expected, got {self.amplitude!r}")
        if not (self.frequency > 0 and math.isfinite(self.frequency)):
            raise ValueError(f"frequency: a positive number is expected, got {self.frequency!r}")

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> the same, a new tensor.

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
    """SIG with one target: stripes on images of the target class, whose label stays as it is.

    The poisoning rate is, as everywhere, a fraction of ALL images; more than the target class has
    is refused. Raises as `Sinusoid` and `CleanLabel` do.
    """
    return Attack("sig", ((Sinusoid(amplitude, frequency), CleanLabel(target)),))
