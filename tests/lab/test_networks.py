"""The networks that come with the package, on real images where those are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ibau_lite import data, zoo
from ibau_lite.metrics import evaluate

DATA = os.environ.get("IBAU_DATA", "")


@pytest.mark.parametrize("network", ["clean", "badnets", "smooth"])
@pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
def test_a_shipped_network_scores_on_real_images_what_was_recorded(name: str, network: str) -> None:
    """Within three standard errors of 1,000 images: another draw, rounded weights."""
    if not (Path(DATA) / f"{name}.npz").is_file():
        pytest.skip(f"needs the real images: {name}.npz in the folder that IBAU_DATA names")
    ours, images = zoo.load(name, network), data.load(name, train=10)
    if ours.metadata["settings"]["data"] != images.source:
        pytest.skip(f"the record is of {ours.metadata['settings']['data']}")
    seen = evaluate(ours.model, images.test[:1000], ours.attack)
    told = ours.metadata["report"]
    assert seen.accuracy == pytest.approx(told["accuracy"], abs=0.038)
    assert seen.attack_success_rate == pytest.approx(told["attack_success_rate"], abs=0.038)
