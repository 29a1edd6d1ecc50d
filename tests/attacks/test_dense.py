"""Patterns as values, and the triggers that lay one over an image or add one to it."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibau_lite.attacks import Additive, Overlay, Pattern, Trigger


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_a_pattern_is_its_bits(channels, height, width, seed):
    values = noise(channels, height, width, seed=seed) - 0.5
    pattern = Pattern.of(values)
    again = Pattern.of(values.double().clone())
    assert pattern == again and hash(pattern) == hash(again) and pattern.sha256 == again.sha256
    assert torch.equal(pattern.tensor(), values)
    assert pickle.loads(pickle.dumps(pattern)) == pattern
    changed = values.clone()
    changed[0, 0, 0] = torch.nextafter(changed[0, 0, 0], torch.tensor(1.0))
    assert Pattern.of(changed) != pattern and Pattern.of(changed).sha256 != pattern.sha256


def test_a_pattern_cannot_be_changed_from_outside():
    values = noise(1, 2, 2)
    pattern = Pattern.of(values)
    before = values.clone()
    values.zero_()
    pattern.tensor().zero_()
    assert torch.equal(pattern.tensor(), before)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (torch.zeros(4, 4), r"\[C, H, W\]"),
        (torch.zeros(0, 4, 4), "at least 1"),
        (torch.full((1, 2, 2), float("nan")), "not all finite"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Pattern.of(values)


def test_bytes_of_another_length_are_refused():
    with pytest.raises(ValueError, match="got 8 bytes"):
        Pattern((1, 2, 2), b"\0" * 8)


@given(st.integers(1, 3), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=25)
def test_an_overlay_is_its_formula(channels, seed, hard):
    images, pattern = noise(2, channels, 6, 5, seed=seed), noise(channels, 6, 5, seed=seed + 1)
    mask = noise(1, 6, 5, seed=seed + 2)
    mask = (mask > 0.4).float() if hard else mask
    before = images.clone()
    stamped = Overlay(Pattern.of(mask), Pattern.of(pattern))(images)
    if hard:  # then bit for bit
        assert torch.equal(stamped, torch.where(mask > 0, pattern, images))
    m, x, k = mask.double(), images.double(), pattern.double()
    torch.testing.assert_close(stamped.double(), (1 - m) * x + m * k, atol=1e-6, rtol=0)
    assert torch.equal(images, before)


@given(st.integers(1, 3), st.integers(0, 1000), st.floats(0.01, 2.0), st.booleans())
@settings(deadline=None, max_examples=40)
def test_an_additive_trigger_is_its_formula(channels, seed, size, rescale):
    images, delta = noise(3, channels, 6, 5, seed=seed), noise(channels, 6, 5, seed=seed + 1) - 0.5
    stamped = Additive(Pattern.of(size * delta), rescale)(images)
    for image, result in zip(images.double(), stamped.double(), strict=True):
        moved = image + (size * delta).double()
        if rescale:
            low, high = min(0.0, float(moved.min())), max(1.0, float(moved.max()))
            expected = (moved - low) / (high - low)
        else:
            expected = moved.clamp(0, 1)
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert stamped.min() >= 0 and stamped.max() <= 1


def test_rescaling_leaves_an_image_alone_that_stays_in_range():
    images = 0.25 + 0.5 * noise(2, 3, 8, 8)
    delta = torch.full((3, 8, 8), 0.125)
    assert torch.equal(Additive(Pattern.of(delta), rescale=True)(images), images + delta)


def test_one_channel_of_a_pattern_serves_all():
    trigger = Additive(Pattern.of(noise(1, 8, 8) - 0.5))
    assert trigger(noise(1, 7, 8, 8)).shape == (1, 7, 8, 8)


@pytest.mark.parametrize("shape", [(1, 3, 8, 9), (1, 2, 8, 8), (1, 1, 8, 8)])
def test_images_that_do_not_fit_are_refused(shape):
    for trigger in (
        Additive(Pattern.of(noise(3, 8, 8))),
        Overlay(Pattern.of(torch.ones(1, 8, 8)), Pattern.of(noise(3, 8, 8))),
    ):
        with pytest.raises(ValueError, match="8×8 pixels with 3 channels are expected"):
            trigger(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            trigger(torch.full((1, 3, 8, 8), 1.01))
        assert trigger(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_triggers_are_values_whatever_their_provenance():
    delta = Pattern.of(noise(3, 8, 8))
    one, two = Additive(delta, provenance='{"algorithm": "a guess"}'), Additive(delta)
    assert one == two and hash(one) == hash(two) and isinstance(one, Trigger)
    assert one != Additive(delta, rescale=True)
    assert str(one).endswith("computed by a guess") and "clamped" in str(two)
    with pytest.raises(AttributeError):
        one.rescale = True
    json.dumps(one.to_dict())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Additive(Pattern.of(torch.zeros(1, 8, 8))), "other than zero"),
        (lambda: Additive(Pattern.of(noise(1, 8, 8)), provenance="[]"), "JSON object"),
        (lambda: Additive(Pattern.of(noise(1, 8, 8)), provenance="{"), "JSON object"),
        (lambda: _overlay(torch.zeros(1, 8, 8), noise(1, 8, 8)), "not zero everywhere"),
        (lambda: _overlay(torch.ones(1, 8, 9), noise(1, 8, 8)), "of one size"),
        (lambda: _overlay(2 * torch.ones(1, 8, 8), noise(1, 8, 8)), r"mask: numbers in \[0, 1\]"),
        (lambda: _overlay(torch.ones(1, 8, 8), -noise(1, 8, 8)), r"pattern: numbers in \[0, 1\]"),
    ],
)
def test_triggers_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def _overlay(mask: torch.Tensor, pattern: torch.Tensor) -> Overlay:
    return Overlay(Pattern.of(mask), Pattern.of(pattern))
