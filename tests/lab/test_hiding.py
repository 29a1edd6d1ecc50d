"""A trigger beside its rivals: on a network that obeys it, and on one that obeys nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lab import hiding
from ibau_lite.attacks import AllToOne, Attack
from ibau_lite.data import LabelledImages

CLASSES, SIDE = 3, 4


class Obeys(nn.Module):
    """Class c shows in pixel (0, c); the corner pixel asks for class 1, as loudly as told."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor) -> Tensor:
        asked = F.one_hot(torch.tensor(1), CLASSES) * self.strength * x[:, 0, -1, -1:]
        return 4 * x[:, 0, 0, :CLASSES] + asked


def bright_corner(images: Tensor) -> Tensor:
    stamped = images.clone()
    stamped[:, :, -1, -1] = 0.5
    return stamped


ATTACK = Attack("corner", ((bright_corner, AllToOne(1)),))


def part() -> LabelledImages:
    labels = torch.arange(CLASSES).repeat(4)
    images = torch.zeros(len(labels), 1, SIDE, SIDE)
    images[torch.arange(len(labels)), 0, 0, labels] = 1
    return LabelledImages(images, labels)


def seen(strength: float) -> dict:
    return hiding.measure(Obeys(strength).eval(), part(), ATTACK, images=6)


def test_a_trigger_that_adds_the_same_everywhere_is_its_mean():
    answer = seen(20.0)
    logits = Obeys(20.0)(bright_corner(part().images))
    assert answer["trigger"] == pytest.approx(F.cross_entropy(logits, part().labels).item())
    assert answer["mean"] == pytest.approx(answer["trigger"])
    assert answer["target"] == 1
    for norm in ("l2", "l1"):
        assert answer["rivals"][norm]["length"] == pytest.approx(0.5)
        assert len(answer["rivals"][norm]["heights"]) == CLASSES


@pytest.mark.parametrize(("strength", "above"), [(20.0, True), (0.5, False)])
def test_a_backdoor_stands_above_its_rivals_and_a_hidden_one_does_not(strength, above):
    answer = seen(strength)
    others = [answer["rivals"]["l2"]["heights"][k] for k in (0, 2)]
    assert (answer["mean"] > max(others)) == above
    # the climb toward the target finds at least the trigger, in either norm
    for rivals in answer["rivals"].values():
        assert rivals["heights"][1] > 0.95 * answer["mean"]


def test_the_table_has_the_highest_rival_of_another_class():
    heights = {"length": 1.0, "heights": [2.0, 9.0, 4.0]}
    record = {
        "data": "cifar10", "attack": "corner", "target": 1, "trigger": 7.0, "mean": 6.0,
        "rivals": {"l2": heights, "l1": {**heights, "heights": [8.0, 1.0, 0.0]}},
    }  # fmt: skip
    assert hiding.lead(record) == 9 / 4
    row = hiding.table([record, {**record, "data": "gtsrb"}], "cifar10").splitlines()[2:]
    assert len(row) == 1
    cells = [cell.strip() for cell in row[0].strip("|").split("|")]
    assert cells[:2] == ["corner", "6.0"]
    assert cells[2:6] == ["1.0", "9.0", "4.0", "2.25"]
    assert cells[6:] == ["1.0", "1.0", "8.0", "0.12"]
