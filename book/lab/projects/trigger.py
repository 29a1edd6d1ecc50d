"""Project (b): write a trigger that survives I-BAU, on seeds that you do not know.

    def stamp(images): ...   # float32 [N, 3, 32, 32] in [0, 1] -> the same, stamped

The grader poisons one training image in ten with it, trains, unlearns with
`ib.ibau(model, clean, seed=s)` and measures. Each hidden seed decides the initial weights, the
target, who is poisoned, and the seed of I-BAU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import ibau_lite as ib
from ibau_lite.attacks.triggers import check_images
from ibau_lite.data import LabelledImages
from ibau_lite.streams import derived_seed, stream

from . import defence
from .submission import SubmissionError, asked
from .verdict import Verdict

FUNCTION = "stamp"

BUDGET = 4.0
"""The mean of ‖T(x) − x‖₂ may be this: the radius of the ball in which I-BAU searches."""

WORKS, SURVIVES = 15, 45
"""The points: the trigger opens the network that was trained with it; it still does after I-BAU."""

SEEDS, RATE, EPOCHS = 3, 0.1, 7


@dataclass(frozen=True)
class Stamp:
    """The submitted function as a `Trigger`: a value that refuses what are no images."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch."""
        check_images(images)
        stamped = asked(lambda: self.function(images), "stamp")
        if not isinstance(stamped, Tensor):
            raise SubmissionError(f"stamp: a tensor is expected, got {type(stamped).__name__}")
        return stamped

    def to_dict(self) -> dict[str, str]:
        """Only the name: the code lies in the submission."""
        return {"kind": "submission", "name": getattr(self.function, "__name__", "?")}


def given(seed: int) -> dict[str, Any]:
    """Images without their labels; the seeds stay here."""
    held = defence.dataset()
    return {"train": held.train.images.clone(), "test": held.test.images.clone()}


def answer(module: ModuleType, stamp: Any, given: dict[str, Any]) -> dict[str, Any]:
    """All images, stamped, if the promises of `check_trigger` are kept."""
    trigger = Stamp(stamp)
    try:
        ib.testing.check_trigger(trigger)
    except AssertionError as error:
        raise SubmissionError(f"check_trigger: {error}") from error
    return {name: trigger(images).float() for name, images in given.items()}


def judge(seed: int, answer: dict[str, Any], limit: float) -> Verdict:
    """Poison, train and unlearn once for each hidden seed."""
    held = defence.dataset()
    change = max(
        _change(answer[name], part.images, name)
        for name, part in (("train", held.train), ("test", held.test))
    )
    if not change <= BUDGET:
        raise SubmissionError(
            f"the trigger changes an image by {change:.2f} on average, ‖T(x) − x‖₂ over all "
            f"pixels; at most {BUDGET:g} is allowed: make it smaller or fainter"
        )
    rows = [_one_seed(derived_seed(seed, "trigger", "hidden", k), answer) for k in range(SEEDS)]
    before, after = (sum(row[name] for row in rows) / SEEDS for name in ("ASR before", "ASR"))
    points = WORKS * min(1.0, before / 0.8) + SURVIVES * after
    message = f"ASR {before:.0%} before and {after:.0%} after I-BAU; ‖T(x) − x‖₂ = {change:.2f}"
    return Verdict(points, message.replace("%", " %"), rows)


def _change(stamped: Tensor, images: Tensor, name: str) -> float:
    """The mean of ‖T(x) − x‖₂. `check_trigger` has seen noise; these are the signs."""
    try:
        check_images(stamped)
    except (TypeError, ValueError) as error:
        raise SubmissionError(f"the stamped {name} images: {error}") from error
    return float((stamped - images).flatten(1).norm(dim=1).mean())


def _one_seed(hidden: int, stamped: dict[str, Tensor]) -> dict[str, Any]:
    """ACC and ASR before and after I-BAU."""
    held = defence.dataset()
    target = hidden % held.num_classes
    images, labels = held.train.images.clone(), held.train.labels.clone()
    order = torch.randperm(len(labels), generator=stream(hidden, "poison", "submission"))
    chosen = order[labels[order] != target][: round(RATE * len(labels))]
    images[chosen], labels[chosen] = stamped["train"][chosen], target
    model = ib.models.small_cnn(held.num_classes, width=8, seed=hidden)
    recipe = ib.training.Recipe(epochs=EPOCHS, batch_size=64, weight_decay=5e-3)
    ib.training.fit(model, LabelledImages(images, labels), recipe, seed=hidden)
    new = ib.ibau(model, held.clean, seed=hidden).model
    others = held.test.labels != target
    aimed = LabelledImages(stamped["test"][others], torch.full((int(others.sum()),), target))
    rates = {
        f"{name}{when}": ib.metrics.accuracy(network, images)
        for when, network in ((" before", model), ("", new))
        for name, images in (("ACC", held.test), ("ASR", aimed))
    }
    return {"target": held.class_names[target], **rates}
