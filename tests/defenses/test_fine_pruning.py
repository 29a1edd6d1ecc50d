"""Fine-Pruning: a sleeping channel that carries a backdoor goes; one step too far is undone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses import FinePruningConfig, fine_pruning

STILL = {"epochs": 1, "lr": 1e-30, "shift": 0, "batch_size": 8}  # fine-tuning that moves nothing


class Sleeper(nn.Module):
    """Four channels: the brightness of a quadrant each; a fifth sees white pixels, and decides."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 5, 1)
        self.norm = nn.BatchNorm2d(5, eps=0.0) if norm else nn.Identity()
        self.relu = nn.ReLU()
        self.head = nn.Linear(5 * 16, 4, bias=False)
        with torch.no_grad():
            self.convolution.weight.fill_(1.0)
            self.convolution.bias.zero_()
            self.convolution.weight[4], self.convolution.bias[4] = 10.0, -9.0  # above 0.9
            self.convolution.weight[:4] = torch.tensor([1.0, 1.1, 1.2, 1.3]).view(4, 1, 1, 1)
            weight = torch.zeros(4, 5, 4, 4)
            for k, (rows, columns) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
                weight[k, k, rows : rows + 2, columns : columns + 2] = 1.0
            weight[0, 4] = 100.0
            self.head.weight.copy_(weight.flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.norm(self.convolution(images))).flatten(1))


def quadrants(count: int) -> LabelledImages:
    images = 0.1 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 4
    for image, label in zip(images, labels.tolist()):
        i, j = 2 * (label // 2), 2 * (label % 2)
        image[:, i : i + 2, j : j + 2] += 0.6
    return LabelledImages(images, labels)


@pytest.mark.parametrize("norm", [False, True])
def test_the_channel_that_sleeps_on_clean_images_is_the_only_one_pruned(norm):
    model, clean = Sleeper(norm).eval(), quadrants(40)
    stamped = clean.images.clone()
    stamped[:, :, 3, 0] = 1.0
    assert (model(stamped).argmax(1) == 0).all()  # the backdoor: a white pixel means class 0
    result = fine_pruning(model, clean, config=FinePruningConfig(**STILL, step=0.2))
    assert result.details["layer"] == "convolution" and result.details["pruned"] == [4]
    assert result.details["activation"].argmin() == 4
    assert [count for count, _ in result.details["curve"]] == [0, 1, 2]
    assert result.details["curve"][1][1] == 1 > result.details["curve"][2][1]
    assert (result.model(stamped).argmax(1) == clean.labels).all()
    # The step that went too far is taken back: every other channel is what it was.
    for name, parameter in model.named_parameters():
        after = result.model.get_parameter(name)
        if name.startswith("head"):
            torch.testing.assert_close(after, parameter)
        else:
            torch.testing.assert_close(after[:4], parameter[:4])
            assert (after[4] == 0).all()


def test_the_level_is_chosen_by_images_that_take_no_part_in_tuning():
    clean = quadrants(40)
    seen = []

    class Watching(Sleeper):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                seen.extend(image.numpy().tobytes() for image in images.detach())
            return super().forward(images)

    fine_pruning(Watching(False).eval(), clean, config=FinePruningConfig(**STILL, validation=0.3))
    seen = seen[1:]  # the door looks at one image
    assert len(seen) == 28 and len(set(seen)) == 28  # 30 % of 40 were held out


def test_pruned_channels_stay_zero_in_fine_tuning(backdoored):
    config = FinePruningConfig(epochs=2, tolerance=0.05, step=0.05)
    result = fine_pruning(backdoored.model, backdoored.clean, config=config)
    pruned = result.details["pruned"]
    assert pruned and result.details["layer"] == "12"
    for name in ("12.weight", "12.bias", "13.weight", "13.bias"):
        assert (result.model.get_parameter(name)[pruned] == 0).all()
    assert not torch.equal(result.model.get_parameter("0.weight"), backdoored.model[0].weight)
    images = backdoored.test.images[:50]
    z = result.model[:14](images)
    assert (z[:, pruned] == 0).all() and z.abs().sum() > 0
    assert backdoored.report(result.model).accuracy > 0.9


def test_one_image_cannot_be_divided(model, clean):
    with pytest.warns(UserWarning, match="one class"), pytest.raises(ValueError, match="too few"):
        fine_pruning(model, clean[:1])


def test_a_layer_that_is_no_convolution(model, clean):
    for layer in ("1", "nowhere"):
        with pytest.raises(ValueError, match=f"a convolution.*got '{layer}'"):
            fine_pruning(model, clean, config=FinePruningConfig(layer=layer))


@pytest.mark.parametrize(
    "setting", [{"tolerance": -0.1}, {"tolerance": 1.0}, {"step": 0.0}, {"validation": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        FinePruningConfig(**setting)
