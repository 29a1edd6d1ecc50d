"""The control group of an experiment: an attack that is measured, but not carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ibau_lite.attacks.poisoning import Attack, PoisonedSet
from ibau_lite.data import LabelledImages


@dataclass(frozen=True)
class Control(Attack):
    """An attack whose `poison` poisons nobody; made by `control`.

    What is trained on its training set is a clean network, and `poisoned_test_set` measures how often that
    network already reads stamped images as the attacker wants: the floor of every ASR.
    """

    def poison(self, train: LabelledImages, rate: float = 0.0, seed: int = 0) -> PoisonedSet:
        """Give the training set as it is; raises `ValueError` for a rate other than 0."""
        if rate != 0:
            raise ValueError(f"rate: a control poisons nobody, so 0 is expected, got {rate!r}")
        nobody = torch.empty(0, dtype=torch.int64)
        return PoisonedSet(self, train.images, train.labels, nobody, nobody)

    def to_dict(self) -> dict[str, Any]:
        """Give what the training set depends on: the name alone."""
        return {"name": self.name, "pairs": []}


def control(attack: Attack) -> Control:
    """The control of `attack`: the same triggers and labels at test time, nobody poisoned before.

    The controls of all attacks are named "clean" and have one and the same training set.
    """
    return Control("clean", attack.pairs)
