"""A net under the rebuilding: every defence gives today's bits. Goes when the work is done."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from ibau_lite import defenses, models
from ibau_lite.minimax import Ascent, Ball, Scouted
from ibau_lite.testing import CLASSES, tiny_images, tiny_network
from ibau_lite.training import Recipe, fit

STORED = Path(__file__).with_name("net.json")
SEARCH = defenses.Inversion(steps=6, batch_size=8)
BRIEF = defenses.IBAUConfig(
    rounds=2, ball=Ball(1.0), inner=Scouted(Ascent(2)), batch_size=8, implicit_images=8
)
TUNING = defenses.FineTuningConfig(epochs=2, batch_size=8, epoch_images=40, flip=True)
CASES = {
    "fine_tuning": TUNING,
    "naive": BRIEF,
    "ibau": BRIEF,
    "ibau stopped": dataclasses.replace(
        BRIEF, rounds=3, stopping=defenses.EarlyStopping(), draw_back=0.2, anchor=0.5, clamp=True
    ),
    "ibau released": defenses.IBAUConfig.released(rounds=2),
    "neural_cleanse": defenses.NeuralCleanseConfig(
        epochs=2, batch_size=8, search=SEARCH, targets=(1, 2), shift=1
    ),
    "tabor": defenses.TaborConfig(epochs=2, batch_size=8, search=SEARCH, targets=(1, 2), shift=1),
    "tabor found nothing": defenses.TaborConfig(search=SEARCH),
    "deepinspect": defenses.DeepInspectConfig(
        epochs=2, batch_size=8, steps=3, targets=(0, 3), shift=1
    ),
    "fine_pruning": defenses.FinePruningConfig(epochs=2, batch_size=8, step=0.25),
    "nad": defenses.NADConfig(epochs=2, batch_size=8, lr=0.01, teacher=TUNING),
    "dp": defenses.DPConfig(epochs=2, batch_size=8, private=False),
    "dp private": defenses.DPConfig(epochs=2, batch_size=8),
    "anp": defenses.ANPConfig(epochs=2, batch_size=8, threshold=0.97),
    "ft_sam": defenses.FTSAMConfig(epochs=2, batch_size=8),
    "sau": defenses.SAUConfig(epochs=2, batch_size=8, steps=2),
}


def bits(model: torch.nn.Module) -> str:
    state = {k: v.contiguous().numpy().tobytes() for k, v in model.state_dict().items()}
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()[:16]


def measured(name: str) -> dict[str, object]:
    kind = name.split()[0]
    run = defenses.REGISTRY[kind]
    if kind == "dp":
        run = functools.partial(run, train=tiny_images(48))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run(
            tiny_network(), tiny_images(40, seed=5), config=CASES[name], seed=3,
            evaluator=lambda m: {"mean": float(m(tiny_images().images).mean())},
        )  # fmt: skip
    return {"model": bits(found.model), "history": json.loads(json.dumps(found.history))}


def fitted() -> dict[str, object]:
    model = models.small_vgg(CLASSES, size=8)
    history = fit(model, tiny_images(60), Recipe(epochs=2, batch_size=16, flip=True, shift=1))
    return {"model": bits(model), "history": [[row["loss"], row["accuracy"]] for row in history]}


if os.environ.get("STORE"):
    found = {name: measured(name) for name in CASES} | {"fit": fitted()}
    STORED.write_text(json.dumps(found, indent=1))


@pytest.mark.parametrize("name", [*CASES, "fit"])
def test_the_same_bits_as_before(name):
    assert (fitted() if name == "fit" else measured(name)) == json.loads(STORED.read_text())[name]
