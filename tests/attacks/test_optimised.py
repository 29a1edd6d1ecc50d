"""The computed triggers: stated geometry and norm, better than chance, the same bits again."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ibau_lite.attacks import (
    Pattern,
    l0_inversion,
    l2_inversion,
    smooth,
    trojan_square,
    trojan_watermark,
)
from ibau_lite.attacks.drawings import seal
from ibau_lite.attacks.neurons import most_connected
from ibau_lite.models import mlp, small_cnn, small_vgg

IMAGES = 0.2 + 0.6 * torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(7))
SHAPE = (3, 32, 32)


@functools.cache
def network() -> nn.Module:
    """Random weights: enough for an algorithm that follows gradients (ELU is never silent)."""
    return small_vgg(5).eval()


@functools.cache
def trigger(name: str, seed: int = 0):
    if name in ("trojan_square", "trojan_watermark"):
        algorithm = {"trojan_square": trojan_square, "trojan_watermark": trojan_watermark}[name]
        return algorithm(network(), IMAGES, steps=25, seed=seed)
    if name == "l0":
        return l0_inversion(network(), IMAGES, stages=4, steps=5, batch=8, seed=seed)
    algorithm = {"l2": l2_inversion, "smooth": smooth}[name]
    return algorithm(network(), IMAGES, steps=20, batch=8, seed=seed)


def draws(count: int = 12) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def square() -> torch.Tensor:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[21:30, 21:30] = True
    return mask


MASKS = {"trojan_square": square(), "trojan_watermark": seal(32, 32)}
PUBLISHED = {"trojan_square": 5.40, "trojan_watermark": 5.61}


@pytest.mark.parametrize("name", MASKS)
def test_a_trojan_changes_its_square_or_seal_alone(name):
    touched = trigger(name).delta.tensor().amax(0) > 0
    assert torch.equal(touched & MASKS[name], touched)
    assert touched.sum() > 0.9 * MASKS[name].sum()  # a colour may be black
    assert float(trigger(name).delta.tensor().min()) == 0  # it adds, as the published ones


@pytest.mark.parametrize("name", MASKS)
def test_a_trojan_excites_its_neuron_more_than_random_colours_do(name):
    found = trigger(name)
    told, delta = json.loads(found.provenance), found.delta.tensor()
    anchors = replace(most_connected(network()), chosen=torch.tensor(told["channels"]))
    with torch.no_grad():
        by_chance = anchors(MASKS[name] * draws()).max()
        assert anchors((delta / told["strength"])[None]) > by_chance


def mean_change(trigger, images: torch.Tensor) -> float:
    """The norm of the mean change, computed image by image in numpy."""
    moved = np.mean([(trigger(x[None]) - x[None]).double().numpy() for x in images], axis=0)
    return float(np.sqrt((moved**2).sum()))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dark", [1.0, 0.3])
def test_a_trojan_changes_images_by_the_published_norm(name, dark):
    images = dark * IMAGES
    algorithm = {"trojan_square": trojan_square, "trojan_watermark": trojan_watermark}[name]
    found = algorithm(network(), images, steps=2)
    assert mean_change(found, images) == pytest.approx(PUBLISHED[name], rel=1e-3)
    stronger = algorithm(network(), images, steps=2, norm=7.5)
    assert mean_change(stronger, images) == pytest.approx(7.5, rel=1e-3)
    first, second = (each.delta.tensor() for each in (found, stronger))
    where = first > 0  # the same picture, stronger
    assert torch.allclose(second[where] / first[where], (second.max() / first.max()), rtol=1e-3)


def test_a_norm_that_no_strength_reaches_is_refused():
    with pytest.raises(ValueError, match="norm: at most 1.5"):
        trojan_square(network(), 1 - 0.2 * IMAGES, steps=2)


def test_l0_is_nine_saturated_pixels_near_the_lower_right_corner():
    found = trigger("l0")
    rows, columns = found.mask.tensor()[0].nonzero().T
    assert len(rows) == 9
    assert rows.min() >= 24 and columns.min() >= 24
    values = found.pattern.tensor()[:, rows, columns]
    assert set(values.unique().tolist()) <= {0.0, 1.0}


def error(stamped: torch.Tensor, clean: torch.Tensor, amplify: float = 10.0) -> float:
    """How far the three neurons are from ten times their mean answer."""
    anchors = most_connected(network(), 3)
    with torch.no_grad():
        wanted = amplify * anchors(clean).mean(0).abs()
        return float((wanted - anchors(stamped)).square().mean(0).sum())


def test_l0_excites_more_than_nine_random_pixels_do():
    found = trigger("l0")
    by_chance, generator = [], torch.Generator().manual_seed(2)
    for colours in draws():
        stamped = IMAGES.clone()
        where = torch.randperm(64, generator=generator)[:9]
        rows, columns = 24 + where // 8, 24 + where % 8
        stamped[:, :, rows, columns] = (colours[:, :9, 0] > 0.5).float().repeat(8, 1, 1)
        by_chance.append(error(stamped, IMAGES))
    assert error(found(IMAGES), IMAGES) < min(by_chance)


@pytest.mark.parametrize(("name", "norm"), [("l2", 3.2), ("smooth", 3.8)])
def test_dense_triggers_have_the_stated_norm(name, norm):
    delta = trigger(name).delta.tensor()
    assert float(delta.double().square().sum().sqrt()) == pytest.approx(norm, rel=1e-5)


def test_norms_shrink_with_the_image_and_can_be_chosen():
    images = IMAGES[:, :1, :16, :16]
    net = small_cnn(5, 1, width=2).eval()
    for algorithm, usual in ((l2_inversion, 3.2), (smooth, 3.8)):
        for norm, expected in ((None, usual * math.sqrt(256 / 3072)), (0.5, 0.5)):
            delta = algorithm(net, images, norm=norm, steps=2, batch=4).delta.tensor()
            assert float(delta.square().sum().sqrt()) == pytest.approx(expected, rel=1e-5)


def test_l2_excites_more_than_random_patterns_of_its_norm_do():
    random = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(3))
    random = 3.2 * random / random.flatten(1).norm(dim=1)[:, None, None, None]
    by_chance = [error((IMAGES + delta).clamp(0, 1), IMAGES) for delta in random]
    assert error(trigger("l2")(IMAGES), IMAGES) < min(by_chance)


def power(delta: torch.Tensor) -> tuple[float, float]:
    """Energy below and above a fifth of a period a pixel, by numpy's transform."""
    spectrum = np.abs(np.fft.fft2(delta.double().numpy())) ** 2
    y, x = np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32), indexing="ij")
    high = np.hypot(y, x) > 1 / 5
    return float(spectrum[:, ~high].sum()), float(spectrum[:, high].sum())


