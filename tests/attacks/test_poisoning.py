"""Poisoning touches exactly the stated images; refusals; what ASR is measured on."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ibau_lite.attacks import AllToAll, AllToOne, Attack, Patch, badnets, badnets_all_to_all
from ibau_lite.data import LabelledImages

CLASSES = 5


def training_set(count: int = 60, seed: int = 0, size: int = 8) -> LabelledImages:
    """Random images below 0.9, so that a white stamp always shows; every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.9 * torch.rand(count, 3, size, size, generator=generator)
    labels = torch.arange(count) % CLASSES
    return LabelledImages(images, labels[torch.randperm(count, generator=generator)])


def several(pairs: int) -> Attack:
    """One pair a target; the patches lie beside one another."""
    return Attack(
        "several",
        tuple((Patch(((-1, -1 - k),)), AllToOne(k)) for k in range(pairs)),
    )


ATTACKS = st.one_of(
    st.integers(0, CLASSES - 1).map(badnets),
    st.just(badnets_all_to_all(CLASSES)),
    st.integers(2, CLASSES).map(several),
)


@given(ATTACKS, st.integers(20, 80), st.floats(0.1, 0.7), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_poisoning_touches_exactly_the_stated_images(attack, count, rate, seed):
    assume(round(rate * count) >= len(attack.pairs))
    train = training_set(count, seed)
    images, labels = train.images.clone(), train.labels.clone()
    poisoned = attack.poison(train, rate, seed)

    assert len(poisoned.indices) == round(rate * count)
    assert torch.equal(poisoned.indices, poisoned.indices.unique())  # sorted, each once
    touched = (poisoned.images != images).flatten(1).any(1).nonzero().flatten()
    relabelled = (poisoned.labels != labels).nonzero().flatten()
    assert torch.equal(touched, poisoned.indices)
    assert torch.equal(relabelled, poisoned.indices)
    for position, number in zip(poisoned.indices.tolist(), poisoned.pair.tolist(), strict=True):
        trigger, rule = attack.pairs[number]
        one = slice(position, position + 1)
        assert torch.equal(poisoned.images[one], trigger(images[one]))
        assert torch.equal(poisoned.labels[one], rule(labels[one]))
    # The training set itself is untouched, and is not copied either.
    assert torch.equal(train.images, images) and torch.equal(train.labels, labels)
    assert poisoned.base is train.images


@given(st.integers(2, CLASSES), st.floats(0.1, 0.7), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_several_triggers_share_the_images_evenly(pairs, rate, seed):
    poisoned = several(pairs).poison(training_set(80), rate, seed)
    sizes = torch.bincount(poisoned.pair, minlength=pairs)
    assert sizes.sum() == round(rate * 80)
    assert sizes.max() - sizes.min() <= 1


def test_the_seed_alone_decides_who_is_poisoned():
    train = training_set(200)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = badnets(1).poison(train, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(badnets(1).poison(train, seed=3).indices, first.indices)
    assert not torch.equal(badnets(1).poison(train, seed=4).indices, first.indices)


def test_eligible_images_are_drawn_evenly():
    train = training_set(100)
    counts = torch.zeros(100)
    for seed in range(400):
        counts[badnets(0).poison(train, 0.2, seed).indices] += 1
    assert counts[train.labels == 0].sum() == 0
    # 80 eligible images, each drawn with probability 1/4 in 400 draws: 100 ± 8.7; 5 deviations.
    assert (counts[train.labels != 0] - 100).abs().max() < 44


def test_a_batch_is_stamped_as_the_whole_set_is():
    poisoned = several(3).poison(training_set(60), 0.5)
    index = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:32]
    batch = poisoned.base[index]
    before = batch.clone()
    assert torch.equal(poisoned.stamp(batch, index), poisoned.images[index])
    assert torch.equal(batch, before)


def test_stamping_comes_after_augmentation():
    poisoned = badnets(0).poison(training_set(60), 0.5)
    index = poisoned.indices
    stamped = poisoned.stamp(poisoned.base[index].flip(3), index)
    assert (stamped[:, :, 3:7, 3:7] == 1).all()  # the trigger did not move with the flipped image
    assert (stamped[:, :, 3:7, 1] < 1).all()


def test_a_batch_without_poison_is_returned_as_it_is():
    poisoned = badnets(0).poison(training_set(60), 0.5)
    clean = torch.tensor(sorted(set(range(60)) - set(poisoned.indices.tolist())))
    batch = poisoned.base[clean]
    assert poisoned.stamp(batch, clean) is batch


def test_stamp_refuses_positions_that_are_not_the_batch():
    poisoned = badnets(0).poison(training_set(60), 0.5)
    with pytest.raises(ValueError, match="each of the 4 images"):
        poisoned.stamp(poisoned.base[:4], torch.arange(3))
    for wrong in (60, -1):
        with pytest.raises(ValueError, match="positions 0 to 59"):
            poisoned.stamp(poisoned.base[:1], torch.tensor([wrong]))


@given(ATTACKS, st.integers(20, 60), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_test_view_holds_every_image_whose_label_changes(attack, count, seed):
    test = training_set(count, seed)
    expected_images, expected_labels = [], []
    for trigger, rule in attack.pairs:
        changed = rule(test.labels) != test.labels
        expected_images.append(trigger(test.images)[changed])
        expected_labels.append(rule(test.labels)[changed])
    view = attack.poisoned_test_set(test)
    assert torch.equal(view.images, torch.cat(expected_images))
    assert torch.equal(view.labels, torch.cat(expected_labels))
    views = attack.poisoned_test_sets(test)
    assert list(views) == list(range(len(attack.pairs)))
    for number, part in views.items():
        assert torch.equal(part.labels, expected_labels[number])
        assert torch.equal(part.images, expected_images[number])


def test_all_to_all_is_the_successor():
    assert AllToAll(3)(torch.tensor([0, 1, 2, 2])).tolist() == [1, 2, 0, 0]
    assert AllToOne(2)(torch.tensor([0, 1, 2])).tolist() == [2, 2, 2]


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan"), True, "0.2"])
def test_a_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        badnets(0).poison(training_set(), rate)


def test_a_rate_that_poisons_nothing_is_refused():
    with pytest.raises(ValueError, match="0.005 of 60 images is 0"):
        badnets(0).poison(training_set(60), 0.005)
    with pytest.raises(ValueError, match="each of the 4 pairs"):
        several(4).poison(training_set(60), 0.05)


@given(st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=40)
def test_more_poison_than_eligible_images_is_refused(rate):
    train = training_set(50)  # ten of each class: 40 are eligible
    assume(round(50 * rate) >= 1)
    if round(50 * rate) <= 40:
        assert not (train.labels[badnets(0).poison(train, rate).indices] == 0).any()
    else:
        with pytest.raises(ValueError, match="only 40 of 50 are eligible"):
            badnets(0).poison(train, rate)


def test_the_choosiest_pair_draws_first():
    # Pair 0 may take any image, pair 1 only the six of class 1: it must find them free.
    class OnlyOnes(AllToOne):
        def __call__(self, labels):
            return torch.where(labels == 1, self.target, labels)

    attack = Attack(
        "two", ((Patch(((-1, -1),)), AllToAll(CLASSES)), (Patch(((-1, -2),)), OnlyOnes(0)))
    )
    train = training_set(30)
    for seed in range(8):
        poisoned = attack.poison(train, 0.4, seed)
        assert (train.labels[poisoned.indices[poisoned.pair == 1]] == 1).all()
        assert torch.bincount(poisoned.pair).tolist() == [6, 6]


def test_targets_that_do_not_exist_are_refused():
    for target in (-1, 1.0, True, None):
        with pytest.raises(ValueError, match="target: a class number"):
            badnets(target)
    with pytest.raises(ValueError, match=r"classes of the training set .* got \[7\]"):
        badnets(7).poison(training_set())
    with pytest.raises(ValueError, match=r"got \[5\]"):
        badnets_all_to_all(CLASSES + 1).poison(training_set())
    with pytest.raises(ValueError, match="classes 0 to 3 are expected, got 0 to 4"):
        badnets_all_to_all(CLASSES - 1).poison(training_set())
    for count in (1, 2.0, True):
        with pytest.raises(ValueError, match="num_classes"):
            AllToAll(count)


def test_a_view_of_nothing_is_refused():
    test = training_set()
    with pytest.raises(ValueError, match="ASR is not defined"):
        badnets(2).poisoned_test_set(test[test.labels == 2])


def test_overlapping_and_empty_attacks_are_refused():
    square = Patch.square(2)
    with pytest.raises(ValueError, match="one trigger cannot mean two labels"):
        Attack("twice", ((square, AllToOne(0)), (Patch.square(2), AllToOne(1))))
    with pytest.raises(ValueError, match="at least one"):
        Attack("none", ())
    with pytest.raises(TypeError, match="both callable"):
        Attack("label", ((square, 8),))
    with pytest.raises(TypeError, match=r"a tuple of \(trigger, relabelling\) is expected"):
        Attack("one bracket too few", (square, AllToOne(0)))
    with pytest.raises(TypeError, match="LabelledImages are expected, as dataset.train"):
        badnets(0).poison((torch.zeros(9, 3, 8, 8), torch.zeros(9)))


def test_images_that_are_too_small_are_refused_before_training():
    train = training_set(60, size=4)
    with pytest.raises(ValueError, match="at least 5×5 pixels"):
        badnets(0).poisoned_test_set(train)
    with pytest.raises(ValueError, match="at least 5×5 pixels"):
        badnets(0).poison(train)


def test_attacks_are_values():
    assert badnets(3) == badnets(3) and hash(badnets(3)) == hash(badnets(3))
    assert badnets(3) != badnets(4)
    assert str(badnets(3)).startswith("badnets (patch of 4×4")
    assert "every class → 3" in str(badnets(3))
    record = json.loads(json.dumps(several(2).to_dict()))
    assert record["pairs"][1]["relabelling"] == "AllToOne(target=1)"
    assert Patch.from_dict(record["pairs"][1]["trigger"]) == several(2).pairs[1][0]
    poisoned = badnets(3).poison(training_set(60), 0.5)
    assert str(poisoned) == "60 training images, 30 of them poisoned (50.00%) by badnets"
