"""BadNets has the geometry and the label rules that the talk states."""

from __future__ import annotations

import pytest
import torch

from ibau_lite.attacks import AllToAll, AllToOne, badnets, badnets_all_to_all


@pytest.mark.parametrize("attack", [badnets(8), badnets_all_to_all(10)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_white_4x4_square_at_rows_and_columns_27_to_30(attack, channels):
    (trigger, _), images = attack.pairs[0], torch.rand(2, channels, 32, 32)
    expected = images.clone()
    expected[:, :, 27:31, 27:31] = 1
    assert torch.equal(trigger(images), expected)


def test_the_label_rules():
    assert [rule for _, rule in badnets().pairs] == [AllToOne(8)]
    assert [rule for _, rule in badnets_all_to_all(43).pairs] == [AllToAll(43)]


@pytest.mark.parametrize("size", [8, 28, 64])
def test_on_other_sizes_the_square_is_one_pixel_from_the_same_corner(size):
    ((trigger, _),) = badnets().pairs
    where = trigger(torch.zeros(1, 1, size, size))[0, 0].nonzero()
    assert len(where) == 16
    assert where.min() == size - 5 and where.max() == size - 2
