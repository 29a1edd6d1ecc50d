"""DP: what becomes of the architecture, a private step by hand, and the ε that is stated."""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import DPConfig, dp
from ibau_lite.defenses._dp import with_group_norm
from ibau_lite.testing import DEFENSE_CHECKS, Subject, tiny_images

PUBLIC = DPConfig(epochs=2, batch_size=12, lr=0.05, private=False)
needs_opacus = pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None, reason="the extra 'dp' (Opacus) is not installed"
)


def test_group_norm_in_place_of_batch_norm_and_new_weights():
    model = models.small_vgg(5, size=16).eval()
    fresh = with_group_norm(model, seed=1)
    kinds = [type(module) for module in fresh.modules()]
    assert nn.BatchNorm2d not in kinds and kinds.count(nn.GroupNorm) == 6
    assert not torch.equal(fresh.features[0].weight, model.features[0].weight)
    again, other = with_group_norm(model, seed=1), with_group_norm(model, seed=2)
    assert torch.equal(fresh.features[0].weight, again.features[0].weight)
    assert not torch.equal(fresh.features[0].weight, other.features[0].weight)
    images = torch.rand(4, 3, 16, 16)
    alone, together = fresh(images[:1]), fresh(images)[:1]
    torch.testing.assert_close(alone, together)  # no image looks at another
    with pytest.raises(ValueError, match="1 is a BatchNorm1d"):
        with_group_norm(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))


class ViTBlock(nn.Module):
    """Patches, a class token, positions, attention: what torchvision's VisionTransformer is of."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.class_token = nn.Parameter(torch.full((1, 1, 8), 7.0))
        self.positions = nn.Parameter(torch.full((1, 5, 8), 7.0))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        x = self.norm(x)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0])[:, 0])


class SwinBlock(nn.Module):
    """A window's attention with a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24)
        self.bias_table = nn.Parameter(torch.full((9, 1), 7.0))
        place = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        steps = (place[:, None] - place[None]) + 1
        self.register_buffer("index", steps[..., 0] * 3 + steps[..., 1])
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        q, k, v = self.mix(self.patches(x).flatten(2).mT).chunk(3, 2)
        weights = (q @ k.mT + self.bias_table[self.index, 0]).softmax(2)
        return self.head((weights @ v).mean(1))


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution whose branch has a learnt scale."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.scale = (
            nn.Conv2d(3, 3, 3, 1, 1, groups=3),
            nn.Parameter(torch.ones(3, 1, 1)),
        )
        self.norm, self.head = nn.GroupNorm(1, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.head((x + self.scale * self.norm(self.deep(x))).mean((2, 3)))


OWNED = {
    ViTBlock: ("class_token", "positions"),
    SwinBlock: ("bias_table",),
    ConvNeXtBlock: ("scale",),
}


@pytest.mark.parametrize("kind", OWNED)
def test_no_weight_of_the_attacker_stays(kind, clean):
    """Each parameter is drawn anew; where no module says how, dp refuses and names it."""
    with pytest.raises(ValueError, match=f"says how for {', '.join(OWNED[kind])}: give"):
        dp(kind().eval(), clean, train=clean, config=PUBLIC)

    class Drawn(kind):
        def reset_parameters(self):
            for name in OWNED[kind]:
                nn.init.normal_(getattr(self, name), std=0.02)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attacker = Drawn().eval()
    with torch.no_grad():
        for parameter in attacker.parameters():
            parameter.copy_(torch.full_like(parameter, 0.3))
    fresh = with_group_norm(attacker, seed=1)
    for name, parameter in fresh.named_parameters():
        assert not bool((parameter == 0.3).any()), name
    again = with_group_norm(Drawn(), seed=1)  # whatever the weights are
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters()))
    assert len(dp(attacker, clean, train=clean, config=PUBLIC).history) == 2


def test_what_comes_out_of_weight_norm_is_refused_by_name(clean):
    for way, name in (
        (nn.utils.parametrizations.weight_norm, "1.parametrizations.weight.original0"),
        (nn.utils.weight_norm, "1.weight_g"),
    ):
        model = nn.Sequential(nn.Flatten(), way(nn.Linear(192, 4))).eval()
        with pytest.raises(ValueError, match=f"says how for {name}, .*remove_parametrizations"):
            dp(model, clean, train=clean, config=PUBLIC)


def test_buffers_that_stay_are_named(model, clean):
    model.register_buffer("mean", torch.zeros(3, 1, 1))
    with pytest.warns(UserWarning, match="keeps the buffers mean as constants"):
        dp(model, clean, train=clean, config=PUBLIC)


