"""Answers image by image: packed and read back, and the interval of a paired difference."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibau_lab.answers import Answers, paired
from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset
from ibau_lite.metrics import evaluate
from ibau_lite.models import small_cnn

BITS = st.lists(st.booleans(), min_size=1, max_size=70).map(torch.tensor)


@given(BITS, BITS)
def test_answers_are_read_back_from_json(clean, attacked):
    answers = Answers(clean, attacked)
    again = Answers.from_dict(json.loads(json.dumps(answers.to_dict())))
    assert torch.equal(again.clean, clean) and torch.equal(again.attacked, attacked)


def test_their_means_are_acc_and_asr(dataset: Dataset, attack: Attack) -> None:
    model = small_cnn(2, width=2).eval()
    answers = Answers.of(model, dataset.test, attack)
    assert answers.report == evaluate(model, dataset.test, attack)
    assert len(json.dumps(answers.to_dict())) < 300


def test_a_count_that_does_not_fit_its_bits_is_refused():
    kept = Answers(torch.ones(9, dtype=torch.bool), torch.ones(1, dtype=torch.bool)).to_dict()
    kept["clean"]["count"] = 17
    with pytest.raises(ValueError, match="17 answers"):
        Answers.from_dict(kept)


def test_a_paired_difference_by_hand():
    """Of 100 images 8 are right in the first row alone, 3 in the second alone."""
    both = [True] * 60 + [False] * 29
    first = torch.tensor([True] * 8 + [False] * 3 + both)
    second = torch.tensor([False] * 8 + [True] * 3 + both)
    found = paired(first, second)
    variance = (11 - 100 * 0.05**2) / 99
    assert found.mean == pytest.approx(0.05) and found.n == 100
    assert found.high - found.mean == pytest.approx(1.959964 * math.sqrt(variance / 100), rel=1e-5)
    assert found.low == pytest.approx(2 * found.mean - found.high)
    assert not found.clear and str(found) == "+5.0 ± 6.5"


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    """McNemar-like pairs, 2,000 times: 95 % within the binomial deviation (0.5 %, four of them)."""
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(2000):
        draw = torch.rand(400, generator=generator)
        first, second = draw < 0.6, (draw < 0.5) | (draw > 0.95)  # rates 0.6 and 0.55
        found = paired(first, second)
        held += found.low <= 0.05 <= found.high
    assert abs(held / 2000 - 0.95) < 0.02


@pytest.mark.parametrize(
    ("first", "second", "level", "says"),
    [
        (torch.ones(3), torch.ones(4), 0.95, r"\[3\] and \[4\]"),
        (torch.ones(1), torch.ones(1), 0.95, "at least 2"),
        (torch.ones(3), torch.ones(3), 1.0, "level"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, level, says):
    with pytest.raises(ValueError, match=says):
        paired(first.bool(), second.bool(), level)
