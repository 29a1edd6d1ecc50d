r"""Networks for small images, as plain `torch.nn.Module`\ s.

Every constructor takes a `seed`. The same seed gives the same initial weights, and the global
random state stays as it was. All networks map images [N, C, H, W] in [0, 1] to logits [N,
num_classes]. None of them reads a file or normalises its input.

>>> small_cnn(num_classes=10, seed=0)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ibau_lite.streams import derived_seed

__all__ = [
    "Normalised",
    "PreActResNet",
    "ResNet",
    "SmallVGG",
    "mlp",
    "preact_resnet18",
    "resnet18",
    "small_cnn",
    "small_vgg",
]


def _conv_block(inputs: int, outputs: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Convolution 3×3 (padding 1), batch normalisation, activation: spatial size is kept."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), activation()]


class SmallVGG(nn.Module):
    """The network of the paper: see `small_vgg`."""

    def __init__(
        self, num_classes: int, in_channels: int, size: int, dropout: tuple[float, float, float]
    ) -> None:
        super().__init__()
        _check_classes(num_classes)
        if size < 8:
            raise ValueError(
                f"small_vgg halves the image three times: size must be >= 8, got {size}"
            )
        layers: list[nn.Module] = []
        channels = in_channels
        for width, rate in zip((32, 64, 128), dropout, strict=True):
            # ELU stays out of place: in-place activations break forward-mode differentiation.
            layers += _conv_block(channels, width, nn.ELU) + _conv_block(width, width, nn.ELU)
            layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * (size // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class _Residual(nn.Module):
    """Basic block of He et al. (2016): x ↦ relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


class ResNet(nn.Module):
    """A residual network for small images: see `resnet18`."""

    def __init__(self, depths: Iterable[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        _check_classes(num_classes)
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        ]
        channels = 64
        for stage, depth in enumerate(depths):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Residual(channels, 64 * 2**stage, stride))
                channels = 64 * 2**stage
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class _PreActivation(nn.Module):
    """A residual block whose norms and ReLUs come before its convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.relu(self.bn1(x))
        passed_on = self.shortcut(seen) if len(self.shortcut) else x
        return passed_on + self.conv2(torch.relu(self.bn2(self.conv1(seen))))


class PreActResNet(nn.Module):
    """A residual network with pre-activation: see `preact_resnet18`."""

    def __init__(self, depths: Iterable[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        _check_classes(num_classes)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        channels, self.stages = 64, []
        for stage, depth in enumerate(depths):
            blocks = nn.Sequential()
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_PreActivation(channels, 64 * 2**stage, stride))
                channels = 64 * 2**stage
            self.add_module(f"layer{stage + 1}", blocks)
            self.stages.append(f"layer{stage + 1}")
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))


class Normalised(nn.Module):
    """`network` on images whose channels are shifted by −`mean` and divided by `std`.

    With it a network that was trained on normalised images reads images in [0, 1], where δ lives.
    Raises `ValueError` for numbers that are not one a channel, or a std that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Iterable[float], std: Iterable[float]) -> None:
        super().__init__()
        shift, scale = (torch.tensor([float(x) for x in each]) for each in (mean, std))
        if shift.shape != scale.shape or not len(shift) or not bool((scale > 0).all()):
            raise ValueError(
                "mean and std: a number for each channel, std above 0, are expected, "
                f"got {shift.tolist()} and {scale.tolist()}"
            )
        self.network = network
        self.register_buffer("mean", shift.view(1, -1, 1, 1))
        self.register_buffer("std", scale.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got num_classes = {num_classes}")


def _seeded(seed: int, build: Any, *args: Any) -> nn.Module:
    """Build a module with initial weights drawn from `seed`, the global state untouched."""
    # Modules are built on the CPU: only its generator is seeded, and only its state put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "weights"))
        return build(*args)


def small_vgg(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    size: int = 32,
    dropout: tuple[float, float, float] = (0.3, 0.4, 0.4),
    seed: int = 0,
) -> nn.Module:
    """The paper's network: six convolutions in three stages, about 0.31 million parameters.

    conv 32, 32, pool, dropout 0.3, conv 64, 64, pool, dropout 0.4, conv 128, 128, pool, dropout
    0.4, linear. Each convolution is 3×3 with padding 1, followed by batch normalisation and ELU.
    The modules have the order of the state dicts that the authors released (`features`: conv, norm,
    elu, …, pool, dropout; `classifier`), so these load unchanged (`checkpoints.load`).

    `size` is the height and width of the (square) images in pixels, at least 8. `dropout` are the
    rates after the three pools. The paper's rates suit its long training; a short one needs less.
    They change neither the state dict nor the network in evaluation mode. Raises `ValueError` for a
    smaller size.
    Source: Zeng et al., ICLR 2022, appendix (the "small VGG").

    >>> sum(p.numel() for p in small_vgg().parameters())
    308394
    """
    return _seeded(seed, SmallVGG, num_classes, in_channels, size, dropout)


def small_cnn(
    num_classes: int, in_channels: int = 3, *, width: int = 16, seed: int = 0
) -> nn.Module:
    """A network of four convolutions for drawn signs and digits, trained in seconds on a CPU.

    conv(width), pool, conv(2·width), pool, conv(4·width), pool, conv(4·width), average pool to 2×2,
    linear. Each convolution is 3×3 with batch normalisation and ReLU. Images of any size from 8×8.
    """

    _check_classes(num_classes)

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        channels = in_channels
        for outputs in (width, 2 * width, 4 * width):
            layers += [*_conv_block(channels, outputs, nn.ReLU), nn.MaxPool2d(2)]
            channels = outputs
        layers += [*_conv_block(channels, channels, nn.ReLU), nn.AdaptiveAvgPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels, num_classes))

    return _seeded(seed, build)


def resnet18(num_classes: int = 10, in_channels: int = 3, *, seed: int = 0) -> nn.Module:
    """ResNet-18 with the 3×3 stem that is usual for 32×32 images (11.2 million parameters).

    The stem has no stride and no max-pooling.
    Source: He et al., CVPR 2016.
    """
    return _seeded(seed, ResNet, (2, 2, 2, 2), num_classes, in_channels)


def preact_resnet18(num_classes: int = 10, in_channels: int = 3, *, seed: int = 0) -> nn.Module:
    """ResNet-18 with pre-activation for 32×32 images (11.2 million parameters).

    Parameters have the names of BackdoorBench's PreActResNet-18, so that its weights can be loaded;
    like that one it has no norm between the last block and the mean.
    Source: He et al., ECCV 2016; Wu et al., NeurIPS 2022 (BackdoorBench).
    """
    return _seeded(seed, PreActResNet, (2, 2, 2, 2), num_classes, in_channels)


def mlp(
    inputs: int, hidden: Iterable[int], num_classes: int, *, smooth: bool = True, seed: int = 0
) -> nn.Module:
    """A multilayer perceptron on flattened images: linear layers with softplus (or ReLU) between.

    With `smooth=True` the network is infinitely differentiable. Use it to test the theory, whose
    constants (Lipschitz Hessians) do not exist for ReLU networks.

    >>> mlp(64, [16], 10)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    _check_classes(num_classes)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        last = inputs
        for units in hidden:
            layers += [nn.Linear(last, units), nn.Softplus() if smooth else nn.ReLU()]
            last = units
        return nn.Sequential(*layers, nn.Linear(last, num_classes))

    return _seeded(seed, build)
