"""What every defence of the registry promises: a new model, the old one untouched, refusals."""

from __future__ import annotations

import dataclasses
import time
import warnings

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.data import Labelled
from ibau_lite.defenses import REGISTRY, Defended, FineTuningConfig, IBAUConfig
from ibau_lite.minimax import Ascent, Ball

CLASSES = 4
BRIEF = IBAUConfig(rounds=2, ball=Ball(1.0), inner=Ascent(2), batch_size=8, implicit_images=8)
CONFIGS = {
    "fine_tuning": FineTuningConfig(epochs=2, batch_size=8),
    "naive": BRIEF,
    "ibau": BRIEF,
}
pytestmark = [
    pytest.mark.parametrize("name", list(REGISTRY)),
    pytest.mark.filterwarnings("ignore::ibau_lite.solvers.SolverWarning"),
]


def run(name: str, model: nn.Module, clean: Labelled, **options) -> Defended:
    return REGISTRY[name](model, clean, config=CONFIGS[name], **options)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def state(model: nn.Module) -> list:
    """Everything about a model that a defence must leave alone, apart from the numbers."""
    return [
        [
            (name, p.requires_grad, p.grad, p.device, p.dtype)
            for name, p in model.named_parameters()
        ],
        [(name, module.training) for name, module in model.named_modules()],
    ]


@pytest.mark.parametrize("training", [False, True])
def test_the_given_model_is_untouched_and_a_new_one_comes_out(name, training, model, clean):
    model.train(training)
    model[1].eval()  # flags that differ from module to module
    model[0].bias.requires_grad_(False)
    before, images = (weights(model), state(model)), clean.images.clone()
    random = torch.get_rng_state()
    result = run(name, model, clean)
    assert same(weights(model), before[0]) and state(model) == before[1]
    assert torch.equal(clean.images, images) and torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in result.model.modules())
    memory = {p.data_ptr() for p in model.parameters()}
    assert memory.isdisjoint(p.data_ptr() for p in result.model.parameters())
    assert not same(weights(result.model), before[0])
    assert all(p.grad is None for p in result.model.parameters())


def test_frozen_parameters_and_buffers_stay_as_they_are(name, model, clean):
    for module in (model[0], model[1]):  # the first convolution and its normalisation
        module.requires_grad_(False)
    result = run(name, model, clean).model
    frozen = {n: not p.requires_grad for n, p in model.named_parameters()}
    assert sum(frozen.values()) == 4
    for (key, before), after in zip(model.state_dict().items(), result.state_dict().values()):
        trainable = not frozen.get(key, True)
        assert torch.equal(before, after) != trainable, key
    assert [p.requires_grad for p in result.parameters()] == [not f for f in frozen.values()]


def test_the_same_seed_gives_the_same_bits(name, model, clean):
    runs = []
    for disturbance, seed in ((1, 7), (2, 7), (3, 8)):
        torch.manual_seed(disturbance)
        runs.append(run(name, model, clean, seed=seed))
    assert same(weights(runs[0].model), weights(runs[1].model))
    assert runs[0].history == runs[1].history
    assert not same(weights(runs[0].model), weights(runs[2].model))


def test_the_settings_of_something_else_are_refused(name, model, clean):
    with pytest.raises(TypeError, match="config must be a .*Config or None, got dict"):
        REGISTRY[name](model, clean, config={"rounds": 1})


def test_a_row_a_round_and_the_time_it_took(name, model, clean):
    started = time.perf_counter()
    result = run(name, model, clean)
    assert 0 < result.seconds <= time.perf_counter() - started
    assert [row["round"] for row in result.history] == [1, 2]
    for row in result.history:
        assert all(isinstance(value, float | int) for value in row.values()), row
        assert row.keys() == result.history[0].keys() and row["loss"] > 0


def test_the_evaluators_answers_are_kept_and_its_time_is_not_counted(name, model, clean):
    seen = []

    def evaluator(network: nn.Module) -> dict[str, float]:
        time.sleep(1.0)
        assert not network.training
        seen.append(weights(network))
        return {"my_accuracy": len(seen) / 10}

    started = time.perf_counter()
    result = run(name, model, clean, evaluator=evaluator)
    assert result.seconds <= time.perf_counter() - started - 2.0
    assert [row["my_accuracy"] for row in result.history] == [0.1, 0.2]
    assert same(seen[-1], weights(result.model)) and not same(seen[0], seen[1])
    assert same(weights(run(name, model, clean).model), seen[-1])  # looking changes nothing


