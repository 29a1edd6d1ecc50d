"""Near-duplicates: correlation as numpy computes it, whatever brightness and contrast are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ibau_lab import near_duplicates, read
from ibau_lab.near_duplicates import NEAR, nearest

IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
AMONG = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_it_is_numpys_correlation():
    table = np.corrcoef(IMAGES.flatten(1), AMONG.flatten(1))[:7, 7:]
    values, places = nearest(IMAGES, AMONG, chunk=3)
    np.testing.assert_allclose(values, table.max(1), atol=1e-6)
    assert places.tolist() == table.argmax(1).tolist()


def test_a_darker_flatter_copy_is_found_and_a_stranger_is_not():
    copies = 0.1 + 0.3 * IMAGES
    values, places = nearest(torch.cat([copies, AMONG]), IMAGES)
    assert torch.allclose(values[:7], torch.ones(7), atol=1e-5)
    assert places[:7].tolist() == list(range(7)) and values[7:].max() < NEAR


def test_an_image_of_one_colour_is_like_nothing():
    values, _ = nearest(torch.full((1, 3, 8, 8), 0.5), AMONG)
    assert values.abs().max() < 1e-3


@pytest.mark.parametrize("among", [AMONG[:0], AMONG[:, :1]])
def test_what_cannot_be_compared_is_refused(among):
    with pytest.raises(ValueError, match="one shape, and at least one"):
        nearest(IMAGES, among)


def test_the_command_says_how_many_there_are(capsys, tmp_path):
    results = tmp_path / "near.jsonl"
    assert near_duplicates.main(["--data", "signs", "--results", str(results)]) == 0
    (record,) = read(results)
    assert record["near"] == NEAR and record["clean"]["among"] == record["training"]["among"] == 800
    text = capsys.readouterr().out
    assert "of 1,800 test images correlate above 0.95 with one of 800 clean images" in text


@pytest.mark.skipif(
    not (Path(os.environ.get("IBAU_DATA", "nowhere")) / "gtsrb.npz").exists(),
    reason="needs GTSRB in $IBAU_DATA",
)
def test_gtsrb_has_many(capsys):
    near_duplicates.main(["--data", "gtsrb"])
    clean, training = capsys.readouterr().out.splitlines()[1:]
    assert float(clean.split("%")[0]) > 20 > 5 > float(training.split("%")[0])
