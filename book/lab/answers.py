"""Which test images a network answers as it should: kept in a record, and compared in pairs."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibau_lite.attacks import Attack
from ibau_lite.data import LabelledImages
from ibau_lite.metrics import Report, predict


@dataclass(frozen=True, eq=False)
class Answers:
    """One truth value for each test image, and one for each stamped one.

    `clean` [n_clean] says which test images are read as they are labelled, `attacked` [n_attacked]
    which images of `attack.poisoned_test_set` are read as the attacker wants; both in the order of
    the test split, booleans on the CPU.
    """

    clean: Tensor
    attacked: Tensor

    @classmethod
    def of(cls, model: nn.Module, test: LabelledImages, attack: Attack) -> Answers:
        """Ask a network; raises as `predict` and `attack.poisoned_test_set` do."""
        view = attack.poisoned_test_set(test)
        return cls(*(predict(model, p.images) == p.labels.cpu() for p in (test, view)))

    @property
    def report(self) -> Report:
        """ACC and ASR: the means."""
        clean, attacked = (float(part.double().mean()) for part in (self.clean, self.attacked))
        return Report(clean, attacked, len(self.clean), len(self.attacked))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: eight answers a byte, the first in its highest bit, bytes as base64."""
        parts = {"clean": self.clean, "attacked": self.attacked}
        return {name: {"count": len(bits), "bits": _packed(bits)} for name, bits in parts.items()}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Mapping[str, Any]]) -> Answers:
        """Read back what `to_dict` gave; raises `ValueError` where count and bits do not agree."""
        return cls(*(_unpacked(**kept[name]) for name in ("clean", "attacked")))


def _packed(bits: Tensor) -> str:
    return base64.b64encode(np.packbits(bits.numpy()).tobytes()).decode("ascii")


def _unpacked(count: int, bits: str) -> Tensor:
    content = np.frombuffer(base64.b64decode(bits, validate=True), np.uint8)
    if len(content) != -(-count // 8):
        raise ValueError(f"bits: those of {count} answers are expected, got {len(content)} bytes")
    return torch.from_numpy(np.unpackbits(content, count=count).astype(bool))


@dataclass(frozen=True)
class Difference:
    """A difference of two rates on the same images, and its interval; fractions."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        half = 50 * (self.high - self.low)
        return f"{100 * self.mean:+.1f} ± {half:.1f}"


def paired(first: Tensor, second: Tensor, level: float = 0.95) -> Difference:
    """The rate of `first` minus that of `second`, booleans [n] on the same images.

    With d_i ∈ {−1, 0, 1} the difference on image i, the interval is
    mean(d) ± z · std(d) / √n, z the normal quantile of `level`. What both rows do to an image
    cancels, so that it is narrower than that of two separate samples. Raises `ValueError` for
    lengths that differ, fewer than two images, or a level outside (0, 1).
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            "first, second: answers to the same images, at least 2, are expected, got "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level: a number between 0 and 1 is expected, got {level!r}")
    each = first.double() - second.double()
    mean, n = float(each.mean()), len(each)
    half = statistics.NormalDist().inv_cdf((1 + level) / 2) * float(each.std()) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)
