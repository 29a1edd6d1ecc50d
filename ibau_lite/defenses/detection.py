"""Find the classes that a small trigger leads to, then unlearn those triggers.

This is what Neural Cleanse, TABOR and DeepInspect have in common once each has its triggers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import AdamSteps, EpochsConfig, run_epochs
from ibau_lite.defenses.outliers import small_outliers
from ibau_lite.protocol import Outcome, Run
from ibau_lite.speed import fold_batchnorm

__all__ = ["ClassTriggers", "DetectionConfig", "TriggerSearch", "detect_and_unlearn"]


@dataclass(frozen=True)
class DetectionConfig(EpochsConfig):
    """How a class is flagged, and how its trigger is unlearned.

    A class is flagged if the size of its trigger is below the median and the anomaly index is above
    `threshold`. `targets` names the classes to unlearn, whatever the index is. Removal is `epochs`
    epochs of fine-tuning. In each batch a random fraction `stamped` of the images (at least one)
    carries a flagged trigger, with true labels.
    """

    epochs: int = 1
    batch_size: int = 50
    threshold: float = 2.0
    targets: tuple[int, ...] | None = None
    stamped: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, threshold="(0, ∞)", stamped="(0, 1]")
        if self.targets is not None and not self.targets:
            raise ValueError("targets: at least one class, or None for the flagged ones")


@dataclass(frozen=True, eq=False)
class ClassTriggers:
    """One trigger for each of the model's K classes.

    `sizes` and `index` [K] decide which classes are flagged. `found` [K] says which triggers work.
    `stamp(images, which)` stamps the b-th image with the trigger of class `which[b]`. `details`
    becomes part of the result.

    >>> sizes = torch.tensor([9.0, 10.0, 11.0, 10.0, 1.0])
    >>> works = torch.ones(5, dtype=torch.bool)
    >>> ClassTriggers(sizes, (sizes - 10).abs(), works, lambda images, which: images).flagged(2.0)
    [4]
    """

    sizes: Tensor
    index: Tensor
    found: Tensor
    stamp: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    def flagged(self, threshold: float) -> list[int]:
        """Classes whose trigger works and is too small to be chance."""
        small = small_outliers(self.sizes, self.index, threshold)
        return [t for t in small.tolist() if bool(self.found[t])]


TriggerSearch = Callable[[nn.Module, LabelledImages, torch.Generator], ClassTriggers]
"""Looks for a trigger of every class; the model is not to be changed."""


def detect_and_unlearn(
    model: nn.Module,
    clean: LabelledImages,
    search: TriggerSearch,
    config: DetectionConfig,
    run: Run,
) -> Outcome:
    """Search, flag, unlearn: the common frame of the defences that invert triggers.

    If no class is flagged, there is no trigger to unlearn. Then the result is a copy of the model,
    bit for bit, with `details["found"]` false and an empty history. Otherwise the history has one
    row an epoch. `details` holds flagged, index, sizes, success and what the search adds. Raises
    `ValueError` for fewer than 3 classes, of which none can stand out, and for `config.targets`
    that the model lacks.
    """
    _check_classes(model, clean, config.targets)
    triggers = search(model, clean, run.generator)
    flagged = triggers.flagged(config.threshold)
    details = {
        "found": bool(flagged),
        "flagged": flagged,
        "index": triggers.index,
        "sizes": triggers.sizes,
        **triggers.details,
    }
    history: list[dict[str, Any]] = []
    chosen = flagged if config.targets is None else list(config.targets)
    if chosen:
        step = _unlearning(model, len(clean), triggers, chosen, config, run.generator)
        history = run_epochs(model, clean, config, step, run)
    return model, history, details


def _unlearning(
    model: nn.Module,
    count: int,
    triggers: ClassTriggers,
    chosen: Sequence[int],
    config: DetectionConfig,
    generator: torch.Generator,
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """One step of fine-tuning with a flagged trigger on a fraction of the batch, true labels."""
    network = fold_batchnorm(model)
    descend = AdamSteps(model, config, count)

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        part = torch.randperm(len(images), generator=generator)
        part = part[: max(1, int(config.stamped * len(images)))].to(images.device)
        which = torch.tensor(chosen)[torch.randint(len(chosen), part.shape, generator=generator)]
        stamped = images.clone()
        stamped[part] = triggers.stamp(images[part], which.to(images.device))
        loss = F.cross_entropy(network(stamped), labels)
        descend(loss)
        return {"loss": loss}

    return step


def _check_classes(model: nn.Module, clean: LabelledImages, targets: Sequence[int] | None) -> None:
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        classes = model(clean.images[:1].to(dtype)).shape[1]
    if classes < 3:
        raise ValueError(
            f"the model has {classes} classes: at least 3 are needed for one to be an outlier; "
            "use a defence that does not look for outliers, such as ibau"
        )
    wrong = [t for t in targets or () if not 0 <= t < classes]
    if wrong:
        raise ValueError(f"targets: classes 0 to {classes - 1} of the model, got {wrong}")
