"""The networks have the stated layers, shapes and names, and their seed says all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ibau_lite import checkpoints, models

# The layers of the state dicts that the authors released: index in `features` -> (in, out).
CONVOLUTIONS = {0: (3, 32), 3: (32, 32), 8: (32, 64), 11: (64, 64), 16: (64, 128), 19: (128, 128)}

NETWORKS = {
    "small_vgg": lambda seed=0: models.small_vgg(7, seed=seed),
    "small_cnn": lambda seed=0: models.small_cnn(7, seed=seed),
    "resnet18": lambda seed=0: models.resnet18(7, seed=seed),
    "mlp": lambda seed=0: models.mlp(3 * 32 * 32, (5, 4), 7, seed=seed),
}
each_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)


def released_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the order of the released files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (inputs, outputs) in CONVOLUTIONS.items():
        shapes[f"features.{index}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{index}.bias"] = (outputs,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{index + 1}.{name}"] = (outputs,)
        shapes[f"features.{index + 1}.num_batches_tracked"] = ()
    return {**shapes, "classifier.weight": (num_classes, 2048), "classifier.bias": (num_classes,)}


@pytest.mark.parametrize("num_classes", [10, 43])
def test_small_vgg_has_the_names_and_shapes_of_the_released_networks(num_classes):
    state = models.small_vgg(num_classes).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert list(shapes.items()) == list(released_shapes(num_classes).items())


def test_a_file_in_the_released_format_loads(tmp_path):
    generator = torch.Generator().manual_seed(0)
    net = {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(3)
        for name, shape in released_shapes(10).items()
    }
    torch.save({"net": net, "acc": 78.5, "epoch": 49}, tmp_path / "released.pth")
    model = models.small_vgg()
    assert checkpoints.load(tmp_path / "released.pth", model) == {"acc": 78.5, "epoch": 49}
    assert all(torch.equal(value, net[name]) for name, value in model.state_dict().items())


def test_small_vgg_is_the_network_of_the_paper():
    stage = [nn.Conv2d, nn.BatchNorm2d, nn.ELU] * 2 + [nn.MaxPool2d, nn.Dropout]
    layers = list(models.small_vgg().features)
    assert [type(layer) for layer in layers] == stage * 3
    assert [layers[index].p for index in (7, 15, 23)] == [0.3, 0.4, 0.4]
    assert not any(layers[index].inplace for index in (2, 5, 10, 13, 18, 21))


@each_network
def test_images_become_logits(build):
    model = build().eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (3, 7)
        # One image's logits do not depend on the others in its batch.
        assert torch.allclose(model(images[:1]), logits[:1], atol=1e-5)


@each_network
def test_the_seed_decides_the_weights_and_the_global_state_is_untouched(build):
    state = torch.get_rng_state()
    one, same, other = build(3).state_dict(), build(3).state_dict(), build(4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(next(iter(one.values())), next(iter(other.values())))


@pytest.mark.parametrize("size", [8, 16, 40])
def test_small_vgg_on_other_sizes_and_channels(size):
    model = models.small_vgg(5, 1, size=size).eval()
    assert model(torch.rand(2, 1, size, size)).shape == (2, 5)


@pytest.mark.parametrize("size", [16, 28, 33])
def test_small_cnn_takes_any_size(size):
    assert models.small_cnn(5, 1).eval()(torch.rand(2, 1, size, size)).shape == (2, 5)


def test_small_vgg_refuses_images_that_its_pools_would_empty():
    with pytest.raises(ValueError, match="size must be >= 8, got 7"):
        models.small_vgg(size=7)


@pytest.mark.parametrize(("smooth", "rough"), [(True, False), (False, True)])
def test_the_mlp_is_smooth_when_asked_for(smooth, rough):
    model = models.mlp(2, (3,), 2, smooth=smooth)
    assert any(isinstance(layer, nn.ReLU) for layer in model.modules()) == rough
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [3, 2]


@each_network
def test_forward_mode_differentiation_agrees_with_reverse_mode(build):
    """In-place activations break this, and the hypergradient needs it."""
    model = build().eval().double()
    images, step = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64)

    def loss(x):
        return model(x).square().sum()

    _, forward = torch.func.jvp(loss, (images,), (step,))
    assert torch.isclose(forward, (torch.func.grad(loss)(images) * step).sum())


@each_network
def test_networks_can_be_copied(build):
    model = build()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert torch.equal(next(model.parameters()), next(build().parameters()))


@pytest.mark.parametrize("classes", [0, 1])
@pytest.mark.parametrize(
    "build", [models.small_vgg, models.small_cnn, models.resnet18, lambda k: models.mlp(4, [3], k)]
)
def test_no_network_without_classes(build, classes):
    with pytest.raises(ValueError, match=f"at least 2 classes, got num_classes = {classes}"):
        build(classes)
