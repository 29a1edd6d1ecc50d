"""Folded BatchNorm: the same function, the same names, the same derivatives of every order."""

from __future__ import annotations

import copy

import pytest
import torch
from ibau_lite.speed import fold_batchnorm, frozen
from torch import nn
from torch.func import functional_call, jvp

from ibau_lite.models import resnet18, small_cnn, small_vgg


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, evaluation mode, statistics and affine parameters that are not the initial ones."""
    draws = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.3),
                (module.weight, 0.4),
                (module.bias, -0.5),
            ):
                if tensor is not None:
                    tensor.data.copy_(low + torch.rand(tensor.shape, generator=draws))
    return model.double().eval()


def images(count: int = 2, size: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


class NormFirst(nn.Module):
    """A norm that follows no layer, and a convolution that two places read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.second, self.head = nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.first(x))
        return self.head((self.second(y) + y).mean((2, 3)))


class Twice(nn.Module):
    """One convolution called twice, each time followed by the same norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(self.norm(self.conv(x)))).mean((2, 3))


class Branching(nn.Module):
    """Control flow on data: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return y.mean((2, 3)) if y.sum() > 0 else -y.mean((2, 3))


def norm_on_a_sequence() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 5), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(15, 4)
    )


def norm_after_linear() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)
    )


def strided_groups() -> nn.Module:
    conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, padding_mode="reflect", bias=False)
    return nn.Sequential(
        conv, nn.BatchNorm2d(6, affine=False), nn.ELU(), nn.Flatten(), nn.Linear(96, 4)
    )


MODELS = {
    "small_vgg": lambda: small_vgg(4, size=8),
    "small_cnn": lambda: small_cnn(4, width=4),
    "resnet18": lambda: resnet18(4),
    "norm first": NormFirst,
    "called twice": Twice,
    "branching": Branching,
    "norm after linear": norm_after_linear,
    "norm on a sequence": norm_on_a_sequence,
    "strides and groups": strided_groups,
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_the_same_function_and_gradients(build):
    model = settled(build())
    view, x = fold_batchnorm(model), images()
    torch.testing.assert_close(view(x), model(x), rtol=1e-10, atol=1e-12)
    for network in (view, model):
        loss = network(x).square().sum()
        grads = torch.autograd.grad(loss, list(network.parameters()))
        if network is view:
            ours = grads
    for mine, theirs in zip(ours, grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["small_vgg", "strides and groups"])
def test_the_same_second_derivatives(name):
    model, x, v = settled(MODELS[name]()), images(), images() - 0.5
    products = []
    for network in (fold_batchnorm(model), model):
        theta = dict(network.named_parameters())
        point = x.clone().requires_grad_(True)
        value = functional_call(network, theta, (point,)).logsumexp(1).sum()
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        products.append(torch.autograd.grad(slope, [point, *theta.values()], v, allow_unused=True))
    for ours, theirs in zip(*products, strict=True):
        if theirs is not None and ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_forward_mode_agrees_with_a_central_difference():
    view, x, v = fold_batchnorm(settled(norm_after_linear())), images(), images() - 0.5
    _, tangent = jvp(view, (x,), (v,))
    step = 1e-6
    torch.testing.assert_close(tangent, (view(x + step * v) - view(x - step * v)) / (2 * step))


def test_names_and_memory_are_those_of_the_model():
    model = settled(small_vgg(4, size=8))
    view = fold_batchnorm(model)
    ours, theirs = dict(view.named_parameters()), dict(model.named_parameters())
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in theirs)
    assert list(view.state_dict()) == list(model.state_dict())


def test_an_update_of_the_model_is_seen_by_the_view():
    model, x = settled(small_vgg(4, size=8)), images()
    view = fold_batchnorm(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    torch.testing.assert_close(view(x), model(x), rtol=1e-10, atol=1e-12)


def test_the_view_takes_other_parameters_by_name():
    model, x = settled(small_cnn(4, width=4)), images()
    theta = {name: 0.9 * p.detach() for name, p in model.named_parameters()}
    torch.testing.assert_close(
        functional_call(fold_batchnorm(model), theta, (x,)), functional_call(model, theta, (x,))
    )


def test_no_norm_runs_in_the_folded_network(monkeypatch):
    view = fold_batchnorm(settled(resnet18(4)))

    def never(*args, **kwargs):
        raise AssertionError("a norm ran")

    monkeypatch.setattr(nn.functional, "batch_norm", never)
    assert view(images()).shape == (2, 4)


def test_the_model_stays_as_it_was():
    model, x = settled(small_cnn(4, width=4)), images()
    before, state = model(x), copy.deepcopy(model.state_dict())
    fold_batchnorm(model)
    assert torch.equal(model(x), before)
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_copy_of_the_view_is_folded_and_its_own():
    model, x = settled(small_cnn(4, width=4)), images()
    view = fold_batchnorm(model)
    twin = copy.deepcopy(view)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(view(x), torch.zeros(2, 4, dtype=torch.float64))
    assert bool(twin(x).any())


def test_norms_without_statistics_stay():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()
    )
    model = model.double().eval()
    x = images()
    assert torch.equal(fold_batchnorm(model)(x), model(x))


class Rectified(nn.BatchNorm2d):
    """A norm that does more, as some libraries' do."""

    def forward(self, x):
        return super().forward(x).relu()


class Standardised(nn.Conv2d):
    """A convolution that does not use its weights as they are."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 4, 3), Rectified(4)),
        (Standardised(3, 4, 3), nn.BatchNorm2d(4)),
        (nn.Linear(8, 5), nn.BatchNorm2d(3)),  # of [N, C, H, W] the one maps W, the other scales C
    ],
)
def test_whatever_is_not_an_affine_norm_of_a_plain_layer_is_computed_all_the_same(layers):
    model = nn.Sequential(*copy.deepcopy(layers)).eval()
    norm = model[1]
    draws = torch.Generator().manual_seed(0)
    for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        values.copy_(0.5 + torch.rand(values.shape, generator=draws))
    x = torch.randn(2, 3, 8, 8, generator=draws)
    torch.testing.assert_close(fold_batchnorm(model)(x), model(x))


def test_a_hook_sees_what_its_layer_computes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.fill_(0.5)
    model[0].register_forward_hook(lambda layer, given, found: found * 2)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fold_batchnorm(model)(x), model(x))


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batchnorm(small_cnn(4))


def test_a_frozen_copy_is_the_same_function_of_the_images_and_asks_for_nothing_else():
    model = settled(small_vgg(5)).train()
    before = copy.deepcopy(model.state_dict())
    view = frozen(model)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in view.parameters())
    x = [images(3, 32).requires_grad_(True) for _ in range(2)]
    logits = [network(each) for network, each in zip((model.eval(), view), x, strict=True)]
    torch.testing.assert_close(*logits)
    slopes = [
        torch.autograd.grad(each.logsumexp(1).sum(), part)[0]
        for each, part in zip(logits, x, strict=True)
    ]
    torch.testing.assert_close(*slopes)
    with torch.no_grad():
        next(model.parameters()).add_(1)  # it is a copy
    torch.testing.assert_close(view(x[1]), logits[1])
