"""Layers are found by watching an image pass, on sequential and on residual networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.defenses.layers import (
    batch_norm_training,
    last_convolution,
    layer_outputs,
    norm_after,
    reused_layers,
    stages,
)

IMAGE = torch.zeros(1, 3, 16, 16)
NETWORKS = {
    "small_vgg": lambda: models.small_vgg(5, size=16),
    "small_cnn": lambda: models.small_cnn(5, width=4),
    "resnet": lambda: models.ResNet((1, 2), 5, 3),
}


@pytest.mark.parametrize(
    ("name", "convolution", "norm", "found"),
    [
        ("small_vgg", "features.19", "features.20", ("features.5", "features.13", "features.21")),
        ("small_cnn", "12", "13", ("6", "10", "14")),
        ("resnet", "features.5.body.3", "features.5.body.4", ("features.3", "features.5")),
    ],
)
def test_what_is_found(name, convolution, norm, found):
    network = NETWORKS[name]().eval()
    assert last_convolution(network, IMAGE) == convolution
    assert norm_after(network, IMAGE, convolution) == norm
    assert stages(network, IMAGE, 3) == found[-3:]


def test_the_order_is_that_of_running_not_of_definition():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.first(x)).mean((2, 3)))

    assert last_convolution(Backwards(), IMAGE) == "second"
    assert norm_after(Backwards(), IMAGE, "first") is None  # another convolution follows


def test_a_frozen_convolution_is_passed_over():
    network = models.small_cnn(5, width=4).eval()
    network[12].requires_grad_(False)
    assert last_convolution(network, IMAGE) == "8"
    with pytest.raises(ValueError, match="no convolution"):
        last_convolution(network.requires_grad_(False), IMAGE)


def test_networks_without_convolutions():
    network = models.mlp(3 * 16 * 16, [4], 2)
    with pytest.raises(ValueError, match="no convolution"):
        stages(network, IMAGE, 3)


def test_outputs_are_those_of_the_last_pass_and_the_hooks_go():
    network = models.small_cnn(5, width=4).eval()
    images = torch.rand(2, 3, 16, 16)
    with layer_outputs(network, ("3", "0")) as seen:
        network(torch.rand(4, 3, 16, 16))
        network(images)
    assert torch.equal(seen["0"], network[0](images))
    assert torch.equal(seen["3"], network[:4](images))
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match="no module 99"), layer_outputs(network, ("99",)):
        pass


@pytest.mark.parametrize("record", [False, True])
def test_batch_statistics_inside_and_running_ones_outside(record):
    network = models.small_cnn(5, width=4).eval()
    network[5].requires_grad_(False)
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with batch_norm_training(network, images, record=record):
        normal = network[:2](images)
        network(images)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-5  # normalised by this very batch
    moved = {n for n, b in network.named_buffers() if not torch.equal(b, before[n])}
    layers = {name.split(".")[0] for name in moved}
    assert layers == ({"1", "9", "13"} if record else set())  # 5 is frozen
    assert not any(module.training for module in network.modules())
    assert all(network[k].track_running_stats for k in (1, 5, 9, 13))
    with batch_norm_training(network, images[:1]):
        assert torch.equal(network(images[:1]), network(images[:1]))
        assert not network[1].training


class Student(nn.Module):
    """One ReLU for all, as many write it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.relu, self.head = nn.ReLU(), nn.Linear(6 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.b(self.relu(self.a(x)))).flatten(1))


def test_a_module_that_runs_several_times_is_no_stage():
    assert stages(Student(), IMAGE, 3) == ("a", "b")
    assert reused_layers(Student(), IMAGE, ["relu", "b"]) == ["relu"]


def test_a_normalisation_of_something_else_is_not_the_convolutions():
    class Other(nn.Module):
        def __init__(self, norm: nn.Module, how: str) -> None:
            super().__init__()
            self.conv, self.norm, self.how = nn.Conv2d(3, 16, 3, padding=1), norm, how

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.conv(x)
            if self.how == "sum":  # of a network that normalises before each convolution
                return self.norm(z + 1).mean((2, 3))
            if self.how == "last":  # channels last
                return self.norm(z.permute(0, 2, 3, 1)).mean((1, 2))
            return self.norm(z).mean((2, 3))

    assert norm_after(Other(nn.BatchNorm2d(16), "plain").eval(), IMAGE, "conv") == "norm"
    assert norm_after(Other(nn.GroupNorm(4, 16), "plain"), IMAGE, "conv") == "norm"
    assert norm_after(Other(nn.BatchNorm2d(16), "sum").eval(), IMAGE, "conv") is None
    assert norm_after(Other(nn.LayerNorm(16), "last"), IMAGE, "conv") is None
    assert norm_after(Other(nn.LayerNorm(16), "plain"), IMAGE, "conv") is None  # over a row
