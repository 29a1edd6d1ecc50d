r"""Adversarial Neuron Pruning: prune the neurons whose small perturbation breaks the network.

Each neuron has a mask m ∈ [0, 1]. With perturbations δ, ξ ∈ [−ε, ε] of its weight w and bias b, ANP
solves

.. math:: \min_m\ \alpha L(m w, b) + (1 - \alpha) \max_{\delta, \xi} L((m + \delta) w, (1 + \xi) b).

Neurons whose mask falls below a threshold are set to zero. No weight is trained.
Source: Wu, Wang, *Adversarial Neuron Pruning Purifies Backdoored Deep Models*, NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ibau_lite._kinds import check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.defenses.epochs import EpochsConfig, run_epochs
from ibau_lite.defenses.layers import (
    batch_norm_training,
    check_own_weight,
    is_trainable_convolution,
)
from ibau_lite.protocol import Outcome, Run, defense

__all__ = ["ANPConfig", "anp"]


@dataclass(frozen=True)
class ANPConfig(EpochsConfig):
    """Settings of `anp`: SGD on the masks (`lr`, `momentum`), ε, α, and the threshold.

    The published run takes 2,000 batches of 128 from 500 images; here it takes `epochs` epochs over
    the clean set. δ and ξ start uniformly in [−ε, ε] for each batch. They take one step of length ε
    along the sign of the gradient and are clipped to the interval (the published code does not
    clip). With `batch_statistics`, the network normalises by the batch while the masks are learnt,
    as published. The running statistics do not change.
    """

    epochs: int = 20
    batch_size: int = 100
    lr: float = 0.2
    momentum: float = 0.9
    epsilon: float = 0.4
    alpha: float = 0.2
    threshold: float = 0.2
    batch_statistics: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, momentum="[0, 1)", epsilon="[0, ∞)", alpha="[0, 1]", threshold="[0, 1]")


@defense(ANPConfig)
def anp(model: nn.Module, clean: LabelledImages, config: ANPConfig, run: Run) -> Outcome:
    """Learn which neurons withstand perturbation, and prune the others.

    A neuron is a channel of an affine normalisation over maps, as in the published code. In a
    network without one, it is a channel of a convolution. Pruning sets its weights to zero and
    leaves its bias. After each epoch the model is pruned by the present masks, so that the
    evaluator sees what would be returned. The history has one row an epoch: loss (at the masks),
    robust (the loss at their perturbation), and pruned (a count). `details` holds masks by layer,
    and pruned, the channels by layer. Raises and warns as `ibau` does. Raises `ValueError` for a
    network without such layers.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> result = anp(tiny_network(), tiny_images(), config=ANPConfig(epochs=1, batch_size=12))
    >>> sorted(result.history[0])
    ['loss', 'pruned', 'robust', 'round']
    """
    neurons = _Neurons(model)
    optimizer = torch.optim.SGD(neurons.masks.values(), lr=config.lr, momentum=config.momentum)

    def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        def loss_at(shifts: dict[str, Tensor] | None) -> Tensor:
            with batch_norm_training(model, images, config.batch_statistics, record=False):
                logits = functional_call(model, neurons.weights(shifts), (images,))
            return F.cross_entropy(logits, labels)

        shifts = neurons.noise(config.epsilon, run.generator)
        gradients = torch.autograd.grad(loss_at(shifts), list(shifts.values()), allow_unused=True)
        worst = {
            name: _sign_step(shift.detach(), gradient, config.epsilon)
            for (name, shift), gradient in zip(shifts.items(), gradients, strict=True)
        }
        loss, robust = loss_at(None), loss_at(worst)
        optimizer.zero_grad(set_to_none=True)
        total = config.alpha * loss + (1 - config.alpha) * robust
        total.backward(inputs=list(neurons.masks.values()))
        optimizer.step()
        with torch.no_grad():
            for mask in neurons.masks.values():
                mask.clamp_(0, 1)
        return {"loss": loss, "robust": robust}

    def measure(pruned: nn.Module) -> dict[str, float]:
        count = neurons.prune(config.threshold)
        measured = run.evaluate(pruned)
        neurons.restore()
        return {"pruned": count, **measured}

    history = run_epochs(model, clean, config, step, run, measure=measure)
    neurons.prune(config.threshold)
    return model, history, neurons.details(config.threshold)


class _Neurons:
    """The prunable neurons of a network: masks, perturbations, and pruning in place."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        layers = [n for n, m in model.named_modules() if _is_norm(m) and m.weight.requires_grad]
        if not layers:
            layers = [name for name, m in model.named_modules() if is_trainable_convolution(m)]
        if not layers:
            raise ValueError(
                "the model has no affine normalisation and no convolution that may be changed: "
                "there are no neurons to prune"
            )
        for layer in layers:
            check_own_weight(model, layer)
        parameters = dict(model.named_parameters())
        self._weights = {f"{n}.weight": parameters[f"{n}.weight"].detach().clone() for n in layers}
        self._biases = {
            f"{n}.bias": parameters[f"{n}.bias"].detach().clone()
            for n in layers
            if f"{n}.bias" in parameters
        }
        self.masks = {
            name: torch.ones_like(weight.flatten(1)[:, 0] if weight.ndim > 1 else weight)
            for name, weight in self._weights.items()
        }
        for mask in self.masks.values():
            mask.requires_grad_(True)

    def noise(self, epsilon: float, generator: torch.Generator) -> dict[str, Tensor]:
        """Uniform δ and ξ in [−ε, ε], one a neuron, ready for a gradient."""
        like = {**self.masks, **self._biases}
        return {
            name: (epsilon * (2 * torch.rand(value.shape, generator=generator) - 1))
            .to(value)
            .requires_grad_(True)
            for name, value in like.items()
        }

    def weights(self, shifts: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """(m + δ) w and (1 + ξ) b by the name of the parameter; m w alone for no shifts."""
        changed = {}
        for name, weight in self._weights.items():
            scale = self.masks[name] + (0 if shifts is None else shifts[name])
            changed[name] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        if shifts is not None:
            changed |= {name: bias * (1 + shifts[name]) for name, bias in self._biases.items()}
        return changed

    def prune(self, threshold: float) -> int:
        """Set the weights of neurons with masks below the threshold to zero; count them."""
        count = 0
        with torch.no_grad():
            for name, mask in self.masks.items():
                weak = mask < threshold
                self._model.get_parameter(name)[weak] = 0
                count += int(weak.sum())
        return count

    def restore(self) -> None:
        """Undo `prune`."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                self._model.get_parameter(name).copy_(weight)

    def details(self, threshold: float) -> dict[str, Any]:
        masks = {name.removesuffix(".weight"): m.detach() for name, m in self.masks.items()}
        pruned = {n: (m < threshold).nonzero().flatten().tolist() for n, m in masks.items()}
        return {"masks": masks, "pruned": pruned}


def _is_norm(module: nn.Module) -> bool:
    kinds = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
    return isinstance(module, kinds) and isinstance(module.weight, Tensor)


def _sign_step(shift: Tensor, gradient: Tensor | None, epsilon: float) -> Tensor:
    if gradient is None:
        return shift
    return (shift + epsilon * gradient.sign()).clamp(-epsilon, epsilon)
