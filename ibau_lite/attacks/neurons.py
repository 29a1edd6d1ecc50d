"""The neurons that a computed trigger shall excite: which they are, and how much they answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ibau_lite._modes import evaluation_mode


@dataclass(frozen=True, eq=False)
class Neurons:
    """Chosen channels of the layer that feeds a network's last linear layer.

    Called on images [N, C, H, W] it gives their activations [N, k]: of each chosen channel the
    largest over all positions. Differentiable in the images. Made by `most_connected`.
    """

    network: nn.Module
    classifier: nn.Linear
    channels: int
    chosen: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.network(images)
        finally:
            hook.remove()
        features = seen[0]
        if features.shape[1] % self.channels:
            raise ValueError(
                f"network: features of {self.channels} channels, flattened channel by channel, are "
                f"expected by its last linear layer, got {features.shape[1]} numbers"
            )
        return features.unflatten(1, (self.channels, -1)).amax(2)[:, self.chosen]

    def activated_by(self, images: Tensor, count: int) -> Neurons:
        """The first `count` that answer to `images` more, on average, than to a black image.

        Others cannot be excited by what is added to black: their largest activation lies where the
        images are black, or they prefer the dark. Where fewer answer, the first of these are taken,
        too. Raises `ValueError` as `most_connected` does.
        """
        _check_count(count, len(self.chosen))
        with torch.no_grad():
            answers, black = self(images).mean(0), self(torch.zeros_like(images[:1]))[0]
        order = (answers > black).to(torch.uint8).argsort(descending=True, stable=True)
        return replace(self, chosen=self.chosen[order][:count])


def most_connected(network: nn.Module, count: int | None = None) -> Neurons:
    """Choose the `count` channels with the strongest connections to the layer before, or sort all.

    score_c = Σ |W_c| · |γ_c| / √(σ_c² + ε): the sum of the absolute weights that lead to the
    channel (Liu et al. 2018, section IV-A), times the factor of the batch normalisation that
    follows, where there is one, since it undoes any scale of W. Raises `ValueError` for a count
    outside 1 to the number of channels, and for a network that does not end in a linear layer after
    another layer with weights.
    """
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    classifier = layers[-1] if len(layers) > 1 else None
    if not isinstance(classifier, nn.Linear):
        raise ValueError(
            "network: a last linear layer, and a convolution or linear layer before it, are "
            f"expected, got {[type(layer).__name__ for layer in layers]}"
        )
    before = layers[-2]
    score = before.weight.detach().flatten(1).abs().sum(1)
    norm = _norm_after(network, before)
    if norm is not None and norm.weight is not None and norm.running_var is not None:
        score = score * norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()
    count = len(score) if count is None else count
    _check_count(count, len(score))
    return Neurons(network, classifier, len(score), score.argsort(descending=True)[:count])


def _check_count(count: int, total: int) -> None:
    if not 1 <= count <= total:
        raise ValueError(f"neurons: 1 to {total} are expected, got {count}")


def _norm_after(network: nn.Module, layer: nn.Module) -> nn.BatchNorm2d | None:
    modules = list(network.modules())
    following = modules[modules.index(layer) + 1 :][:1]
    return following[0] if following and isinstance(following[0], nn.BatchNorm2d) else None


@contextmanager
def still(network: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode inside, each submodule's own flag outside; gives the network's device."""
    with evaluation_mode(network):
        yield next(network.parameters()).device