def test_smooth_has_its_energy_in_low_frequencies():
    low, high = power(trigger("smooth").delta.tensor())
    # exp(−4π²σ²f²) with σ = 2: of white noise, 0.2 % of what passes lies beyond f = 1/5.
    assert high < 0.01 * low
    low, high = power(trigger("l2").delta.tensor())
    assert high > low  # the other dense pattern is no such thing


def test_the_filter_is_scipys():
    scipy = pytest.importorskip("scipy.ndimage")
    from ibau_lite.attacks import optimised

    noise = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(4)).double()
    ours = optimised._filtered(noise, optimised._gaussian(24, 32, 2.0).double())
    theirs = scipy.gaussian_filter(noise[0].numpy(), 2.0, mode="wrap", truncate=10)
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-6)


def test_smooth_misleads_more_than_random_smooth_patterns_do():
    from ibau_lite.attacks import optimised

    net, response = network(), optimised._gaussian(32, 32, 2.0)
    random = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(5))
    found = trigger("smooth")

    def loss(delta: torch.Tensor) -> float:
        stamped = type(found)(Pattern.of(delta), rescale=True)(IMAGES)
        with torch.no_grad():
            return float(nn.functional.cross_entropy(net(stamped), net(IMAGES).argmax(1)))

    patterns = [optimised._filtered(each, response) for each in random]
    by_chance = [loss(3.8 * pattern / pattern.norm()) for pattern in patterns]
    assert loss(found.delta.tensor()) > max(by_chance)


