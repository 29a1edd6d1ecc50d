"""Victims: networks poisoned by an attack, trained once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibau_lite import checkpoints
from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset, cache
from ibau_lite.metrics import Report, evaluate
from ibau_lite.training import Recipe, fit

__all__ = ["Victim", "victim"]


@dataclass(frozen=True, eq=False)
class Victim:
    """A poisoned network, what it scores on the test split, and the settings that produced it."""

    model: nn.Module = field(repr=False)
    report: Report
    settings: dict[str, Any] = field(repr=False)
    seconds: float


def victim(
    dataset: Dataset,
    attack: Attack,
    build: Callable[..., nn.Module],
    recipe: Recipe,
    *,
    rate: float = 0.2,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Victim:
    """Train `build(seed=seed)` on the poisoned training set, or load it if it was trained before.

    The file's name is a hash of everything that the result depends on: the data's source, the
    attack, rate, seed, network and recipe. `folder` is `victims/` in the data's cache by
    default. Raises as `attack.poison`, `fit` and `checkpoints.load`.
    """
    model = build(seed=seed)
    settings = {
        "data": dataset.source,
        "train": len(dataset.train),
        "attack": attack.to_dict(),
        "rate": rate,
        "seed": seed,
        "network": hashlib.sha256(repr(model).encode()).hexdigest()[:12],
        "recipe": asdict(recipe),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = (
        Path(folder or cache.folder() / "victims")
        / f"{dataset.name}-{attack.name}-{key}.safetensors"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if path.exists():
        metadata = checkpoints.load(path, model)
        seconds = float(metadata["seconds"])
        model = model.to(device).eval()
    else:
        model = model.to(device)
        poisoned = attack.poison(dataset.train, rate, seed)
        history = fit(
            model,
            poisoned.base,
            poisoned.labels,
            recipe,
            seed=seed,
            after_augment=poisoned.stamp,
            progress=progress,
        )
        seconds = sum(row["seconds"] for row in history)
        checkpoints.save(model, path, {"settings": settings, "seconds": seconds})
    return Victim(model, evaluate(model, dataset.test, attack), settings, seconds)
