"""Clean sets and networks that are small enough for every defence to run in a blink."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.attacks import Attack, badnets
from ibau_lite.data import LabelledImages
from ibau_lite.metrics import Report, evaluate
from ibau_lite.testing import tiny_images, tiny_network
from ibau_lite.training import Recipe, fit


@pytest.fixture
def clean() -> LabelledImages:
    return tiny_images()


@pytest.fixture
def model() -> nn.Module:
    """A trained small_cnn, fresh for every test."""
    return tiny_network()


def bars(count: int, seed: int) -> LabelledImages:
    """Noise [count, 3, 16, 16], and a bar whose height and colour are the class (6)."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.3 * torch.rand(count, 3, 16, 16, generator=generator)
    labels = torch.randint(6, (count,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[label % 3, 2 * label : 2 * label + 3, 1:10] += 0.3
    return LabelledImages(images.clamp(0, 1), labels)


@dataclass(frozen=True)
class Backdoored:
    """A network that BadNets has poisoned: it reads bars, and obeys a white square."""

    model: nn.Module
    attack: Attack
    clean: LabelledImages
    test: LabelledImages

    def report(self, model: nn.Module) -> Report:
        return evaluate(model, self.test, self.attack)


@pytest.fixture(scope="session")
def backdoored() -> Backdoored:
    """Its tests must leave it as it is, as every defence does."""
    train, attack = bars(900, 0), badnets(target=1)
    poisoned, model = attack.poison(train, 0.2), models.small_cnn(6, width=8)
    recipe = Recipe(epochs=4, batch_size=32, lr=0.05)
    fit(model, poisoned, recipe)
    victim = Backdoored(model.eval(), attack, bars(240, 1), bars(300, 2))
    before = victim.report(model)
    assert before.accuracy > 0.97 and before.attack_success_rate > 0.97
    return victim
