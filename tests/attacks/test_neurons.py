"""Which neurons are chosen, and what they answer, against a computation by hand."""

from __future__ import annotations

import pytest
import torch
from ibau_lite._modes import evaluation_mode
from torch import nn

from ibau_lite.attacks.neurons import most_connected
from ibau_lite.models import mlp, resnet18, small_cnn, small_vgg


def test_the_strongest_channels_of_a_normalised_convolution():
    net = small_vgg(4).eval()
    convolution, norm = net.features[19], net.features[20]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(128, generator=generator))
        norm.running_var.copy_(0.1 + torch.rand(128, generator=generator))
    expected = {}
    for channel in range(128):
        size = sum(abs(w) for w in convolution.weight[channel].flatten().tolist())
        variance = float(norm.running_var[channel]) + 1e-5
        factor = abs(norm.weight[channel].item()) / variance**0.5
        expected[channel] = size * factor
    best = sorted(expected, key=expected.get, reverse=True)[:5]
    assert most_connected(net, 5).chosen.tolist() == best


def test_the_strongest_units_of_a_hidden_layer():
    net = mlp(12, (6,), 3)
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(6, 12) * torch.tensor([1, -5, 2, 0, 4, -3.0])[:, None])
    assert most_connected(net, 3).chosen.tolist() == [1, 4, 5]


def test_activations_are_the_largest_over_positions():
    net = small_vgg(4).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    neurons = most_connected(net, 4)
    features = net.features(images)  # [3, 128, 4, 4]
    expected = features.flatten(2).max(2).values[:, neurons.chosen]
    assert torch.equal(neurons(images), expected)
    assert not net.classifier._forward_pre_hooks


@pytest.mark.parametrize(
    ("net", "channels"),
    [(small_cnn(3, width=2), 8), (resnet18(3), 512), (mlp(3 * 16 * 16, (5, 7), 3), 7)],
    ids=["small_cnn", "resnet18", "mlp"],
)
def test_every_network_of_the_book_has_neurons(net, channels):
    neurons = most_connected(net.eval(), 2)
    assert neurons.channels == channels
    assert neurons(torch.rand(2, 3, 16, 16)).shape == (2, 2)


def test_networks_without_such_layers_are_refused():
    with pytest.raises(ValueError, match="a last linear layer"):
        most_connected(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), 1)
    odd = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ConstantPad1d((0, 1), 0.0))
    odd.append(nn.Linear(4 * 36 + 1, 2))
    with pytest.raises(ValueError, match="got 145 numbers"):
        most_connected(odd, 1)(torch.zeros(1, 1, 8, 8))


def test_evaluation_mode_puts_every_flag_back():
    net = small_cnn(3, width=2)
    net.train()
    net[1].eval()
    flags = [module.training for module in net.modules()]
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(net):
        assert not any(module.training for module in net.modules())
        raise RuntimeError("inside")
    assert [module.training for module in net.modules()] == flags


def test_neurons_that_are_not_excited_come_last():
    """Two positions: the left pixel moves the first channel only below what the right one gives."""
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(6, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([3.0, 2.0, 1.0]).reshape(3, 1, 1, 1))
        network[0].bias.zero_()
        network[0].weight[0] = -3.0  # its largest activation is where the image is dark
    images = torch.tensor([[[[0.2, 0.0]]], [[[0.9, 0.0]]]])
    ranked = most_connected(network)
    assert ranked.chosen.tolist() == [0, 1, 2]
    assert ranked.activated_by(images, 2).chosen.tolist() == [1, 2]
    assert ranked.activated_by(images, 3).chosen.tolist() == [1, 2, 0]
