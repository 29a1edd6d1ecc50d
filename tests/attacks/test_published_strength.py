"""The triggers change photographs by what the published ones do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ibau_lite import data, zoo
from ibau_lite.attacks import named_trigger

ARCHIVE = Path(os.environ.get("IBAU_DATA", "nowhere")) / "cifar10.npz"

# ‖mean_i (T(x_i) − x_i)‖ (l2, l1) over 2,000 images of CIFAR-10, of the published triggers.
PUBLISHED = {
    "l0_inv": (2.58, 13),
    "l2_inv": (3.00, 102),
    "trojan_sq": (5.40, 63),
    "trojan_wm": (5.61, 83),
}


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    if not ARCHIVE.exists():
        pytest.skip("needs CIFAR-10 in $IBAU_DATA")
    return data.load("cifar10", train=2000).train.images


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_mean_change_is_within_5_percent_of_the_published(name, photographs):
    network = zoo.load("cifar10", "clean").model
    change = (named_trigger(name, network, photographs)(photographs) - photographs).mean(0)
    assert float(change.norm()) == pytest.approx(PUBLISHED[name][0], rel=0.05)
    # The l1 norm is nobody's setting: how a picture spreads its change is the algorithm's.
    assert float(change.abs().sum()) == pytest.approx(PUBLISHED[name][1], rel=0.4)