NAMES = ["trojan_square", "trojan_watermark", "l0", "l2", "smooth"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits_and_touches_nothing(name):
    first = trigger(name)
    weights = {key: value.clone() for key, value in network().state_dict().items()}
    network().features[0].train()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = trigger.__wrapped__(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert again == first and again.provenance == first.provenance
    assert trigger(name, seed=1) != first
    assert network().features[0].training and not network().training
    network().eval()
    for key, value in network().state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert all(parameter.grad is None for parameter in network().parameters())


@pytest.mark.parametrize("name", NAMES)
def test_provenance_names_algorithm_settings_seed_and_network(name):
    told = json.loads(trigger(name).provenance)
    assert told["algorithm"].startswith(name) and told["seed"] == 0 and told["steps"] > 0
    assert told["images"].startswith("8, ")


def test_provenance_tells_networks_and_images_apart():
    def told(net: nn.Module, images: torch.Tensor) -> dict:
        return json.loads(l2_inversion(net, images, steps=1, batch=2).provenance)

    first, images = told(network(), IMAGES), told(network(), IMAGES.flip(0))
    other = told(small_vgg(5, seed=1), IMAGES)
    assert first["network"] == images["network"] != other["network"]
    assert first["images"] == other["images"] != images["images"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 16, 24)])
def test_any_size_from_8_and_any_channels(shape):
    channels, height, width = shape
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(6))
    for net in (small_cnn(3, channels, width=4), mlp(channels * height * width, (8,), 3)):
        for algorithm in (trojan_square, trojan_watermark):
            stamped = algorithm(net, images, neurons=3, steps=3)(images)
            assert stamped.shape == images.shape
        for algorithm in (l0_inversion, l2_inversion, smooth):
            stamped = algorithm(net, images, steps=2, batch=4)(images)
            assert stamped.min() >= 0 and stamped.max() <= 1 and not torch.equal(stamped, images)


def test_silent_neurons_are_warned_about():
    net = small_cnn(3, width=2).eval()
    with torch.no_grad():
        net[13].bias.fill_(-100.0)  # the normalisation before the last rectifier
    with pytest.warns(RuntimeWarning, match="no more than random colours"):
        trojan_square(net, IMAGES, steps=3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: trojan_square(network(), IMAGES[:, :, :7]), "8×8 pixels"),
        (lambda: trojan_watermark(network(), IMAGES[0]), "images"),
        (lambda: trojan_square(network(), IMAGES, steps=0), "steps: a positive"),
        (lambda: trojan_square(network(), IMAGES, norm=0.0), "norm: a positive"),
        (lambda: trojan_square(network(), IMAGES, neurons=1000), "neurons: 1 to 128"),
        (lambda: trojan_square(nn.Sequential(nn.Linear(9, 2)), IMAGES), "last linear"),
        (lambda: l0_inversion(network(), IMAGES, pixels=65), "pixels: at most 64"),
        (lambda: l0_inversion(network(), IMAGES[:0]), "at least one"),
        (lambda: l2_inversion(network(), IMAGES, norm=-1.0), "norm: a positive"),
        (lambda: l2_inversion(network(), 2 * IMAGES), r"\[0, 1\]"),
        (lambda: smooth(network(), IMAGES[:, :, :4]), "8×8 pixels"),
        (lambda: smooth(network(), IMAGES, sigma=float("nan")), "sigma: a positive"),
    ],
)
def test_what_cannot_be_computed_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
