"""Neural Cleanse: the patch is found and unlearned, or nothing is touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import Inversion, NeuralCleanseConfig, neural_cleanse

CONFIG = NeuralCleanseConfig(
    search=Inversion(steps=300, batch_size=12), targets=(1,), epochs=2, batch_size=20, shift=1
)


@pytest.fixture(scope="module")
def cleansed(backdoored):
    return neural_cleanse(backdoored.model, backdoored.clean, config=CONFIG)


def test_the_patch_is_found(backdoored, cleansed):
    details = cleansed.details
    assert details["sizes"].argmin() == 1 and details["success"][1] > 0.8
    mask = details["inverted"].masks[1, 0]
    patch = backdoored.attack.pairs[0][0](torch.zeros(1, 3, 16, 16))[0, 0] > 0
    assert mask[patch].sum() > 0.8 * mask.sum()  # 16 of 256 pixels


def test_and_unlearned(backdoored, cleansed):
    before, after = backdoored.report(backdoored.model), backdoored.report(cleansed.model)
    assert after.attack_success_rate < 0.3 < 0.97 < before.attack_success_rate
    assert after.accuracy > before.accuracy - 0.03
    assert [row["round"] for row in cleansed.history] == [1, 2]


class Doors(nn.Module):
    """Four classes read the mean of a 3×3 corner of the image each; the fifth, one pixel."""

    def __init__(self, back: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))
        self.back = back

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images[:, 0]
        corners = [x[:, :3, :3], x[:, :3, 5:], x[:, 5:, :3], x[:, 5:, 5:]]
        rows = [corner.mean((1, 2)) for corner in corners]
        fifth = 4 * x[:, 4, 4] - 1 if self.back else x[:, 3:5].mean((1, 2))
        return self.scale * torch.stack([*rows, fifth], 1)


def corners() -> LabelledImages:
    images, labels = torch.zeros(32, 1, 8, 8), torch.arange(32) % 4
    for image, label in zip(images, labels.tolist()):
        i, j = 5 * (label // 2), 5 * (label % 2)
        image[:, i : i + 3, j : j + 3] = 0.9
    return LabelledImages(images, labels)


@pytest.mark.parametrize("back", [True, False])
def test_a_class_with_a_back_door_is_flagged_and_no_other(back):
    model, seen = Doors(back).eval(), []
    result = neural_cleanse(
        model,
        corners(),
        config=NeuralCleanseConfig(search=Inversion(steps=250, batch_size=16), shift=0),
        evaluator=lambda network: seen.append(network) or {},
    )
    assert bool(result.details["inverted"].found.all())
    assert result.details["flagged"] == ([4] if back else [])
    assert result.details["found"] == back and len(result.history) == len(seen) - 1 == back
    if not back:  # no trigger to unlearn: a copy, bit for bit
        assert torch.equal(result.model.scale, model.scale) and result.model is not model
        assert result.seconds > 0


def test_targets_are_unlearned_whatever_the_index_says(model, clean):
    config = NeuralCleanseConfig(
        search=Inversion(steps=2), targets=(2,), batch_size=8, threshold=1e9
    )
    result = neural_cleanse(model, clean, config=config)
    assert not result.details["found"] and len(result.history) == 1
    with pytest.raises(ValueError, match=r"targets: classes 0 to 3 of the model, got \[4\]"):
        neural_cleanse(model, clean, config=NeuralCleanseConfig(targets=(4,)))


def test_two_classes_have_no_outlier():
    data = LabelledImages(torch.rand(8, 3, 8, 8), torch.arange(8) % 2)
    with pytest.raises(ValueError, match="2 classes: at least 3"):
        neural_cleanse(models.small_cnn(2, width=2).eval(), data)


@pytest.mark.parametrize(
    "setting", [{"threshold": 0.0}, {"stamped": 0.0}, {"stamped": 1.5}, {"targets": ()}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        NeuralCleanseConfig(**setting)


def test_a_trigger_is_stamped_on_the_fraction_asked_for(backdoored):
    """The removal sees true labels and stamps ⌊stamped · batch⌋ images."""
    batches = []

    class Watching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.inner[0].weight.requires_grad and torch.is_grad_enabled():
                batches.append(images.detach())
            return self.inner(images)

    config = NeuralCleanseConfig(
        search=Inversion(steps=1), targets=(0,), batch_size=40, stamped=0.25, shift=0
    )
    network = Watching(backdoored.model)
    result = neural_cleanse(network, backdoored.clean, config=config)
    mask = result.details["inverted"].masks[0]
    known = {image.numpy().tobytes() for image in backdoored.clean.images}
    stamped = [sum(i.numpy().tobytes() not in known for i in batch) for batch in batches]
    assert float(mask.max()) > 0.5 and stamped == [10] * 6
