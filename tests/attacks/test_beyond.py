"""SIG and WaNet: their formulas, wrong labels that are not needed, covers that keep their label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ibau_lite.attacks import AllToOne, Attack, CleanLabel, Patch, Sinusoid, Warp, sig, wanet
from ibau_lite.data import LabelledImages
from ibau_lite.streams import stream


def training_set(size: int = 16) -> LabelledImages:
    images = 0.1 + 0.8 * torch.rand(100, 3, size, size, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images, torch.arange(100) % 5)


def test_a_sinusoid_is_its_formula():
    images = training_set().images[:3]
    stamped = Sinusoid(0.1, 6)(images)
    for column in range(16):
        wave = 0.1 * math.sin(2 * math.pi * column * 6 / 16)
        expected = (images[:, :, :, column].double() + wave).clamp(0, 1)
        torch.testing.assert_close(stamped[:, :, :, column].double(), expected, atol=1e-6, rtol=0)


def test_sig_stamps_the_target_class_and_relabels_nobody():
    train = training_set()
    poisoned = sig(2).poison(train, 0.15)
    assert len(poisoned.indices) == 15
    assert (train.labels[poisoned.indices] == 2).all()
    assert torch.equal(poisoned.labels, train.labels)
    touched = (poisoned.images != train.images).flatten(1).any(1).nonzero().flatten()
    assert torch.equal(touched, poisoned.indices)
    view = sig(2).poisoned_test_set(train)
    assert len(view) == 80 and (view.labels == 2).all()
    with pytest.raises(ValueError, match="only 20 of 100 are eligible"):
        sig(2).poison(train, 0.21)


def displaced(warp: Warp, size: int) -> torch.Tensor:
    """The field itself: what a warp does to images whose pixels are their own coordinates."""
    ramp = torch.linspace(0, 1, size)
    coordinates = torch.stack((ramp.expand(size, size), ramp[:, None].expand(size, size)))
    return (warp(coordinates[:, None]) - coordinates[:, None])[:, 0]


def test_a_warp_moves_pixels_by_the_stated_amount():
    size = 64
    inner = displaced(Warp(4, 0.5), size)[:, 8:-8, 8:-8]  # away from the clamped border
    generator = stream(0, "trigger", "warp")
    field = 2 * torch.rand(1, 2, 4, 4, generator=generator) - 1
    field = nn.Upsample((size, size), mode="bicubic", align_corners=True)(
        field / field.abs().mean()
    )
    expected = 0.5 * field[0, :, 8:-8, 8:-8] / size / 2  # half: from [−1, 1] to [0, 1]
    torch.testing.assert_close(inner, expected, atol=1e-4, rtol=0)


def test_a_warp_leaves_a_flat_image_alone_and_is_no_common_delta():
    flat = torch.full((1, 3, 16, 16), 0.3)
    torch.testing.assert_close(Warp()(flat), flat)
    one, two = training_set().images[:2], training_set().images[2:4]
    assert not torch.allclose(Warp()(one) - one, Warp()(two) - two, atol=0.01)


def test_a_jitter_belongs_to_its_image_and_to_its_seed():
    images = training_set().images[:6]
    noisy = Warp(noisy=True)
    together = noisy(images)
    alone = torch.cat([noisy(image[None]) for image in images.flip(0)]).flip(0)
    assert torch.equal(together, alone)
    assert not torch.equal(noisy(images), Warp(noisy=True, seed=1)(images))
    twice = displaced(noisy, 32), displaced(Warp(), 32)
    assert (twice[0] - twice[1]).abs().mean() > 0.2 / 32 / 2


def test_wanet_has_two_covers_a_poisoned_image_and_they_keep_their_label():
    train, attack = training_set(), wanet(1)
    poisoned = attack.poison(train, 0.1)
    assert torch.bincount(poisoned.pair).tolist() == [10, 20]
    covers, victims = (poisoned.indices[poisoned.pair == k] for k in (1, 0))
    assert torch.equal(poisoned.labels[covers], train.labels[covers])
    assert (poisoned.labels[victims] == 1).all() and (train.labels[victims] != 1).all()
    assert torch.equal(poisoned.images[covers], attack.covers[0][0](train.images[covers]))
    touched = (poisoned.images != train.images).flatten(1).any(1).nonzero().flatten()
    assert torch.equal(touched, poisoned.indices)
    assert len(attack.poisoned_test_set(train)) == 80  # no cover among them
    assert str(poisoned).endswith("10 of them poisoned (10.00%) by wanet, 20 covers")
    with pytest.raises(ValueError, match="only 60 images are left"):
        attack.poison(train, 0.4)


def test_covers_that_make_no_sense_are_refused():
    square, pair = Patch.square(2), (Patch.square(3), AllToOne(0))
    with pytest.raises(ValueError, match="positive ratio"):
        Attack("a", (pair,), ((square, 0.0),))
    with pytest.raises(ValueError, match="one trigger cannot mean two labels"):
        Attack("a", (pair,), ((Patch.square(3), 1.0),))
    assert "covers" not in Attack("a", (pair,)).to_dict()
    assert Attack("a", (pair,), ((square, 1.5),)).to_dict()["covers"][0]["ratio"] == 1.5


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Sinusoid(amplitude=0.0), "amplitude"),
        (lambda: Sinusoid(frequency=-1), "frequency"),
        (lambda: Sinusoid()(torch.zeros(1, 3, 8, 8)), "at least 13 columns"),
        (lambda: Warp(grid=1), "grid of 2 to 1000"),
        (lambda: Warp(grid=10**6), "grid of 2 to 1000"),  # 8 TB, when it stamps
        (lambda: Warp(strength=0), "positive strength"),
        (lambda: Warp()(torch.zeros(1, 3, 7, 8)), "8×8 pixels"),
        (lambda: CleanLabel(-1), "a class number"),
    ],
)
def test_settings_and_images_that_make_no_sense_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (2, 1, 16, 24), (2, 5, 40, 16)])
def test_any_number_of_images_and_channels(shape):
    images = torch.rand(shape)
    for trigger in (Sinusoid(), Warp(), Warp(noisy=True)):
        stamped = trigger(images)
        assert stamped.shape == images.shape
        assert not len(images) or (stamped.min() >= 0 and stamped.max() <= 1)


def test_they_say_what_they_are():
    assert str(Sinusoid()) == "sinusoid of 6 periods, amplitude 20/255"
    assert "4×4 field" in str(Warp()) and "jitter" in str(Warp(noisy=True))
    assert "taught with class 2 alone" in str(sig(2))
