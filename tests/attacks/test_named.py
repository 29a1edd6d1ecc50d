"""The talk's targets, the seven triggers at once, and the control that poisons nobody."""

from __future__ import annotations

import pytest
import torch

from ibau_lite.attacks import (
    AllToOne,
    Attack,
    Blend,
    Patch,
    badnets,
    badnets_all_to_all,
    control,
    named_trigger,
    one_target,
    seven_to_seven,
)
from ibau_lite.attacks.named import COMPUTED, ONE_TARGET, SEVEN_TARGETS
from ibau_lite.data import LabelledImages
from ibau_lite.models import small_cnn

# As the slides state them (METHODS: Blend's own target is not in the talk).
ALONE = {
    "badnets": 8, "l0_inv": 0, "l2_inv": 0, "smooth": 6, "trojan_sq": 2, "trojan_wm": 2
}  # fmt: skip
SEVEN = [("trojan_wm", 9), ("trojan_sq", 2), ("badnets", 0), ("smooth", 1), ("blend", 3),
         ("l0_inv", 4), ("l2_inv", 5)]  # fmt: skip


def dots(count: int = 7) -> dict:
    """Seven triggers that need no network."""
    each = (Patch(((-1, -1 - k),)) for k in range(count))
    return dict(zip(SEVEN_TARGETS, each))


def training_set() -> LabelledImages:
    images = 0.9 * torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images, torch.arange(200) % 10)


def test_targets_are_the_talks():
    assert {name: ONE_TARGET[name] for name in ALONE} == ALONE
    assert list(SEVEN_TARGETS.items()) == SEVEN
    assert set(SEVEN_TARGETS) == set(ONE_TARGET)
    assert one_target("smooth", Blend()).pairs == ((Blend(), AllToOne(6)),)
    assert one_target("mine", Blend(), 4).pairs[0][1] == AllToOne(4)
    with pytest.raises(ValueError, match="or a target"):
        one_target("mine", Blend())


def test_drawn_triggers_need_no_network_and_computed_ones_say_so():
    assert named_trigger("badnets") == badnets().pairs[0][0] and named_trigger("blend") == Blend()
    for name in COMPUTED:
        with pytest.raises(ValueError, match=f"{name} is computed from a clean network"):
            named_trigger(name)
    with pytest.raises(ValueError, match="one of badnets"):
        named_trigger("sunset")


def test_a_computed_trigger_knows_the_shape_of_the_images():
    images = 0.5 * torch.rand(2, 1, 16, 16)
    found = named_trigger("trojan_sq", small_cnn(3, 1, width=2), images)
    assert found.delta.shape == (1, 16, 16)
    assert found(images).shape == images.shape


def test_seven_triggers_seven_targets_seven_equal_shares():
    attack = seven_to_seven(dots())
    poisoned = attack.poison(training_set(), 0.35)
    assert torch.bincount(poisoned.pair).tolist() == [10] * 7
    for number, (name, target) in enumerate(SEVEN):
        members = poisoned.indices[poisoned.pair == number]
        assert (poisoned.labels[members] == target).all()
        assert (training_set().labels[members] != target).all()
        assert torch.equal(poisoned.images[members], dots()[name](training_set().images[members]))
    views = attack.poisoned_test_sets(training_set())
    assert [set(view.labels.tolist()) for view in views.values()] == [{t} for _, t in SEVEN]
    assert len(attack.poisoned_test_set(training_set())) == 7 * 180


def test_seven_that_are_not_the_seven_are_refused():
    with pytest.raises(ValueError, match="are expected"):
        seven_to_seven(dots(6))
    with pytest.raises(ValueError, match="one trigger cannot mean two labels"):
        seven_to_seven({name: Blend() for name in SEVEN_TARGETS})


def test_a_control_measures_the_attack_and_poisons_nobody():
    train, attack = training_set(), badnets(3)
    nobody = control(attack).poison(train)
    assert not len(nobody.indices) and torch.equal(nobody.labels, train.labels)
    index = torch.arange(10)
    assert nobody.stamp(train.images[:10], index) is not None
    assert torch.equal(nobody.stamp(train.images[:10], index), train.images[:10])
    one, two = control(attack).poisoned_test_set(train), attack.poisoned_test_set(train)
    assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    assert str(nobody) == "200 training images, 0 of them poisoned (0.00%) by clean"
    with pytest.raises(ValueError, match="poisons nobody"):
        control(attack).poison(train, 0.2)


def test_all_controls_have_one_training_set():
    assert control(badnets(3)).to_dict() == control(badnets_all_to_all(10)).to_dict()
    assert control(badnets(3)) != Attack("clean", badnets(3).pairs)
