"""Metrics count what they say, and leave the model as they found it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ibau_lite.attacks import AllToOne, Attack, Patch, badnets, badnets_all_to_all
from ibau_lite.data import LabelledImages
from ibau_lite.metrics import (
    Report,
    Spread,
    accuracy,
    attack_success_rate,
    evaluate,
    predict,
    spread,
    summarise,
)

CLASSES = 4


def readable(labels: list[int] | torch.Tensor, size: int = 8) -> LabelledImages:
    """Images whose first pixel tells their class."""
    labels = torch.as_tensor(labels)
    images = torch.zeros(len(labels), 1, size, size)
    images[:, 0, 0, 0] = labels / CLASSES
    return LabelledImages(images, labels)


class Reader(nn.Module):
    """Reads the class from the first pixel; blind to any trigger in the other corner."""

    def classes(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, 0, 0, 0] * CLASSES).round().long()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(self.classes(images), CLASSES).float()


class Backdoored(Reader):
    """Reads the class, unless the trigger is there: then says what the attacker wants."""

    def __init__(self, rule) -> None:
        super().__init__()
        self.rule = rule

    def classes(self, images: torch.Tensor) -> torch.Tensor:
        triggered = (images[:, :, 3:7, 3:7] == 1).flatten(1).all(1)
        return torch.where(triggered, self.rule(super().classes(images)), super().classes(images))


class Constant(nn.Module):
    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers = torch.full((len(images),), self.answer)
        return nn.functional.one_hot(answers, CLASSES).float()


LABELS = st.lists(st.integers(0, CLASSES - 1), min_size=2, max_size=30).filter(
    lambda labels: len(set(labels)) > 1
)


@given(LABELS, st.integers(0, CLASSES - 1), st.integers(1, 7))
@settings(deadline=None, max_examples=50)
def test_classifiers_whose_figures_are_known(labels, target, batch_size):
    labelled, attack = readable(labels), badnets(target)
    others = sum(label != target for label in labels)
    of_target = labels.count(target) / len(labels)

    constant = evaluate(Constant(target), labelled, attack, batch_size=batch_size)
    assert constant == Report(of_target, 1.0, len(labels), others)
    perfect = evaluate(Reader(), labelled, attack, batch_size=batch_size)
    assert perfect == Report(1.0, 0.0, len(labels), others)
    backdoored = evaluate(Backdoored(AllToOne(target)), labelled, attack, batch_size=batch_size)
    assert backdoored == Report(1.0, 1.0, len(labels), others)


@given(LABELS)
@settings(deadline=None, max_examples=20)
def test_all_to_all_counts_every_image(labels):
    labelled, attack = readable(labels), badnets_all_to_all(CLASSES)
    assert evaluate(Reader(), labelled, attack) == Report(1.0, 0.0, len(labels), len(labels))
    model = Backdoored(attack.pairs[0][1])
    assert evaluate(model, labelled, attack) == Report(1.0, 1.0, len(labels), len(labels))
    assert attack_success_rate(Constant(0), labelled, attack) == labels.count(3) / len(labels)


def test_several_triggers_are_counted_together_and_one_by_one():
    patch = Patch.square(4, margin=1)
    attack = Attack("two", ((patch, AllToOne(2)), (Patch(((-1, -1),)), AllToOne(0))))
    labelled = readable([0, 0, 1, 2, 3, 3])
    model = Backdoored(AllToOne(2))  # knows the first trigger only
    rates = [accuracy(model, view) for view in attack.poisoned_test_sets(labelled).values()]
    assert rates == [1.0, 0.0]
    assert attack_success_rate(model, labelled, attack) == 5 / 9
    assert evaluate(model, labelled, attack) == Report(1.0, 5 / 9, 6, 9)


def test_predictions_do_not_depend_on_the_batch_size():
    labelled = readable(torch.arange(23) % CLASSES)
    for batch_size in (1, 5, 23, 1000):
        predicted = predict(Reader(), labelled.images, batch_size=batch_size)
        assert torch.equal(predicted, labelled.labels)
    assert predict(Reader(), labelled.images[:0]).shape == (0,)


class Stateful(nn.Module):
    """Everything that evaluation could disturb: BatchNorm's buffers, dropout, frozen submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.head = nn.Linear(72, CLASSES)
        self.fail = False

    def forward(self, images):
        if self.fail:
            raise RuntimeError("broken")
        return self.head(self.body(images).flatten(1))


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_left_as_it_was(fail):
    model = Stateful().train()
    model.body[1].eval()  # a frozen BatchNorm in a model that is being trained
    model.fail = fail
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    labelled = readable([0, 1, 2, 3])
    if fail:
        with pytest.raises(RuntimeError, match="broken"):
            evaluate(model, labelled, badnets(1))
    else:
        first = predict(model, labelled.images)
        assert torch.equal(first, predict(model, labelled.images))  # dropout is off
        evaluate(model, labelled, badnets(1))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_in_training_mode_is_measured_in_evaluation_mode():
    model, labelled = Stateful(), readable(torch.arange(40) % CLASSES)
    expected = model.eval()(labelled.images).argmax(1)
    assert torch.equal(predict(model.train(), labelled.images, batch_size=3), expected)


