"""What all defences that pass over the clean set have in common: how many images they see."""

from __future__ import annotations

import pytest

from ibau_lite import defenses
from ibau_lite.defenses import epochs

KINDS = {
    "fine_tuning": defenses.FineTuningConfig,
    "fine_pruning": defenses.FinePruningConfig,
    "nad": defenses.NADConfig,
    "anp": defenses.ANPConfig,
    "ft_sam": defenses.FTSAMConfig,
    "sau": defenses.SAUConfig,
}


@pytest.fixture
def seen(monkeypatch):
    """The sizes of all batches that are augmented, that is, trained on."""
    sizes: list[int] = []
    augment = epochs.augment

    def counted(images, *rest, **options):
        sizes.append(len(images))
        return augment(images, *rest, **options)

    monkeypatch.setattr(epochs, "augment", counted)
    return sizes


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wanted", [10, 70])
def test_an_epoch_passes_over_as_many_images_as_told(name, wanted, model, clean, seen):
    assert len(clean) not in (10, 70)
    few = {"epochs": 2, "epoch_images": wanted, "batch_size": 8, "shift": 0}
    if name == "nad":
        few["teacher"] = defenses.FineTuningConfig(**few)
    result = defenses.REGISTRY[name](model, clean, config=KINDS[name](**few))
    assert len(result.history) == 2
    assert sum(seen) == 2 * wanted * (2 if name == "nad" else 1)
    batches = KINDS[name](**few).total_batches(len(clean))
    assert batches == 2 * -(-wanted // 8)
    assert len(seen) == batches * (2 if name == "nad" else 1)


def test_steps_fall_to_zero_over_the_images_that_are_passed(model):
    config = defenses.FineTuningConfig(epochs=2, epoch_images=24, batch_size=8, lr=0.5)
    descend = epochs.AdamSteps(model, config, images=1000)
    steps = []
    for _ in range(config.total_batches(1000)):
        steps.append(descend._optimizer.param_groups[0]["lr"])
        descend(sum(p.square().sum() for p in model.parameters()))
    assert steps == pytest.approx([0.5 * (1 - k / 6) for k in range(6)])
    assert descend._optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
