"""The naive minimax is I-BAU without the indirect term, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ibau_lite.defenses import IBAU, ibau, naive
from ibau_lite.ibau import Indirect
from ibau_lite.minimax import Ascent, Untargeted
from ibau_lite.sets import L2Ball

BRIEF = IBAU.classical(
    rounds=2,
    sets=(L2Ball(1.0),),
    search=Untargeted(Ascent(2)),
    batch_size=8,
    indirect=Indirect(images=8),
)


@pytest.mark.filterwarnings("ignore::ibau_lite.solvers.SolverWarning")
def test_naive_is_ibau_without_the_indirect_term(model, clean):
    one = naive(model, clean, config=BRIEF, seed=3)
    other = ibau(model, clean, config=replace(BRIEF, indirect=None), seed=3)
    implicit = ibau(model, clean, config=BRIEF, seed=3)
    assert one.history == other.history and "indirect" not in one.history[0]
    assert torch.equal(one.details["delta"], other.details["delta"])
    differs = []
    for a, b, c in zip(
        one.model.parameters(), other.model.parameters(), implicit.model.parameters()
    ):
        assert torch.equal(a, b)
        differs.append(not torch.equal(a, c))
    assert any(differs)  # the term that is missing was there to be missed


def test_its_defaults_are_those_of_ibau(model, clean):
    one = naive(model, clean[:8])
    other = ibau(model, clean[:8], config=IBAU(indirect=None))
    assert one.history == other.history
