"""The four parts are disjoint, complete, of the asked sizes, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibau_lite.data.halves import Halves
from ibau_lite.data.splits import Sizes, choose, split


def numbered_halves(n_train: int, n_test: int) -> Halves:
    """Images that are all different: the bytes of each spell its number."""
    numbers = np.arange(n_train + n_test)
    pixels = np.stack([numbers // 256, numbers % 256, numbers * 0], axis=-1).astype(np.uint8)
    images = np.broadcast_to(pixels[:, None, None], (len(numbers), 2, 2, 3)).copy()
    labels = numbers % 3
    return Halves(
        images[:n_train], labels[:n_train], images[n_train:], labels[n_train:], tuple("abc"), "made"
    )


def numbers_of(images: torch.Tensor) -> set[int]:
    pixels = images[:, :, 0, 0].mul(255).round().long()
    return set((pixels[:, 0] * 256 + pixels[:, 1]).tolist())


@given(
    n_train=st.integers(1, 60),
    n_held_out=st.integers(0, 60),
    fractions=st.tuples(*[st.floats(0, 1)] * 3),
    limited=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_positions_are_disjoint_and_of_the_asked_sizes(
    n_train, n_held_out, fractions, limited, seed
) -> None:
    clean = int(fractions[0] * n_held_out)
    validation = int(fractions[1] * (n_held_out - clean))
    rest = n_held_out - clean - validation
    test = int(fractions[2] * rest) if limited else None
    at = choose(n_train, n_held_out, Sizes(clean, validation, None, test), seed)
    held_out = np.concatenate([at.clean, at.validation, at.test])
    assert len(set(held_out.tolist())) == len(held_out)  # no position twice: pairwise disjoint
    assert all(0 <= position < n_held_out for position in held_out)
    assert (len(at.clean), len(at.validation)) == (clean, validation)
    assert len(at.test) == (rest if test is None else test)
    assert at.train.tolist() == list(range(n_train))


def test_the_parts_of_a_dataset_share_no_image_and_keep_their_labels() -> None:
    halves = numbered_halves(40, 30)
    dataset = split("made", halves, Sizes(10, 5, 20), seed=3)
    parts = [dataset.train, dataset.clean, dataset.validation, dataset.test]
    found = [numbers_of(part.images) for part in parts]
    assert [len(numbers) for numbers in found] == [20, 10, 5, 15]
    assert found[0] <= set(range(40))
    assert found[1] | found[2] | found[3] == set(range(40, 70))  # 30 different ones: disjoint
    for part in parts:
        pixels = part.images[:, :, 0, 0].mul(255).round().long()
        assert torch.equal((pixels[:, 0] * 256 + pixels[:, 1]) % 3, part.labels)


def test_the_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    halves = numbered_halves(5, 40)
    first, again, other = (split("made", halves, Sizes(20, 5), seed) for seed in (1, 1, 2))
    assert torch.equal(first.clean.images, again.clean.images)
    assert not torch.equal(first.clean.images, other.clean.images)


def test_a_smaller_clean_set_does_not_move_the_test_images_into_it() -> None:
    small, large = (choose(5, 50, Sizes(clean, 5), seed=0) for clean in (10, 20))
    assert set(small.clean) < set(large.clean)


def test_pixels_become_planes_in_zero_to_one_exactly() -> None:
    halves = numbered_halves(7, 3)
    dataset = split("made", halves, Sizes(1, 1), seed=0)
    expected = torch.from_numpy(halves.x_train.transpose(0, 3, 1, 2).copy()).float() / 255
    assert torch.equal(dataset.train.images, expected)
    assert dataset.train.images.is_contiguous()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        (Sizes(8, 3), "test half has 10 images, too few for clean=8, validation=3 and test=the"),
        (Sizes(4, 3, test=4), "too few for clean=4, validation=3 and test=4"),
        (Sizes(1, 1, train=6), "training half has 5 images, too few for train=6"),
    ],
)
def test_too_few_images_are_reported(sizes, words) -> None:
    with pytest.raises(ValueError, match=words):
        choose(5, 10, sizes, seed=0)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True, None])
def test_a_seed_is_a_number(seed) -> None:
    with pytest.raises(ValueError, match="seed must be an integer, 0 or more"):
        choose(5, 10, Sizes(1, 1), seed)


@pytest.mark.parametrize("size", [-1, 2.0, "3", True])
def test_a_size_is_a_number(size) -> None:
    with pytest.raises(ValueError, match="clean must be a number of images"):
        Sizes(size, 1)


def test_training_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        Sizes(1, 1, train=0)


def test_defaults_are_the_talk_s_for_known_sets_and_shares_for_others() -> None:
    known = Sizes.with_defaults("cifar10", 10_000, None, None, None, None)
    other = Sizes.with_defaults(None, 40, None, None, None, None)
    asked = Sizes.with_defaults("gtsrb", 12_630, 7, None, None, None)
    assert (known.clean, known.validation) == (5000, 1000)
    assert (other.clean, other.validation) == (10, 4)
    assert (asked.clean, asked.validation) == (7, 1000)


def test_the_first_images_of_a_part_are_a_random_sample_of_it_even_if_the_files_are_sorted():
    at = choose(100, 100, Sizes(clean=50, validation=20), seed=0)
    for part in (at.clean, at.validation, at.test):
        first, rest = part[: len(part) // 2], part[len(part) // 2 :]
        assert first.min() < rest.max() and rest.min() < first.max()
        assert abs(first.mean() - rest.mean()) < 25  # sorted, they would be 50 apart
    assert at.train.tolist() == list(range(100))
