"""The drawings fill images of every size; Blend mixes one in."""

from __future__ import annotations

import pytest
import torch

from ibau_lite.attacks import Blend, blend
from ibau_lite.attacks.drawings import owl, seal


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 32, 32), (3, 28, 40), (5, 96, 64)])
def test_blend_is_its_formula_for_images_of_every_size(shape):
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    stamped = Blend(0.2)(images)
    expected = 0.8 * images.double() + 0.2 * owl(*shape).double()
    torch.testing.assert_close(stamped.double(), expected, atol=1e-6, rtol=0)
    assert stamped.min() >= 0 and stamped.max() <= 1


def test_the_owl_is_one_drawing_at_every_resolution():
    large = owl(3, 256, 256)
    small = owl(3, 64, 64)
    pooled = torch.nn.functional.avg_pool2d(large[None], 4)[0]
    assert (pooled - small).abs().mean() < 0.02 < small.std()


def test_the_owl_looks_both_ways_alike_but_for_the_light_in_its_eyes():
    picture = owl(3, 64, 64)
    asymmetric = ((picture - picture.flip(2)).abs().amax(0) > 0.05).float().mean()
    assert 0 < asymmetric < 0.05


def test_a_grey_owl_is_its_luminance_and_other_channels_take_turns():
    colour = owl(3, 16, 16)
    torch.testing.assert_close(
        owl(1, 16, 16)[0], 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    )
    assert torch.equal(owl(5, 16, 16), colour[[0, 1, 2, 0, 1]])
    assert colour.min() >= 0 and colour.max() <= 1


def test_the_seal_stands_in_the_lower_right_quarter():
    mask = seal(32, 32)
    rows, columns = mask.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 29, 14, 29)
    assert int(mask.sum()) == 124
    assert not mask[21, 22]  # it is an outline, not a disc: its middle is open


@pytest.mark.parametrize("size", [8, 9, 16, 48])
def test_the_seal_exists_at_every_size(size):
    mask = seal(size, size + 3)
    assert mask.shape == (size, size + 3)
    assert 0 < mask.float().mean() < 0.25
    assert not mask[: size // 4].any() and not mask[:, : size // 4].any()


def test_drawings_refuse_images_that_are_too_small():
    for shape in ((3, 7, 8), (0, 8, 8)):
        with pytest.raises(ValueError, match="8×8 pixels are expected"):
            owl(*shape)
    with pytest.raises(ValueError, match="got 3 of 4×8"):
        Blend()(torch.zeros(1, 3, 4, 8))


@pytest.mark.parametrize("alpha", [0, 1, -0.2, float("nan")])
def test_blend_refuses_weights_outside_0_and_1(alpha):
    with pytest.raises(ValueError, match=r"alpha: a number in \(0, 1\)"):
        Blend(alpha)


def test_blend_refuses_what_is_no_image_and_is_a_value():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Blend()(torch.full((1, 3, 8, 8), 1.01))
    assert blend(3) == blend(3) != blend(3, alpha=0.1)
    assert str(blend(3)) == "blend (a drawn owl, blended in at 20%: every class → 3)"
    with pytest.raises(ValueError, match="'owl' is expected"):
        Blend.from_dict({"kind": "blend", "picture": "cat", "alpha": 0.2})
