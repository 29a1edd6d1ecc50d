"""Clean sets and networks that are small enough for every defence to run in a blink."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.data import Labelled
from ibau_lite.training import Recipe, fit

CLASSES, SIZE = 4, 8


def bright_bands(count: int, seed: int = 0) -> Labelled:
    """Noise with one bright band of two rows, whose height is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
    labels = torch.arange(count) % CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += 0.5
    return Labelled(images, labels)


@pytest.fixture(scope="session")
def clean() -> Labelled:
    return bright_bands(24)


@pytest.fixture(scope="session")
def _trained() -> nn.Module:
    model, data = models.small_cnn(CLASSES, width=4), bright_bands(128, seed=1)
    fit(model, data.images, data.labels, Recipe(epochs=3, batch_size=16, lr=0.05))
    return model


@pytest.fixture
def model(_trained) -> nn.Module:
    """A trained small_cnn, fresh for every test."""
    fresh = models.small_cnn(CLASSES, width=4)
    fresh.load_state_dict(_trained.state_dict())
    return fresh.eval()
