"""Cells that take a moment: a script that replaces the miniature's images and networks by noise.

Run as `python tiny.py reproduce …`; processes that it starts read it again, and are as small.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ibau_lab import __main__ as command_line
from ibau_lab import contenders, first_run, victims
from ibau_lab.first_run import Row
from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.defenses import IBAU, FineTuningConfig
from ibau_lite.minimax import Ascent, Targeted
from ibau_lite.models import small_cnn
from ibau_lite.training import Recipe

QUICK = IBAU(rounds=1, round_images=50, search=Targeted(Ascent(1)), indirect=None)
ROWS = (
    Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=1)),
    Row("Fine-Pruning", "fine_pruning", FineTuningConfig(epochs=1)),  # not its kind: it refuses
    Row("NAD", "fine_tuning", FineTuningConfig(epochs=1, lr=1e-4)),
    Row(
        "I-BAU", "ibau", IBAU(rounds=1, round_images=50, search=Targeted(Ascent(1)), indirect=None)
    ),
)


def noise(count: int, seed: int) -> LabelledImages:
    """Noise whose brightness is its class, one of ten."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.rand(count, 3, 8, 8, generator=generator)
    return LabelledImages(0.5 * images + 0.05 * labels[:, None, None, None], labels)


def load(self: first_run.Experiment) -> Dataset:
    """800 clean images, as the miniature asks for."""
    parts = [noise(size, seed) for seed, size in enumerate((100, 800, 10, 30))]
    return Dataset("signs", *parts, tuple("abcdefghij"), "noise (drawn)")


def shrink(swap: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make the miniature tiny, by `swap(object, name, value)`; fine-pruning always fails."""
    (usual,) = first_run.experiments("smoke")
    build = functools.partial(small_cnn, 10, width=2)
    small = replace(usual, build=build, recipe=Recipe(epochs=1, batch_size=50))
    real = victims.fit

    def logged(*args: Any, **keywords: Any) -> Any:
        """Train, and say so in the file $TINY_LOG."""
        if "TINY_LOG" in os.environ:
            with open(os.environ["TINY_LOG"], "a", encoding="utf-8") as log:
                log.write("trained\n")
        return real(*args, **keywords)

    swap(victims, "fit", logged)
    swap(first_run, "experiments", lambda profile: (small,))
    swap(first_run.Experiment, "load", load)
    swap(contenders, "rows", lambda profile, flip: ROWS)


if __name__ in ("__main__", "__mp_main__"):  # here, and in the processes started from here
    warnings.simplefilter("ignore")
    shrink()
if __name__ == "__main__":
    sys.exit(command_line.main(sys.argv[1:]))