def test_it_trains_on_the_training_set_and_on_nothing_else(clean):
    poisoned = tiny_images(96, seed=3)
    backwards = LabelledImages(poisoned.images, 3 - poisoned.labels)
    config, network = replace(PUBLIC, epochs=12), models.mlp(192, [16], 4, seed=1)
    result = dp(network, clean, train=backwards, config=config)
    read = result.model(clean.images).argmax(1)
    assert (read == 3 - clean.labels).float().mean() > 0.9
    assert result.details["epsilon"] == math.inf
    stranger = models.mlp(192, [16], 4, seed=9)  # the given weights do not matter
    other = dp(stranger, clean, train=backwards, config=config)
    pairs = zip(result.model.parameters(), other.model.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_training_set_that_is_missing_or_does_not_fit(model, clean):
    with pytest.raises(ValueError, match="needs the .poisoned. training set"):
        dp(model, clean)
    with pytest.raises(TypeError, match="train must be LabelledImages"):
        dp(model, clean, train=clean.images)
    with pytest.raises(ValueError, match=r"shape \[3, 8, 8\] are expected"):
        dp(model, clean, train=LabelledImages(torch.rand(4, 3, 9, 9), torch.zeros(4).long()))
    with pytest.raises(ValueError, match="label 4, but the model has 4"):
        dp(model, clean, train=LabelledImages(clean.images, clean.labels + 1))


def test_without_opacus_the_error_says_what_to_do(model, clean, monkeypatch):
    found = importlib.import_module

    def without(name, *rest):
        if name.startswith("opacus"):
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"ibau_lite\[dp\].*private=False"):
        dp(model, clean, train=clean)
    assert len(dp(model, clean, train=clean, config=PUBLIC).history) == 2


@needs_opacus
@pytest.mark.parametrize("chunk", [7, 128])
def test_private_steps_by_hand(clean, chunk):
    """Clip each image's gradient to C, add them up, divide by B; hardly any noise; float64."""
    network = models.mlp(192, [5], 4, seed=1).double().eval()
    config = DPConfig(
        epochs=2, batch_size=24, lr=0.3, momentum=0.9, noise=1e-12, clip=0.05, chunk=chunk
    )
    result = dp(network, clean, train=clean, config=config, seed=3)
    hand = with_group_norm(network, seed=3)
    momentum = [torch.zeros_like(p) for p in hand.parameters()]
    for _ in range(2):  # every image takes part in every batch: 24 of 24
        total, clipped = [torch.zeros_like(p) for p in hand.parameters()], 0
        for image, label in zip(clean.images.double(), clean.labels):
            loss = F.cross_entropy(hand(image[None]), label[None])
            grads = torch.autograd.grad(loss, list(hand.parameters()))
            length = torch.cat([g.flatten() for g in grads]).norm()
            clipped += int(length > 0.05)
            total = [t + g / max(1.0, float(length) / 0.05) for t, g in zip(total, grads)]
        assert clipped > 0
        with torch.no_grad():
            for k, p in enumerate(hand.parameters()):
                momentum[k] = 0.9 * momentum[k] + total[k] / 24
                p -= 0.3 * momentum[k]
    for ours, by_hand in zip(result.model.parameters(), hand.parameters()):
        torch.testing.assert_close(ours, by_hand, rtol=0, atol=1e-6)


@needs_opacus
@pytest.mark.parametrize("chunk", [5, 128])
def test_the_noise_has_the_stated_size(clean, chunk):
    """θ moves by −lr · N(0, σ²C²) / B, up to clipped gradients of 24 · C at most."""
    network = models.mlp(192, [40], 4, seed=1).double().eval()
    config = DPConfig(
        epochs=1, batch_size=24, lr=1.0, momentum=0.0, noise=500.0, clip=0.1, chunk=chunk
    )
    result = dp(network, clean, train=clean, config=config, seed=3)
    before = with_group_norm(network, seed=3)
    moved = [a - b for a, b in zip(result.model.parameters(), before.parameters())]
    moved = torch.cat([change.flatten() for change in moved])
    assert float(moved.std()) == pytest.approx(500 * 0.1 / 24, rel=0.03)


@needs_opacus
def test_epsilon_of_full_batches_is_that_of_the_gaussian_mechanism(clean, model):
    """Steps T at q = 1: RDP(α) = T α / (2 σ²), and ε ≤ RDP(α) + log(1/δ) / (α − 1) for each α."""
    config = DPConfig(epochs=3, batch_size=24, noise=4.0, delta=1e-4)
    result = dp(model, clean, train=clean, config=config)
    bound = min(
        3 * a / (2 * 4.0**2) + math.log(1e4) / (a - 1) for a in [1 + k / 10 for k in range(1, 99)]
    )
    assert 0.7 * bound < result.details["epsilon"] <= bound + 1e-9
    spent = [row["epsilon"] for row in result.history]
    assert spent == sorted(spent) and spent[0] < spent[-1] == result.details["epsilon"]


@needs_opacus
@pytest.mark.parametrize("promise", sorted(set(DEFENSE_CHECKS) - {
    "frozen parameters stay as they are"}))  # fmt: skip
def test_private_training_keeps_the_promises_of_a_defence(promise):
    config = DPConfig(epochs=2, batch_size=12)
    DEFENSE_CHECKS[promise](Subject(partial(dp, train=tiny_images(48)), config))


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"lr": 0.0}, {"noise": 0.0}, {"clip": 0.0}, {"delta": 1.0}, {"momentum": 1.0},
     {"shift": -1}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        DPConfig(**setting)
