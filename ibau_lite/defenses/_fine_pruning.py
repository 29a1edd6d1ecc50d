r"""Fine-Pruning: remove the channels that are dormant on clean images, then fine-tune.

Channel k of the last convolution is ranked by its mean activation on clean images,

.. math:: a_k = \mathbb{E}_{i, \mathrm{pixels}} \max(0, z_k(x_i)).

The channels are set to zero in rising order of a_k, until the accuracy on held-out clean images
falls by more than a tolerance. Fine-tuning repairs the rest.
Source: Liu, Dolan-Gavitt, Garg, *Fine-Pruning*, RAID 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import AdamSteps, EpochsConfig, run_epochs
from ibau_lite.defenses.layers import (
    check_own_weight,
    is_trainable_convolution,
    last_convolution,
    layer_outputs,
    norm_after,
)
from ibau_lite.metrics import accuracy
from ibau_lite.protocol import Outcome, Run, defense, hold_out
from ibau_lite.speed import fold_batchnorm

__all__ = ["FinePruningConfig", "fine_pruning"]


@dataclass(frozen=True)
class FinePruningConfig(EpochsConfig):
    """Settings of `fine_pruning`; epochs to shift are those of the fine-tuning that follows.

    `layer` names the convolution (None: the last one that runs). Each step prunes the fraction
    `step` of its channels, at least one. The last step whose accuracy is within `tolerance` of the
    start stands. `validation` is the fraction of the clean set that is held out to choose it.
    """

    layer: str | None = None
    tolerance: float = 0.04
    step: float = 1 / 32
    validation: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, tolerance="[0, 1)", step="(0, 1)", validation="(0, 1)")


@defense(FinePruningConfig)
def fine_pruning(
    model: nn.Module, clean: LabelledImages, config: FinePruningConfig, run: Run
) -> Outcome:
    """Prune channels that are dormant on clean images, as many as held-out images allow; fine-tune.

    A channel is zero if the weights and the bias that make it are zero: those of the convolution,
    and those of an affine normalisation that follows it. Frozen ones stay as they are. Pruned
    channels stay zero in fine-tuning, in which the held-out images take no part. `details` holds
    layer, pruned (channels), activation [K], and curve, rows (channels pruned, accuracy held out)
    up to the first fall. The history has one row an epoch of fine-tuning. Raises and warns as
    `ibau` does. Raises `ValueError` for a clean set that is too small to hold anything out, and for
    a `layer` that is not a trainable convolution.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> config = FinePruningConfig(epochs=1, step=0.25)
    >>> fine_pruning(tiny_network(), tiny_images(), config=config).details["layer"]
    '12'
    """
    kept, held_out = hold_out(clean, config.validation, run.generator)
    layer = config.layer or last_convolution(model, _one(model, clean))
    parts = _parts(model, layer, clean)
    activation = _activation(model, parts, kept)
    pruned, curve = _prune(model, parts, activation, held_out, config, run.progress)
    network = fold_batchnorm(model)
    descend = AdamSteps(model, config, len(kept))

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(network(images), labels)
        descend(loss)
        _zero(model, parts, pruned)
        return {"loss": loss}

    history = run_epochs(model, kept, config, step, run)
    details = {"layer": layer, "pruned": pruned, "activation": activation, "curve": curve}
    return model, history, details


def _one(model: nn.Module, clean: LabelledImages) -> Tensor:
    return clean.images[:1].to(next(model.parameters()).dtype)


def _parts(model: nn.Module, layer: str, clean: LabelledImages) -> tuple[str, ...]:
    """The convolution and the normalisation behind it: what makes a channel."""
    module = dict(model.named_modules()).get(layer)
    if module is None or not is_trainable_convolution(module):
        raise ValueError(f"layer: a convolution that may be changed is expected, got {layer!r}")
    check_own_weight(model, layer)
    norm = norm_after(model, _one(model, clean), layer)
    return (layer,) if norm is None else (layer, norm)


def _activation(model: nn.Module, parts: tuple[str, ...], clean: LabelledImages) -> Tensor:
    """Mean of max(0, z_k) over images and pixels [channels], after the normalisation."""
    total, dtype = None, next(model.parameters()).dtype
    with layer_outputs(model, parts[-1:]) as seen, torch.no_grad():
        for images in clean.images.split(500):
            model(images.to(dtype))
            part = seen[parts[-1]].relu().mean((2, 3)).sum(0)
            total = part if total is None else total + part
    assert total is not None
    return total.clone() / len(clean)


def _prune(
    model: nn.Module,
    parts: tuple[str, ...],
    activation: Tensor,
    held_out: LabelledImages,
    config: FinePruningConfig,
    progress: bool,
) -> tuple[list[int], list[tuple[int, float]]]:
    """Prune step by step until the accuracy falls too far, then put the last step back."""
    order = activation.argsort(stable=True).tolist()
    size = max(1, int(config.step * len(order)))
    before = accuracy(model, held_out)
    curve, pruned = [(0, before)], 0
    for count in tqdm(range(size, len(order), size), disable=not progress, desc="pruning"):
        saved = [p.detach().clone() for p in _parameters(model, parts)]
        _zero(model, parts, order[:count])
        curve.append((count, accuracy(model, held_out)))
        if curve[-1][1] < before - config.tolerance:
            with torch.no_grad():
                for parameter, value in zip(_parameters(model, parts), saved, strict=True):
                    parameter.copy_(value)
            break
        pruned = count
    return sorted(order[:pruned]), curve


def _parameters(model: nn.Module, parts: tuple[str, ...]) -> Iterator[nn.Parameter]:
    for name in parts:
        yield from (p for p in model.get_submodule(name).parameters() if p.requires_grad)


def _zero(model: nn.Module, parts: tuple[str, ...], channels: list[int]) -> None:
    with torch.no_grad():
        for parameter in _parameters(model, parts):
            parameter[channels] = 0
