"""Every defence of the library on one poisoned network: the settings of chapter 11, by profile.

The network, its images and its training are those of `first_run` (in smoke a narrower network, so
that ten defences fit into a minute). A profile changes sizes only: in `cpu` each makes by count
some 30,000 to 90,000 forward passes (an image that is trained on is three; I-BAU's recipe of the
tables makes some 260,000), a search for the triggers of 43 classes makes more, and `full` up to
twelve times as many. The published runs of the successors are longer still. Differential privacy is
not among the rows: it trains a network of its own (`private`). The tables run most of these
settings on the networks of the zoo (`contenders`).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from ibau_lite.defenses import (
    IBAU,
    ANPConfig,
    DeepInspectConfig,
    DPConfig,
    FinePruningConfig,
    FineTuningConfig,
    FTSAMConfig,
    Inversion,
    NADConfig,
    NeuralCleanseConfig,
    SAUConfig,
    TaborConfig,
)
from ibau_lite.models import small_cnn

from .first_run import Experiment, Row, experiments
from .tables import NO_DEFENCE

TALK: dict[str, str] = {
    NO_DEFENCE: "no defence",
    "Neural Cleanse": "NC",
    "TABOR": "TABOR",
    "DeepInspect": "DI",
    "Fine-Pruning": "FP",
    "NAD": "NAD",
    "DP": "DP",
    "I-BAU": "I-BAU",
}
"""What the talk reports on: label of a row -> the talk's column."""


def experiment(profile: str = "smoke", data: str | None = None) -> Experiment:
    """The experiment of a profile: drawn signs in `smoke`, real images in `cpu` and `full`.

    `data` is "cifar10" or "gtsrb", by default the first of the profile. Raises `ValueError` for
    what the profile does not have.
    """
    known = {each.data: each for each in experiments(profile)}
    data = data or next(iter(known))
    if data not in known:
        raise ValueError(f"data: {' or '.join(known)} in profile {profile!r}, got {data!r}")
    chosen = known[data]
    if profile == "smoke":
        chosen = replace(chosen, build=functools.partial(small_cnn, 12, width=8))
    return replace(chosen, rows=rows(profile, data))


def rows(profile: str, data: str = "signs") -> tuple[Row, ...]:
    """The defences in the order of the chapter, with their settings for a profile and a data set.

    CIFAR-10's images are mirrored, where a defence augments; a sign may not be.
    """
    brief: dict[str, Any] = {"flip": data == "cifar10"}
    if profile == "cpu":
        return _brief_rows(brief, batch=8 if data == "gtsrb" else 16)
    smoke = profile == "smoke"
    teacher = FineTuningConfig(epochs=2 if smoke else 5, **brief)
    search = Inversion(steps=120 if smoke else 1000, batch_size=16)
    return (
        Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=4, **brief)),
        Row("Neural Cleanse", "neural_cleanse", NeuralCleanseConfig(search=search, **brief)),
        Row("TABOR", "tabor", TaborConfig(search=search, **brief)),
        Row(
            "DeepInspect",
            "deepinspect",
            DeepInspectConfig(steps=search.steps + 50, search_batch=12 if smoke else 16, **brief),
        ),
        Row("Fine-Pruning", "fine_pruning", FinePruningConfig(epochs=4, **brief)),
        Row("NAD", "nad", NADConfig(epochs=3 if smoke else 20, teacher=teacher, **brief)),
        Row("ANP", "anp", ANPConfig(epochs=6 if smoke else 20, **brief)),
        Row("FT-SAM", "ft_sam", FTSAMConfig(epochs=5 if smoke else 20, **brief)),
        Row("SAU", "sau", SAUConfig(epochs=1 if smoke else 5, **brief)),
        Row("I-BAU", "ibau", IBAU()),
    )


def _brief_rows(brief: dict[str, Any], batch: int) -> tuple[Row, ...]:
    """The same with few passes: in a search, a step stamps `batch` images for each class."""
    search = Inversion(steps=150, batch_size=batch)
    few: dict[str, Any] = {"epochs": 4, "epoch_images": 2000, "batch_size": 50, **brief}
    teacher = FineTuningConfig(epochs=1, **brief)
    return (
        Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=2, epoch_images=5000, **brief)),
        Row("Neural Cleanse", "neural_cleanse", NeuralCleanseConfig(search=search, **brief)),
        Row("TABOR", "tabor", TaborConfig(search=search, **brief)),
        Row(
            "DeepInspect", "deepinspect", DeepInspectConfig(steps=200, search_batch=batch, **brief)
        ),
        Row("Fine-Pruning", "fine_pruning", FinePruningConfig(epochs=2, **brief)),
        Row("NAD", "nad", NADConfig(epochs=10, epoch_images=1000, teacher=teacher, **brief)),
        Row("ANP", "anp", ANPConfig(**few)),
        Row("FT-SAM", "ft_sam", FTSAMConfig(**few)),
        Row("SAU", "sau", SAUConfig(epochs=2, epoch_images=1000, **brief)),
        Row("I-BAU", "ibau", IBAU()),
    )


def private(profile: str) -> DPConfig:
    """Settings of the private training: too little for a good network in smoke and in `cpu`.

    One pass over 50,000 images is by count some 200,000 forward passes: an image costs four, three
    of training and one of clipping. In `cpu` there is one pass, in `full` there are 60.
    """
    if profile == "smoke":
        return DPConfig(epochs=2, batch_size=100)
    return DPConfig(epochs=60 if profile == "full" else 1, batch_size=512)
