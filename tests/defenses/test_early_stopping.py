"""Early stopping: judged on held-out clean images, the best admissible round is what comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, EarlyStopping, naive
from ibau_lite.defenses.early_stopping import EarlyStoppingMonitor
from ibau_lite.minimax import Ascent
from ibau_lite.sets import L2Ball
from ibau_lite.streams import stream

BRIEF = IBAU(rounds=4, ball=L2Ball(1.0), inner=Ascent(2), batch_size=8)


class Sign(nn.Module):
    """Class 1 where the first pixel is above a threshold."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        above = images[:, 0, 0, 0] - self.threshold
        return torch.stack([-above, above], 1)


def ramp(count: int = 100) -> LabelledImages:
    """First pixels 0.005, 0.015, …, labelled by whether they are above one half."""
    pixels = (torch.arange(count) + 0.5) / count
    return LabelledImages(
        pixels[:, None, None, None].expand(-1, 1, 2, 2).clone(), (pixels > 0.5).long()
    )


def watched(thresholds: list[float], rule: EarlyStopping, shift: float = 0.0):
    model = Sign().eval()
    watch = EarlyStoppingMonitor(model, ramp(), rule, lambda: torch.full((1, 2, 2), shift))
    rows = []
    for threshold in thresholds:
        model.threshold.data.fill_(threshold)
        rows.append(watch())
        if watch.has_seen_enough:
            break
    return model, watch, rows


def test_what_is_measured_is_what_a_hand_count_gives():
    _, _, rows = watched([0.6], EarlyStopping(drop=0.5), shift=0.3)
    assert rows == [
        {
            "held_out_accuracy": pytest.approx(0.9),  # pixels between 0.5 and 0.6 are read wrongly
            "worst_case_accuracy": pytest.approx(0.8),  # x + 0.3 > 0.6 from 0.3 on, wrong to 0.5
        }
    ]


def test_what_is_clipped_in_training_is_clipped_where_it_is_judged():
    model = Sign(1.1).eval()  # no pixel of an image gets there
    shift = torch.full((1, 2, 2), 0.5)
    seen = [
        EarlyStoppingMonitor(model, ramp(), EarlyStopping(), lambda: shift, clamp=c)()
        for c in (False, True)
    ]
    # unclipped, the pixels above 0.6 are read as they should be, beside those up to 0.5
    assert seen[0]["worst_case_accuracy"] == pytest.approx(0.9)
    assert seen[1]["worst_case_accuracy"] == pytest.approx(0.5)


def test_the_round_that_withstands_most_is_kept_and_the_others_are_waited_for():
    rule = EarlyStopping(drop=0.5, patience=2)
    model, watch, rows = watched([0.6, 0.7, 0.65, 0.6, 0.75], rule, shift=0.3)
    assert len(rows) == 4 and watch.kept_round == 2
    watch.restore()
    assert model.threshold.item() == pytest.approx(0.7)


def test_a_round_that_costs_too_much_accuracy_does_not_count():
    rule = EarlyStopping(drop=0.12, patience=9)
    model, watch, _ = watched([0.55, 0.6, 0.8, 0.7], rule, shift=0.3)
    watch.restore()
    assert model.threshold.item() == pytest.approx(0.6)


def test_if_every_round_costs_too_much_the_most_accurate_is_kept_with_a_warning():
    model, watch, _ = watched([0.9, 0.7, 0.8], EarlyStopping(drop=0.05, patience=9), shift=0.3)
    with pytest.warns(RuntimeWarning, match="more than 5.0% of accuracy"):
        watch.restore()
    assert model.threshold.item() == pytest.approx(0.7)


def test_ibau_returns_the_round_it_says_it_kept(model, clean):
    rule = EarlyStopping(held_out=0.3, drop=1.0, patience=9)
    seen = []

    def evaluator(network: nn.Module) -> dict[str, float]:
        seen.append([p.detach().clone() for p in network.parameters()])
        return {}

    result = naive(model, clean, config=replace(BRIEF, stopping=rule), evaluator=evaluator)
    scores = [row["worst_case_accuracy"] for row in result.history]
    kept = result.details["kept_round"]
    assert len(seen) == 1 + 4 and kept == 1 + scores.index(max(scores))
    assert all(torch.equal(a, b) for a, b in zip(seen[kept], result.model.parameters()))


def test_ibau_stops_when_patience_is_at_an_end(model, clean):
    rule = EarlyStopping(held_out=0.3, drop=1.0, patience=1)
    rounds = 12
    result = naive(model, clean, config=replace(BRIEF, rounds=rounds, stopping=rule))
    scores = [row["worst_case_accuracy"] for row in result.history]
    assert len(scores) < rounds
    assert scores[-1] <= max(scores[:-1]) and result.details["kept_round"] == len(scores) - 1


def test_held_out_images_are_not_trained_on(model, clean):
    """Other labels on the held-out images change the verdict, not the path."""
    rule = EarlyStopping(held_out=0.3, drop=1.0, patience=9)
    config = replace(BRIEF, rounds=1, stopping=rule, lr=1e-3)
    order = torch.randperm(len(clean), generator=stream(0, "defense", "ibau", "held_out"))
    labels = clean.labels.clone()
    held = order[: round(0.3 * len(clean))]
    labels[held] = (labels[held] + 1) % (int(clean.labels.max()) + 1)
    runs = [
        naive(model, each, config=config) for each in (clean, LabelledImages(clean.images, labels))
    ]
    first, second = (list(run.model.parameters()) for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    a, b = (run.history[0]["held_out_accuracy"] for run in runs)
    assert a != b


def test_a_set_that_cannot_be_split_is_refused(model, clean):
    config = replace(BRIEF, stopping=EarlyStopping(held_out=0.9))
    with pytest.raises(ValueError, match="too few to hold out"):
        naive(model, clean[:2], config=config)


@pytest.mark.parametrize("wrong", [{"held_out": 0.0}, {"drop": -0.1}, {"patience": 0}])
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EarlyStopping(**wrong)
