"""What is reported of a network: clean accuracy, attack success rate, and their spread over seeds.

All of them are fractions in [0, 1]; the model is read, never changed.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ibau_lite._modes import evaluation_mode
from ibau_lite.data import LabelledImages
from ibau_lite.logits import check_reads_alone, read

__all__ = [
    "AttackLike",
    "Report",
    "Spread",
    "Summary",
    "accuracy",
    "attack_success_rate",
    "evaluate",
    "predict",
    "spread",
    "summarise",
]


class AttackLike(Protocol):
    """What this module needs of an attack: the images on which its success is measured.

    `poisoned_test_set(labelled)` stamps the images whose label the attack changes (those of the target
    class are left out) and labels them as the attacker wants them to be read.
    """

    def poisoned_test_set(self, labelled: LabelledImages) -> LabelledImages:
        """Give the attacked images with the attacker's labels."""
        ...


@dataclass(frozen=True)
class Report:
    """Clean accuracy and attack success rate of one network, with the number of images of each."""

    accuracy: float
    attack_success_rate: float
    n_clean: int
    n_attacked: int

    def __str__(self) -> str:
        return (
            f"ACC {self.accuracy:.1%} (n = {self.n_clean:,})   "
            f"ASR {self.attack_success_rate:.1%} (n = {self.n_attacked:,})"
        ).replace("%", " %")


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a fraction over `n` runs; no deviation is known of one run.

    std² = Σ (x − mean)² / (n − 1).
    """

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        around = "" if self.std is None else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{around} %"


@dataclass(frozen=True)
class Summary:
    """`Report`s over several seeds: the spread of the accuracy and of the attack success rate."""

    accuracy: Spread
    attack_success_rate: Spread

    def __str__(self) -> str:
        return f"ACC {self.accuracy}   ASR {self.attack_success_rate}   (n = {self.accuracy.n})"


def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Predict classes in evaluation mode: argmax_k f(x)_k.

    `images` [N, C, H, W] in [0, 1] are moved to the model's device a batch at a time; the result is
    int64 [N] on the CPU. Each submodule's training flag is put back as it was.
    Raises `TypeError` for images that are no floating-point tensor, or a model that gives no
    tensor; `ValueError` for images that are brighter than any in [0, 1] with a perturbation
    (0 … 255, say), if the model does not map a batch [B, …] to logits [B, K], or reads the images
    of a batch together. Warns where a logit is NaN or infinite: the prediction then means nothing.
    """
    _check_range(images)
    logits = _logits(model, images, batch_size)
    return torch.cat([torch.empty(0, dtype=torch.int64), *(batch.argmax(1) for batch in logits)])


def accuracy(model: nn.Module, labelled: LabelledImages, *, batch_size: int = 1000) -> float:
    """Count the fraction of images predicted as labelled: |{i : argmax f(xᵢ) = yᵢ}| / N.

    Raises `TypeError` for no `LabelledImages`, `ValueError` for no images, for a label that is none of
    the model's classes, and as `predict` does for the model.
    """
    _check(labelled)
    labels = labelled.labels.cpu()
    if not len(labels):
        raise ValueError("labelled: at least one image is expected, got none")
    right = start = 0
    for logits in _logits(model, labelled.images, batch_size):
        wanted = labels[start : start + len(logits)]
        if wanted.max() >= logits.shape[1]:
            from_one = " (labels count from 0)" if int(labels.min()) == 1 else ""
            raise ValueError(
                f"labels: the model's classes 0 to {logits.shape[1] - 1} are expected, "
                f"got {int(wanted.max())}{from_one}"
            )
        right += int((logits.argmax(1) == wanted).sum())
        start += len(logits)
    return right / len(labels)


def attack_success_rate(
    model: nn.Module, labelled: LabelledImages, attack: AttackLike, *, batch_size: int = 1000
) -> float:
    """Count the fraction of attacked images that are read as the attacker wants (ASR).

    `labelled` are clean images with their true labels; those whose label the attack leaves as it is
    (for one target: the images of the target class) are not counted, since reading them so is no
    success. Over several triggers: all their images together; one by one, `accuracy` on each of
    `attack.poisoned_test_sets(labelled)`. Raises as `attack.poisoned_test_set` and `accuracy` do.
    """
    return accuracy(model, attack.poisoned_test_set(labelled), batch_size=batch_size)


def evaluate(
    model: nn.Module, labelled: LabelledImages, attack: AttackLike, *, batch_size: int = 1000
) -> Report:
    """Clean accuracy and attack success rate of a model on clean images with their true labels.

    Raises as `accuracy` and `attack_success_rate` do.
    """
    _check(labelled)
    attacked = attack.poisoned_test_set(labelled)
    return Report(
        accuracy=accuracy(model, labelled, batch_size=batch_size),
        attack_success_rate=accuracy(model, attacked, batch_size=batch_size),
        n_clean=len(labelled),
        n_attacked=len(attacked),
    )


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation (divisor n − 1) of the results of several runs.

    Raises `ValueError` for no values or one that is not finite.
    """
    values = list(values)
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values: at least one finite number is expected, got {values}")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


def summarise(reports: Sequence[Report]) -> Summary:
    """Mean ± standard deviation over the reports of several seeds. Raises `ValueError` for none."""
    return Summary(
        accuracy=spread(report.accuracy for report in reports),
        attack_success_rate=spread(report.attack_success_rate for report in reports),
    )


def _check(labelled: LabelledImages) -> None:
    if not isinstance(labelled, LabelledImages):
        raise TypeError(
            f"labelled: LabelledImages are expected, as dataset.test, got {type(labelled)}"
        )


def _check_range(images: Tensor) -> None:
    """Refuse bytes, as numbers or as floats.

    A perturbed x + δ leaves [0, 1], but |x + δ| is at most 1 + ‖δ‖₂ / √d on average over the d
    values of an image: 2 would be a δ as long as an image that is white all over.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images: a floating-point tensor in [0, 1] is expected, got {kind}; "
            "for bytes use images.float().div(255)"
        )
    for part in images.split(1000):
        if float(size := part.detach().abs().double().mean()) > 2:
            raise ValueError(
                f"images: values in [0, 1] are expected, got {float(size):.3g} on average; for "
                "0 … 255 use images.div(255)"
            )


def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Logits [B, K] on the CPU, a batch at a time."""
    if batch_size < 1:
        raise ValueError(f"batch_size: at least 1 is expected, got {batch_size}")
    check_reads_alone(model)
    for start in range(0, len(images), batch_size):
        # The mode is set a batch at a time: a generator may be left half-way.
        with evaluation_mode(model), torch.no_grad():
            batch = images[start : start + batch_size]
            logits = read(model, batch).cpu()
        if not logits.isfinite().all():
            warnings.warn(
                "the model gives NaN or infinite logits: its predictions mean nothing",
                RuntimeWarning,
                stacklevel=3,
            )
        yield logits
