"""Victims: networks poisoned by an attack, trained once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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

from .records import fingerprint, key_of

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
    recipe: Recipe | Sequence[Recipe],
    *,
    rate: float = 0.2,
    seed: int = 0,
    start: Victim | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Victim:
    """Train `build(seed=seed)` on the poisoned training set, or load it if it was trained before.

    Several recipes are followed one after the other, the k-th (from 0) with the seed `seed` + k.
    Poison and order are drawn from one seed, so that the first epoch begins with the poisoned
    images (see `training.fit`); all later ones mix them.
    With `start` the training goes on from that network's weights. The file's name is a hash of
    everything that the result depends on: the training images, the data's source, the attack, rate,
    seed, network, recipes and start; `seconds` are those of these recipes alone. `folder` is
    `victims/` in the data's cache by default. Raises as `attack.poison`, `fit` and
    `checkpoints.load`.
    """
    recipes = (recipe,) if isinstance(recipe, Recipe) else tuple(recipe)
    model = build(seed=seed)
    settings = {
        "data": dataset.source,
        "train": {"count": len(dataset.train), "fingerprint": fingerprint(dataset.train)},
        "attack": attack.to_dict(),
        "rate": rate,
        "seed": seed,
        "network": hashlib.sha256(repr(model).encode()).hexdigest()[:12],
        "recipes": [asdict(stage) for stage in recipes],
    }
    if start is not None:
        settings["start"] = key_of(start.settings)
        model.load_state_dict(start.model.state_dict())
    folder = Path(folder or cache.folder() / "victims")
    path = folder / f"{dataset.name}-{attack.name}-{key_of(settings)}.safetensors"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    if path.exists():
        seconds = float(checkpoints.load(path, model)["seconds"])
        model.eval()
    else:
        poisoned = attack.poison(dataset.train, rate, seed)
        seconds = 0.0
        for stage, each in enumerate(recipes):
            history = fit(
                model,
                poisoned.base,
                poisoned.labels,
                each,
                seed=seed + stage,
                after_augment=poisoned.stamp,
                progress=progress,
            )
            seconds += sum(row["seconds"] for row in history)
        # As it will be when it is loaded: in another layout, and the same defence ends elsewhere.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.zero_grad(set_to_none=True)
        checkpoints.save(model, path, {"settings": settings, "seconds": seconds})
    return Victim(model, evaluate(model, dataset.test, attack), settings, seconds)
