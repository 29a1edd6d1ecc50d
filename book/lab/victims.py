"""Victims: networks poisoned by an attack, trained once and kept."""

from __future__ import annotations

import hashlib
import warnings
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
from ibau_lite.streams import VERSION
from ibau_lite.training import Recipe, fit, precision

from .records import fingerprint, key_of, provenance, weights_digest

__all__ = ["Victim", "victim"]


@dataclass(frozen=True, eq=False)
class Victim:
    """A poisoned network, what it scores on the test split, and the settings that produced it.

    `made` tells what the settings do not decide: the precision and the hardware of the training,
    the code that trained, and the digest of the weights that came out.
    """

    model: nn.Module = field(repr=False)
    report: Report
    settings: dict[str, Any] = field(repr=False)
    seconds: float
    made: dict[str, Any] = field(repr=False, default_factory=dict)


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

    A training that was stopped goes on after its last epoch. The file's name is a hash of all that
    the result depends on: the training images, the data's source, the attack, rate, seed, network,
    recipe, and the version of the random streams. `folder` is `victims/` in the data's cache by
    default. Raises as `attack.poison`, `fit` and `checkpoints.load`.
    """
    model = build(seed=seed)
    settings = {
        "data": dataset.source,
        "train": {"count": len(dataset.train), "fingerprint": fingerprint(dataset.train)},
        "attack": attack.to_dict(),
        "rate": rate,
        "seed": seed,
        "network": hashlib.sha256(repr(model).encode()).hexdigest()[:12],
        "recipe": asdict(recipe),
        "streams": VERSION,
    }
    folder = Path(folder or cache.folder() / "victims")
    path = folder / f"{dataset.name}-{attack.name}-{key_of(settings)}.safetensors"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    if path.exists():
        kept = checkpoints.load(path, model)
        seconds, made = float(kept["seconds"]), kept.get("made", {})
        model.eval()
    else:
        poisoned = attack.poison(dataset.train, rate, seed)
        history = fit(
            model,
            poisoned,
            recipe,
            seed=seed,
            checkpoint=path.with_suffix(".training.pt"),
            progress=progress,
        )
        seconds = sum(row["seconds"] for row in history)
        # As it will be when it is loaded: in another layout, and the same defence ends elsewhere.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.zero_grad(set_to_none=True)
        known = provenance()
        made = {
            "precision": precision(recipe, torch.device(device)),
            "hardware": known["hardware"],
            "code": known["versions"]["code"],
            "weights": weights_digest(model),
        }
        told = {"settings": settings, "seconds": seconds, "made": made}
        try:
            checkpoints.save(model, path, told)
        except OSError as error:  # a full disk must not cost the hours
            warnings.warn(f"{path}: the network is not kept ({error})", stacklevel=2)
    return Victim(model, evaluate(model, dataset.test, attack), settings, seconds, made)