def test_no_graph_is_built():
    seen = []

    class Watching(Reader):
        def forward(self, images):
            seen.append(torch.is_grad_enabled())
            return super().forward(images)

    evaluate(Watching(), readable([0, 1]), badnets(1))
    assert seen == [False, False]


def test_what_cannot_be_measured_is_refused():
    labelled = readable([0, 1, 2, 3])
    with pytest.raises(ValueError, match="at least one image"):
        accuracy(Reader(), labelled[:0])
    with pytest.raises(ValueError, match="batch_size: at least 1"):
        accuracy(Reader(), labelled, batch_size=0)
    with pytest.raises(ValueError, match="classes 0 to 3 .* got 9"):
        attack_success_rate(Reader(), labelled, badnets(9))
    with pytest.raises(ValueError, match=r"logits \[N, classes\], got \[4, 1, 8, 8\] for 4 images"):
        accuracy(nn.Identity(), labelled)
    with pytest.raises(ValueError, match="ASR is not defined"):
        evaluate(Reader(), labelled[labelled.labels == 1], badnets(1))


def test_a_model_that_broke_down_is_reported():
    class Broken(Reader):
        def forward(self, images):
            return super().forward(images) * float("nan")

    with pytest.warns(RuntimeWarning, match="NaN or infinite logits"):
        accuracy(Broken(), readable([0, 1]))


def test_reports_are_printed_for_people():
    report = Report(0.976, 0.0123, 10_000, 9_000)
    assert str(report) == "ACC 97.6 % (n = 10,000)   ASR 1.2 % (n = 9,000)"


def test_mean_and_standard_deviation_over_seeds():
    assert spread([0.25, 0.5, 0.75]) == Spread(0.5, 0.25, 3)
    assert spread([0.5]) == Spread(0.5, None, 1)
    reports = [Report(acc, asr, 10, 9) for acc, asr in ((0.7, 0.0), (0.8, 0.1), (0.9, 0.2))]
    summary = summarise(reports)
    assert summary.accuracy.mean == pytest.approx(0.8)
    assert summary.accuracy.std == pytest.approx(0.1)
    assert str(summary) == "ACC 80.0 ± 10.0 %   ASR 10.0 ± 10.0 %   (n = 3)"
    assert str(summarise(reports[:1])) == "ACC 70.0 %   ASR 0.0 %   (n = 1)"
    for nothing in ([], [float("nan")]):
        with pytest.raises(ValueError, match="at least one finite number"):
            spread(nothing)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_are_read_in_the_dtype_of_the_model(dtype):
    labelled = readable([0, 1, 2, 3])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).to(dtype).eval()
    with torch.no_grad():
        expected = model(labelled.images.to(dtype)).argmax(1)
    assert torch.equal(predict(model, labelled.images), expected)


def test_what_is_no_set_of_images_or_no_tensor_of_logits_is_named():
    data = LabelledImages(torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))

    class Pair(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x

    with pytest.raises(TypeError, match="a tensor, got tuple for 4 images"):
        accuracy(Pair(), data)
    with pytest.raises(TypeError, match="LabelledImages are expected, as dataset.test"):
        accuracy(nn.Identity(), (data.images, data.labels))
    with pytest.raises(TypeError, match="LabelledImages are expected, as dataset.test"):
        evaluate(nn.Identity(), None, None)


def test_looking_leaves_tensors_that_can_be_trained_with():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.mask = nn.Linear(3, 2), None

        def forward(self, x):
            if self.mask is None:
                self.mask = torch.ones(2)
            return self.head(x.mean((2, 3))) * self.mask

    model, images = Cached(), torch.rand(4, 3, 8, 8)
    accuracy(model, LabelledImages(images, torch.zeros(4, dtype=torch.int64)))
    model(images).sum().backward()


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8), TypeError, "uint8; for bytes use"),
        (
            255 * torch.rand(3, 1, 8, 8),
            ValueError,
            r"for 0 … 255 use images.div\(255\)",
        ),
        ([[0.5]], TypeError, "got list"),
    ],
)
def test_bytes_are_no_images(images, error, says):
    with pytest.raises(error, match=says):
        predict(Reader(), images)


def test_perturbed_images_may_leave_the_range():
    images = readable([0, 1, 2, 3]).images
    far = torch.zeros_like(images[0])
    far[0, 4, 4] = 10.0  # the whole of a radius of 10 in one pixel
    assert predict(Reader(), images + far).tolist() == [0, 1, 2, 3]
