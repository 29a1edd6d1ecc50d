"""SAU: its losses by their definitions, shared examples, and what it does to a backdoor."""

from __future__ import annotations

import pytest
import torch

from ibau_lite.defenses import SAUConfig, sau
from ibau_lite.defenses._sau import _divergence, _not_class, _shared_example


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(6, 5, generator=draw, dtype=torch.float64)


def test_the_divergence_is_jensens_and_shannons():
    p, q = logits(0).softmax(1), logits(1).softmax(1)
    mean = (p + q) / 2
    by_hand = ((p * (p / mean).log()).sum(1) + (q * (q / mean).log()).sum(1)) / 2
    torch.testing.assert_close(_divergence(logits(0), logits(1)), by_hand)
    torch.testing.assert_close(_divergence(logits(0), logits(0)), torch.zeros(6).double())
    far = _divergence(logits(0, 300.0), logits(1, 300.0))  # where exp would be 0 or ∞
    assert far.isfinite().all() and (far <= torch.log(torch.tensor(2.0)) + 1e-12).all()


def test_the_unlearning_loss_is_the_log_of_not_being_that_class():
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    p = logits(0).softmax(1)[torch.arange(6), classes]
    torch.testing.assert_close(_not_class(logits(0), classes), -(1 - p).log())
    sure = torch.tensor([[60.0, 0.0, 0.0]])  # 1 − p is 0 in single precision
    assert _not_class(sure, torch.tensor([0])) == pytest.approx(60 - 0.6931, abs=1e-3)


def test_examples_are_shared_and_in_the_ball(backdoored):
    config = SAUConfig(radius=0.15, step=0.15, steps=5)
    images, labels = backdoored.clean.images[:60], backdoored.clean.labels[:60]
    model = backdoored.model
    delta = _shared_example(model, model, images, labels, config)
    assert delta.abs().max() <= 0.15 + 1e-6
    wrong = (model(images + delta).argmax(1) != labels).float().mean()
    start = (model(images + 0.15).argmax(1) != labels).float().mean()
    assert wrong > start + 0.2
    # One that fools both already stays at the corner where the search began.
    both = model(images + 0.15).argmax(1) != model(images).argmax(1)
    assert (delta[both] == torch.tensor(0.15)).all()


def test_the_purified_network_stops_following_the_poisoned_one(backdoored):
    config = SAUConfig(epochs=3, batch_size=40, radius=0.3, step=0.3)
    result = sau(backdoored.model, backdoored.clean, config=config)
    assert result.history[-1]["shared"] < result.history[0]["shared"]
    after = backdoored.report(result.model)
    assert after.attack_success_rate < 0.5 and after.accuracy > 0.85


@pytest.mark.parametrize(
    "setting", [{"radius": 0.0}, {"step": 0.0}, {"steps": 0}, {"betas": (1.0,)},
                {"betas": (-1.0, 1.0)}, {"weights": (1.0, 0.0)}]
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SAUConfig(**setting)
