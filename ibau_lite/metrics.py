"""What is reported of a network: clean accuracy, attack success rate, and their spread over seeds.

All of them are fractions in [0, 1]. The model is read, never changed.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterable, Iterator
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
    "accuracy",
    "attack_success_rate",
    "evaluate",
    "predict",
    "spread",
]


class AttackLike(Protocol):
    """What this module needs of an attack: the images on which its success is measured.

    `poisoned_test_set(labelled)` stamps the images whose label the attack changes (those of the
    target class are left out) and labels them as the attacker wants them to be read.
    `attacks.Attack` has it.
    """

    def poisoned_test_set(self, labelled: LabelledImages) -> LabelledImages:
        """Give the stamped images with the attacker's labels."""
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
    """Mean and standard deviation of a fraction over `n` runs: std² = Σ (x − mean)² / (n − 1).

    `std` is None for one run, of which no deviation is known.
    """

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        around = "" if self.std is None else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{around} %"


def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Predict classes in evaluation mode: argmax_k f(x)_k.

    `images` [N, C, H, W] in [0, 1] are moved to the model's device a batch at a time. The result is
    int64 [N] on the CPU. The training flag of each submodule is put back as it was.

    Raises `TypeError` for images that are not a floating-point tensor, and for a model that gives
    no tensor. Raises `ValueError` for images in 0 … 255 (brighter than a perturbation of images in
    [0, 1] can make them), for a model that does not map a batch [B, …] to logits [B, K], and for a
    model whose logits of an image depend on the rest of the batch. Warns if a logit is NaN or
    infinite, because the prediction then means nothing.

    >>> predict(nn.Flatten(), torch.tensor([[[[0.1, 0.9]]], [[[0.8, 0.2]]]])).tolist()
    [1, 0]
    """
    _check_range(images)
    logits = _logits(model, images, batch_size)
    return torch.cat([torch.empty(0, dtype=torch.int64), *(batch.argmax(1) for batch in logits)])


def accuracy(model: nn.Module, labelled: LabelledImages, *, batch_size: int = 1000) -> float:
    """The fraction of images that are predicted as labelled: |{i : argmax f(xᵢ) = yᵢ}| / N.

    Raises `TypeError` for anything but `LabelledImages`. Raises `ValueError` for no images and for
    a label that is not a class of the model, and as `predict` does for the model.

    >>> images = torch.tensor([[[[0.1, 0.9]]], [[[0.8, 0.2]]]])
    >>> accuracy(nn.Flatten(), LabelledImages(images, torch.tensor([1, 1])))
    0.5
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
    """The fraction of stamped images that are predicted as the attacker wants (ASR).

    `labelled` are clean images with their true labels. Images whose label the attack does not
    change (for one target: the images of the target class) are not counted, because reading them as
    the target is no success. For several triggers, the fraction is that over all their images
    together; for one trigger at a time, call `accuracy` on each of
    `attack.poisoned_test_sets(labelled)`. Raises as `attack.poisoned_test_set` and `accuracy` do.

    >>> from ibau_lite.attacks import badnets
    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> 0 <= attack_success_rate(tiny_network(), tiny_images(), badnets(0)) <= 1
    True
    """
    return accuracy(model, attack.poisoned_test_set(labelled), batch_size=batch_size)


def evaluate(
    model: nn.Module, labelled: LabelledImages, attack: AttackLike, *, batch_size: int = 1000
) -> Report:
    """Clean accuracy and attack success rate of a model on clean images with their true labels.

    Raises as `accuracy` and `attack_success_rate` do.

    >>> from ibau_lite.attacks import badnets
    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> report = evaluate(tiny_network(), tiny_images(), badnets(0))
    >>> report.accuracy, report.n_clean, report.n_attacked
    (1.0, 24, 18)
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

    Raises `ValueError` for no values, and for a value that is not finite.

    >>> print(spread([0.90, 0.92, 0.94]))
    92.0 ± 2.0 %
    """
    values = list(values)
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values: at least one finite number is expected, got {values}")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


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
