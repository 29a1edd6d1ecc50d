"""The geometry of patches, and what they refuse."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibau_lite.attacks import Patch, Trigger


@st.composite
def masks_and_images(draw):
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    channels, count = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    mask = torch.rand(height, width, generator=generator) < 0.4
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    pattern = torch.rand(channels, height, width, generator=generator)
    return mask, pattern, torch.rand(count, channels, height, width, generator=generator)


@given(masks_and_images())
@settings(deadline=None, max_examples=40)
def test_a_patch_is_the_pattern_inside_the_mask_and_the_image_outside(case):
    mask, pattern, images = case
    before = images.clone()
    stamped = Patch.from_mask(mask, pattern)(images)
    assert torch.equal(stamped, torch.where(mask, pattern, images))
    assert torch.equal(images, before)


@given(masks_and_images())
@settings(deadline=None, max_examples=20)
def test_a_patch_survives_json_and_pickle_exactly(case):
    mask, pattern, images = case
    patch = Patch.from_mask(mask, pattern)
    for read_back in (
        Patch.from_dict(json.loads(json.dumps(patch.to_dict()))),
        pickle.loads(pickle.dumps(patch)),
    ):
        assert read_back == patch and hash(read_back) == hash(patch)
        assert torch.equal(read_back(images), patch(images))


def test_stamping_twice_changes_nothing_more():
    patch = Patch.square(3, margin=2, value=(0.1, 0.5, 0.9))
    once = patch(torch.rand(2, 3, 12, 12))
    assert torch.equal(patch(once), once)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (28, 40)])
def test_a_square_keeps_its_distance_to_the_bottom_right_corner(height, width):
    stamped = Patch.square(2, margin=3)(torch.zeros(1, 1, height, width))[0, 0]
    expected = torch.zeros(height, width)
    expected[height - 5 : height - 3, width - 5 : width - 3] = 1
    assert torch.equal(stamped, expected)


def test_one_colour_a_channel():
    stamped = Patch.square(1, value=(0.25, 0.5, 0.75))(torch.zeros(1, 3, 4, 4))
    assert stamped[0, :, 3, 3].tolist() == [0.25, 0.5, 0.75]
    assert stamped.sum() == 1.5


def test_equal_patches_are_equal_however_they_are_written():
    cells = ((-1, -1), (-2, -1))
    one = Patch(cells, ((0.5,), (0.25,)))
    assert one == Patch(cells[::-1], ((0.25,), (0.5,)))
    assert Patch(cells, ((0.5,), (0.5,))) == Patch(cells, ((0.5,),))
    assert one != Patch(cells, ((0.25,), (0.5,)))
    assert one != Patch(((-1, -1), (-3, -1)), ((0.5,), (0.25,)))


def test_a_patch_is_a_trigger_and_says_what_it_is():
    patch = Patch.square(4, margin=1)
    assert isinstance(patch, Trigger)
    assert str(patch) == "patch of 4×4 rectangle at -5…-2 × -5…-2 (from the bottom right), value 1"
    assert "3 pixels" in str(Patch(((-1, -1), (-2, -2), (-3, -3))))
    with pytest.raises(AttributeError):
        patch.values = ((0.0,),)


def test_gradients_pass_outside_the_patch_only():
    images = torch.rand(1, 1, 4, 4, requires_grad=True)
    Patch.square(1)(images).sum().backward()
    expected = torch.ones(1, 1, 4, 4)
    expected[..., 3, 3] = 0
    assert torch.equal(images.grad, expected)


def test_the_number_type_of_the_images_is_kept():
    for dtype in (torch.float64, torch.bfloat16):
        stamped = Patch.square(1)(torch.zeros(1, 1, 2, 2, dtype=dtype))
        assert stamped.dtype == dtype and stamped.sum() == 1


@pytest.mark.parametrize(
    ("cells", "values", "says"),
    [
        ((), ((1.0,),), "at least one position"),
        (((-1, -1), (-1, -1)), ((1.0,),), "each once"),
        (((0, -1),), ((1.0,),), "from_mask"),
        (((-1, 3),), ((1.0,),), "from_mask"),
        (((-1, -1),), ((1.5,),), r"\[0, 1\]"),
        (((-1, -1),), ((float("nan"),),), r"\[0, 1\]"),
        (((-1, -1), (-1, -2), (-1, -3)), ((1.0,), (0.0,)), "3 cells"),
        (((-1, -1), (-1, -2)), ((1.0,), (0.0, 1.0)), "one length"),
        (((-1, -1),), ((),), "one length"),
    ],
)
def test_a_patch_that_makes_no_sense_is_refused(cells, values, says):
    with pytest.raises(ValueError, match=says):
        Patch(cells, values)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.full((1, 3, 8, 8), 1.01), ValueError, r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), -0.01), ValueError, r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, r"\[0, 1\]"),
        (torch.zeros(3, 8, 8), ValueError, r"image\[None\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "float"),
        ([[0.5]], TypeError, "list"),
        (torch.zeros(1, 3, 4, 8), ValueError, "at least 5×5 pixels .* got 4×8"),
        (torch.zeros(1, 2, 8, 8), ValueError, "3 channels .* got 2"),
    ],
)
def test_what_is_not_a_fitting_image_is_refused(images, error, says):
    with pytest.raises(error, match=says):
        Patch.square(4, margin=1, value=(0.0, 0.5, 1.0))(images)


def test_no_images_stay_no_images():
    assert Patch.square(4)(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_squares_masks_and_records_that_make_no_sense_are_refused():
    for size, margin in ((0, 0), (3, -1)):
        with pytest.raises(ValueError, match="size >= 1 and margin >= 0"):
            Patch.square(size, margin=margin)
    with pytest.raises(ValueError, match=r"mask \[H, W\]"):
        Patch.from_mask(torch.ones(4, 4), torch.ones(3, 5, 4))
    with pytest.raises(ValueError, match="at least one position"):
        Patch.from_mask(torch.zeros(4, 4), torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="kind='patch'"):
        Patch.from_dict({"kind": "blend"})


def test_a_patch_that_was_first_used_in_inference_mode_passes_gradients_on():
    patch = Patch.square(3, value=0.123)  # of no other test: what is made at first use is kept
    with torch.inference_mode():
        patch(torch.rand(2, 3, 9, 9))
    images = torch.rand(2, 3, 9, 9, requires_grad=True)
    patch(images).sum().backward()
    assert images.grad is not None and images.grad.sum() == 2 * 3 * (81 - 9)