def test_the_bar_is_shown_only_when_asked_for(name, model, clean, capsys):
    run(name, model, clean)
    assert capsys.readouterr() == ("", "")
    run(name, model, clean, progress=True)
    assert "100%" in capsys.readouterr().err


def test_more_images_in_a_batch_than_there_are(name, model, clean):
    result = REGISTRY[name](model, clean[:5])  # the defaults take 100 and more
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def group_normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ELU(), nn.Flatten(), nn.Linear(144, CLASSES)
    )


@pytest.mark.parametrize("build", [group_normalised, lambda: models.resnet18(CLASSES)])
def test_other_networks(name, build, clean):
    model, brief = build().eval(), clean[:8]
    changed = {"fine_tuning": {"epochs": 1}}.get(name, {"rounds": 1})
    config = dataclasses.replace(CONFIGS[name], **changed)
    result = REGISTRY[name](model, brief, config=config)
    assert not same(weights(result.model), weights(model))
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_a_float64_network_stays_one_and_goes_the_same_way(name, model, clean):
    single = run(name, model, clean).model
    double = run(name, model.double(), clean).model
    for a, b in zip(single.parameters(), double.parameters()):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-3)


# --- refusals -----------------------------------------------------------------------------------


def test_no_clean_images(name, model, clean):
    with pytest.raises(ValueError, match="the clean set is empty"):
        run(name, model, clean[:0])


def test_something_other_than_labelled_images(name, model, clean):
    with pytest.raises(TypeError, match="must be a Labelled.*got tuple"):
        run(name, model, (clean.images, clean.labels))


def test_labels_that_the_model_has_no_output_for(name, model, clean):
    wrong = Labelled(clean.images, clean.labels + 1)
    with pytest.raises(ValueError, match="has the label 4, but the model has 4 outputs"):
        run(name, model, wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(name, value, model, clean):
    model[0].weight.data[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite in 0.weight"):
        run(name, model, clean)


def test_statistics_that_are_no_numbers(name, model, clean):
    model[1].running_mean[0] = float("nan")
    with pytest.raises(ValueError, match="logits on the clean images are NaN"):
        run(name, model, clean)


def test_a_model_without_anything_to_change(name, model, clean):
    with pytest.raises(ValueError, match="nothing to unlearn.*requires_grad_"):
        run(name, model.requires_grad_(False), clean)
    with pytest.raises(ValueError, match="nothing to unlearn"):
        run(name, nn.Flatten(), clean)


def test_a_model_that_is_no_classifier(name, clean):
    with pytest.raises(ValueError, match=r"logits \[N, classes\], got \[24, 2, 8, 8\]"):
        run(name, nn.Conv2d(3, 2, 1), clean)


def test_a_shift_as_large_as_the_images(name, model, clean):
    with pytest.raises(ValueError, match="shift must be below the image size 8, got 8"):
        REGISTRY[name](model, clean, config=dataclasses.replace(CONFIGS[name], shift=8))


def test_a_step_so_large_that_the_weights_are_lost(name, model, clean):
    config = dataclasses.replace(CONFIGS[name], lr=1e30)
    with (
        pytest.raises(FloatingPointError, match="NaN or infinite.*lower lr"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        REGISTRY[name](model, clean, config=config)


# --- warnings -----------------------------------------------------------------------------------


def test_one_class_only(name, model, clean):
    with pytest.warns(UserWarning, match="one class only"):
        run(name, model, clean[clean.labels == 2])


def test_labels_that_the_model_does_not_know(name, model, clean):
    many = Labelled(clean.images.repeat(3, 1, 1, 1), clean.labels.repeat(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="ibau_lite.hypergrad")
        run(name, model, many)
    with pytest.warns(UserWarning, match="which is chance"):
        run(name, model, Labelled(many.images, (many.labels + 1) % CLASSES))
