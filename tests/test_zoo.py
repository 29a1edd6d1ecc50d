"""What comes with the library: whole, small, and refused where it is not asked for by its name."""

from __future__ import annotations

import pytest
import torch

import ibau_lite as ib


@pytest.mark.parametrize(("data", "classes"), [("cifar10", 10), ("gtsrb", 43)])
def test_a_network_is_loaded_with_its_attack_and_what_was_noted(data: str, classes: int) -> None:
    model, attack, metadata = ib.zoo.load(data, "badnets")
    assert not model.training
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, classes)
    assert metadata["settings"]["attack"] == attack.to_dict()
    assert metadata["report"]["attack_success_rate"] > 0.9


def test_only_what_is_there_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match="cifar10 or gtsrb is expected, got 'mnist'"):
        ib.zoo.load("mnist", "badnets")
    with pytest.raises(FileNotFoundError, match="gtsrb-cpu-badnets"):
        ib.zoo.load("gtsrb", "sunset")


def test_all_networks_together_are_small_enough_to_be_carried_around() -> None:
    assert sum(path.stat().st_size for path in ib.zoo.FOLDER.iterdir()) <= 15 * 2**20
