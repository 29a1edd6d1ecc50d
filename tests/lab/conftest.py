"""A data set of 8×8 noise in two shades, an attack and a network: cells that take a moment."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from ibau_lab import Victim, victim
from ibau_lite.attacks import Attack, badnets
from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.models import small_cnn
from ibau_lite.training import Recipe

BUILD = functools.partial(small_cnn, 2, width=2)
RECIPE = Recipe(epochs=1, batch_size=16)


def shades(count: int, seed: int) -> LabelledImages:
    """Noise that is dark for class 0 and bright for class 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 3, 8, 8, generator=generator)
    return LabelledImages(0.3 * noise + 0.4 * labels[:, None, None, None], labels)


def make_dataset(seed: int = 0) -> Dataset:
    parts = [shades(size, 10 * seed + part) for part, size in enumerate((48, 16, 8, 20))]
    return Dataset("shades", *parts, ("dark", "bright"), "shades (drawn)")


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def attack() -> Attack:
    return badnets(1)


@pytest.fixture
def poisoned(dataset: Dataset, attack: Attack, tmp_path: Path) -> Victim:
    return victim(dataset, attack, BUILD, RECIPE, folder=tmp_path / "victims")
