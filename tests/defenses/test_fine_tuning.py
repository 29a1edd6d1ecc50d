"""Fine-tuning: the baseline lowers the clean loss and nothing else is claimed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ibau_lite.data import LabelledImages
from ibau_lite.defenses import FineTuningConfig, fine_tuning
from ibau_lite.streams import stream


def loss_of(model: torch.nn.Module, clean: LabelledImages) -> float:
    with torch.no_grad():
        return F.cross_entropy(model(clean.images), clean.labels).item()


def test_it_lowers_the_clean_loss(model, clean):
    model[-1].weight.data.add_(
        0.3 * torch.randn(model[-1].weight.shape, generator=torch.Generator().manual_seed(0))
    )
    config = FineTuningConfig(epochs=8, batch_size=8, shift=0)
    result = fine_tuning(model, clean, config=config)
    assert loss_of(result.model, clean) < 0.7 * loss_of(model, clean)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_an_epoch_may_be_longer_than_the_clean_set(model, clean):
    same = {"batch_size": 8, "shift": 0, "lr": 1e-3}
    config = FineTuningConfig(epochs=1, epoch_images=3 * len(clean), **same)
    longer = fine_tuning(model, clean, config=config)
    thrice = fine_tuning(model, clean, config=FineTuningConfig(epochs=3, **same))
    for a, b in zip(longer.model.parameters(), thrice.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert len(longer.history) == 1 and len(thrice.history) == 3
    with pytest.raises(ValueError, match="epoch_images must be at least 1 or None, got 0"):
        FineTuningConfig(epoch_images=0)


def test_it_is_adam_with_a_falling_step_on_shuffled_batches(model, clean):
    by_hand = type(model)(*model)  # the same modules: compare before they change
    start = {name: value.clone() for name, value in model.state_dict().items()}
    config = FineTuningConfig(epochs=2, batch_size=10, lr=2e-3, shift=0)
    result = fine_tuning(model, clean, config=config, seed=4)

    optimizer = torch.optim.Adam(by_hand.parameters(), lr=2e-3)
    generator, step = stream(4, "defense", "fine_tuning"), 0
    for epoch in range(2):
        losses = []
        for index in torch.randperm(24, generator=generator).split(10):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / 6)
            loss = F.cross_entropy(by_hand(clean.images[index]), clean.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        assert result.history[epoch]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)
    for (name, a), b in zip(by_hand.state_dict().items(), result.model.state_dict().values()):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5)
        statistics = "running" in name or "num_batches" in name
        assert torch.equal(b, start[name]) == statistics


@pytest.mark.parametrize(
    "setting", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"shift": -1}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        FineTuningConfig(**setting)
