"""What is no logits [N, K] is named, wherever a network is read: defences, training, metrics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import FineTuningConfig, Inversion, fine_tuning
from ibau_lite.metrics import accuracy, predict
from ibau_lite.minimax import Risk
from ibau_lite.testing import CLASSES, tiny_images, tiny_network
from ibau_lite.training import Recipe, fit

BRIEF = FineTuningConfig(epochs=1, shift=0)


def defended(model, data):
    return fine_tuning(model, data, config=BRIEF).model


def trained(model, data):
    return fit(model, data, Recipe(epochs=1, batch_size=8))


READERS = pytest.mark.parametrize("look", [defended, trained, accuracy])


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)).eval()


@READERS
@pytest.mark.parametrize(
    ("build", "shape", "says"),
    [
        (tiny_network, (1, 8, 8), r"shape \[1, 8, 8\].*a Conv2d,.*weight is \[4, 3, 3, 3\]"),
        (tiny_network, (8, 8, 3), r"\[8, 8, 3\].*channels last\? images.permute\(0, 3, 1, 2\)"),
        (linear, (3, 9, 9), r"\[3, 9, 9\]: layer 1, a Linear, was given \[.*, 243\].*\[4, 192\]"),
        (lambda: models.small_vgg(CLASSES, size=32).eval(), (3, 6, 6), r"shape \[3, 6, 6\]"),
    ],
)  # fmt: skip
def test_images_of_another_shape_are_named_with_both_shapes(look, build, shape, says):
    data = LabelledImages(torch.rand(24, *shape), torch.arange(24) % CLASSES)
    with pytest.raises(ValueError, match=says):
        look(build(), data)


def test_what_fails_for_another_reason_is_raised_as_it_is():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no licence")

    with pytest.raises(RuntimeError, match="no licence"):
        predict(Broken(), torch.rand(2, 3, 8, 8))


@READERS
@pytest.mark.parametrize("kind", [tuple, dict])
def test_outputs_that_are_no_tensor(look, kind):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_network()

        def forward(self, x):
            out = self.body(x)
            return (out, x) if kind is tuple else {"logits": out}

    with pytest.raises(TypeError, match=f"a tensor, got {kind.__name__} for"):
        look(Wrapped().eval(), tiny_images())


def test_outputs_that_are_no_tensor_in_training_mode_only():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_network()

        def forward(self, x):
            return (self.body(x), x) if self.training else self.body(x)

    with pytest.raises(TypeError, match="a tensor, got tuple for 8 images"):
        trained(Auxiliary(), tiny_images())


@READERS
def test_a_network_without_numbers(look):
    with torch.device("meta"):
        model = models.small_cnn(CLASSES).eval()
    with pytest.raises(ValueError, match="meta device"):
        look(model, tiny_images())


@pytest.mark.parametrize("look", [defended, trained])
def test_probabilities_are_refused_and_log_probabilities_are_as_good_as_logits(look):
    with pytest.raises(ValueError, match="gives probabilities.*last softmax"):
        look(nn.Sequential(tiny_network(), nn.Softmax(1)).eval(), tiny_images())
    plain, logarithmic = tiny_network(), nn.Sequential(tiny_network(), nn.LogSoftmax(1)).eval()
    ways = [look(model, tiny_images()) for model in (plain, logarithmic)]
    results = ways if look is defended else (plain, logarithmic)
    for a, b in zip(results[0].parameters(), results[1].parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_search_for_triggers_refuses_probabilities_too():
    model = nn.Sequential(tiny_network(), nn.Softmax(1)).eval()
    with pytest.raises(ValueError, match="gives probabilities"):
        Inversion(steps=1)(model, tiny_images(), generator=torch.Generator())


@pytest.mark.parametrize("look", [defended, trained])
def test_one_logit_is_no_classification(look):
    model = nn.Sequential(tiny_network(), nn.Linear(CLASSES, 1)).eval()
    data = LabelledImages(tiny_images().images, torch.zeros(24, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 2 logits an image, got 1"):
        look(model, data)


def mixing() -> nn.Module:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, CLASSES)).eval()


def inverted(model, data):
    return Inversion(steps=1)(model, data, generator=torch.Generator())


@pytest.mark.parametrize(
    "look", [defended, accuracy, inverted, lambda m, d: Risk(m, d.images, d.labels)]
)
def test_a_norm_that_mixes_images_in_evaluation_mode_is_refused(look):
    with pytest.raises(ValueError, match="1: BatchNorm without running statistics mixes"):
        look(mixing(), tiny_images())


def test_an_answer_that_depends_on_the_batch_is_refused_however_it_is_made():
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    with pytest.raises(ValueError, match="another answer alone than in a batch"):
        defended(nn.Sequential(Centred(), tiny_network()).eval(), tiny_images())


@pytest.mark.parametrize("look", [defended, trained, accuracy])
def test_labels_that_count_from_one(look):
    data = tiny_images()
    with pytest.raises(ValueError, match="labels count from 0"):
        look(tiny_network(), LabelledImages(data.images, data.labels + 1))
