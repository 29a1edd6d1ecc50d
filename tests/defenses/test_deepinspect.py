"""DeepInspect: a generator whose triggers are smallest for the attacker's class."""

from __future__ import annotations

import pytest
import torch

from ibau_lite.defenses import DeepInspectConfig, deepinspect
from ibau_lite.defenses._deepinspect import TriggerGenerator, _slopes


def test_the_generator_starts_small_and_stays_in_range():
    triggers = TriggerGenerator(4, 6, (3, 8, 8), 16)
    noise, classes = torch.randn(5, 4), torch.tensor([0, 1, 5, 5, 2])
    out = triggers(noise, classes)
    assert out.shape == (5, 3, 8, 8) and out.abs().max() < 0.2
    assert not torch.equal(out[2], out[3])  # the noise matters
    triggers.out.weight.data.mul_(1e4)
    assert triggers(noise, classes).abs().max() <= 1


@pytest.mark.parametrize("chunk", [6, 12, 512])
def test_slopes_are_those_of_the_loss_whatever_the_chunk(chunk, model, clean):
    model = model.double().requires_grad_(False)
    judge = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1)).double()
    config = DeepInspectConfig(gan=0.3, size=0.05, free=2.0, chunk=chunk)
    images, labels = clean.images[:6].double(), clean.labels[:6]
    deltas = 0.2 * torch.randn(4, 3, 8, 8, dtype=torch.float64)
    slopes, fakes = _slopes(model, judge, images, labels, deltas, config)
    for t in range(4):
        delta = deltas[t].clone().requires_grad_()
        stamped = (images + delta).clamp(0, 1)
        others = labels != t
        loss = -model(stamped[others]).log_softmax(1)[:, t].mean()
        loss = loss + 0.3 * (judge(stamped[t : t + 1]) - 1).square().sum()
        loss = loss + 0.05 * max(torch.tensor(0.0), delta.abs().sum() - 2.0)
        (by_hand,) = torch.autograd.grad(loss, delta)
        torch.testing.assert_close(slopes[t], by_hand)
        torch.testing.assert_close(fakes[t], stamped[t].detach())


def test_triggers_of_the_attackers_class_are_found_and_unlearned(backdoored):
    """Asked for class 1. That its triggers are the smallest holds on some networks only."""
    config = DeepInspectConfig(
        steps=300, search_batch=12, targets=(1,), epochs=4, batch_size=20, shift=1
    )
    result = deepinspect(backdoored.model, backdoored.clean, config=config)
    details = result.details
    assert details["success"][1] > 0.9
    assert details["triggers"].shape == (6, 3, 16, 16)
    before, after = backdoored.report(backdoored.model), backdoored.report(result.model)
    assert after.attack_success_rate < 0.3 and after.accuracy > before.accuracy - 0.05


def test_where_no_trigger_works_nothing_is_touched(backdoored):
    result = deepinspect(backdoored.model, backdoored.clean, config=DeepInspectConfig(steps=1))
    assert not result.details["found"] and result.history == []
    assert (result.details["sizes"] == 3 * 16 * 16).all()  # none worked, so no small one did
    pairs = zip(result.model.parameters(), backdoored.model.parameters())
    assert all(torch.equal(ours, given) for ours, given in pairs)


@pytest.mark.parametrize(
    "setting", [{"steps": 0}, {"search_batch": 0}, {"noise": 0}, {"width": 0}, {"chunk": 0},
                {"search_lr": 0.0}, {"gan": -1.0}, {"size": -1.0}, {"free": -1.0}, {"success": 0.0}]
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        DeepInspectConfig(**setting)
