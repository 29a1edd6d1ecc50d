"""What every defence of the registry promises, and what is said at the door."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import pytest
import torch
from torch import nn

from ibau_lite.data import Labelled
from ibau_lite.defenses import (
    REGISTRY,
    ANPConfig,
    DeepInspectConfig,
    DPConfig,
    FinePruningConfig,
    FineTuningConfig,
    FTSAMConfig,
    IBAUConfig,
    Inversion,
    NADConfig,
    NeuralCleanseConfig,
    SAUConfig,
    TaborConfig,
)
from ibau_lite.metrics import Report
from ibau_lite.minimax import AimedUnion, Ascent
from ibau_lite.sets import L2Ball
from ibau_lite.testing import CLASSES, DEFENSE_CHECKS, Subject, tiny_images

SEARCH = Inversion(steps=4, batch_size=8)
BRIEF = IBAUConfig(rounds=2, ball=L2Ball(1.0), inner=Ascent(2), batch_size=8, implicit_images=8)
TUNING = FineTuningConfig(epochs=1, batch_size=8)
CONFIGS = {
    "fine_tuning": FineTuningConfig(epochs=2, batch_size=8),
    "naive": BRIEF,
    "ibau": BRIEF,
    "neural_cleanse": NeuralCleanseConfig(
        epochs=2, batch_size=8, search=SEARCH, targets=(1,), shift=1
    ),
    "tabor": TaborConfig(epochs=2, batch_size=8, search=SEARCH, targets=(1, 2), shift=1),
    "deepinspect": DeepInspectConfig(epochs=2, batch_size=8, steps=3, targets=(0,), shift=1),
    "fine_pruning": FinePruningConfig(epochs=2, batch_size=8, step=0.25),
    "nad": NADConfig(epochs=2, batch_size=8, lr=0.01, teacher=TUNING),
    "dp": DPConfig(epochs=2, batch_size=8, private=False),
    "anp": ANPConfig(epochs=2, batch_size=8, threshold=0.97),
    "ft_sam": FTSAMConfig(epochs=2, batch_size=8),
    "sau": SAUConfig(epochs=2, batch_size=8, steps=2),
}
# A search whose settings show an old cast: the δ of one `Ascent` on this network does not.
SEEN = dataclasses.replace(BRIEF, rounds=3, lr=0.03, inner=AimedUnion(Ascent(2), images=4))
ANEW = "it trains a new network"
EXCUSED = {"dp": {"frozen parameters stay as they are": ANEW}}
ALL = pytest.mark.parametrize("name", list(REGISTRY))


def defense(name: str):
    """The registry's entry; `dp` with a training set, which is the clean one's double."""
    return (
        functools.partial(REGISTRY[name], train=tiny_images(48))
        if name == "dp"
        else (REGISTRY[name])
    )


def test_every_entry_of_the_registry_is_checked():
    assert CONFIGS.keys() == REGISTRY.keys()


@ALL
@pytest.mark.parametrize("promise", DEFENSE_CHECKS)
def test_it_keeps_its_promises(name, promise):
    if promise in EXCUSED.get(name, {}):
        pytest.skip(EXCUSED[name][promise])
    DEFENSE_CHECKS[promise](Subject(defense(name), CONFIGS[name]))


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"anp", "dp"}))
def test_float64_goes_the_same_way(name, model, clean):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single = defense(name)(model, clean, config=CONFIGS[name]).model
        double = defense(name)(model.double(), clean, config=CONFIGS[name]).model
    for a, b in zip(single.parameters(), double.parameters()):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"dp", "ft_sam", "nad"}))
def test_buffers_stay_as_they_are(name, model, clean):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = defense(name)(model, clean, config=CONFIGS[name]).model
    buffers = dict(result.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in model.named_buffers())


@ALL
def test_under_autocast_it_goes_on_with_the_weights_that_it_has(name, model, clean):
    """PyTorch would keep the first cast of a parameter for as long as the autocast lasts."""
    config = SEEN if CONFIGS[name] is BRIEF else CONFIGS[name]
    found = []
    for kept in (True, False):
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16, cache_enabled=kept):
            warnings.simplefilter("ignore")
            found.append(defense(name)(model, clean, config=config).model)
    for a, b in zip(found[0].parameters(), found[1].parameters()):
        assert torch.equal(a, b)


# --- what is said at the door -------------------------------------------------------------------


@ALL
def test_the_settings_of_something_else_are_refused(name, model, clean):
    with pytest.raises(TypeError, match="config must be a .*Config or None, got dict"):
        defense(name)(model, clean, config={"rounds": 1})


@ALL
def test_a_model_without_logits(name, model, clean):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, x):
            return self.network(x), x

    with pytest.raises(ValueError, match="logits .*, got tuple for"):
        defense(name)(Pair().eval(), clean, config=CONFIGS[name])


@ALL
def test_no_clean_images(name, model, clean):
    with pytest.raises(ValueError, match="the clean set is empty"):
        defense(name)(model, clean[:0], config=CONFIGS[name])


@ALL
def test_something_other_than_labelled_images(name, model, clean):
    with pytest.raises(TypeError, match="must be a Labelled.*got tuple"):
        defense(name)(model, (clean.images, clean.labels), config=CONFIGS[name])


@ALL
def test_labels_that_the_model_has_no_output_for(name, model, clean):
    wrong = Labelled(clean.images, clean.labels + 1)
    with pytest.raises(ValueError, match="has the label 4, but the model has 4 outputs"):
        defense(name)(model, wrong, config=CONFIGS[name])


@ALL
def test_weights_that_are_no_numbers(name, model, clean):
    model[0].weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite in 0.weight"):
        defense(name)(model, clean, config=CONFIGS[name])


@ALL
def test_a_model_without_anything_to_change(name, model, clean):
    with pytest.raises(ValueError, match="nothing to unlearn.*requires_grad_"):
        defense(name)(model.requires_grad_(False), clean, config=CONFIGS[name])


@ALL
def test_a_model_that_is_no_classifier(name, clean):
    with pytest.raises(ValueError, match=r"logits \[N, classes\], got \[24, 2, 8, 8\]"):
        defense(name)(nn.Conv2d(3, 2, 1), clean, config=CONFIGS[name])


@ALL
def test_a_shift_as_large_as_the_images(name, model, clean):
    with pytest.raises(ValueError, match="shift must be below the image size 8, got 8"):
        defense(name)(model, clean, config=dataclasses.replace(CONFIGS[name], shift=8))


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"anp"}))  # its masks are clipped
def test_a_step_so_large_that_the_weights_are_lost(name, model, clean):
    config = dataclasses.replace(CONFIGS[name], lr=1e30)
    with (
        pytest.raises(FloatingPointError, match="NaN or infinite.*lower lr"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        defense(name)(model, clean, config=config)


@ALL
def test_one_class_only(name, model, clean):
    with pytest.warns(UserWarning, match="one class only"):
        defense(name)(model, clean[clean.labels == 2], config=CONFIGS[name])


@ALL
def test_labels_that_the_model_does_not_know(name, model):
    clean = tiny_images(72)
    wrong = Labelled(clean.images, (clean.labels + 1) % CLASSES)
    with pytest.warns(UserWarning, match="which is chance"):
        defense(name)(model, wrong, config=CONFIGS[name])


@ALL
def test_a_model_that_no_defence_can_take(name, model, clean):
    run = functools.partial(defense(name), clean=clean, config=CONFIGS[name])
    with pytest.raises(TypeError, match=r"torch.nn.Module is expected, got OrderedDict"):
        run(model.state_dict())
    with pytest.raises(TypeError, match=r"DataParallel's own network, model.module"):
        run(nn.DataParallel(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, clean.images[:1])
    with pytest.raises(TypeError, match="no Python forward"):
        run(traced)
    with pytest.raises(ValueError, match=r"float16.*model.float\(\)"):
        run(model.half())


class Keeping(nn.Module):
    """What a forward pass makes stays in an attribute: a mask at first use, the last features."""

    def __init__(self, network: nn.Module, features: bool) -> None:
        super().__init__()
        self.network, self.features, self.kept = network, features, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.features:
            self.kept = self.network[:4](x)
        elif self.kept is None:
            self.kept = torch.ones(CLASSES)
        return self.network(x) * (1 if self.features else self.kept)


@ALL
def test_a_mask_made_at_first_use_can_be_trained_with(name, model, clean):
    result = defense(name)(Keeping(model, False).eval(), clean, config=CONFIGS[name]).model
    result(clean.images).sum().backward()


def test_features_left_by_a_training_pass_are_named(model, clean):
    keeping = Keeping(model, True)
    keeping(clean.images).sum().backward()
    with pytest.raises(ValueError, match="cannot be copied.*set it to None"):
        defense("fine_tuning")(keeping, clean, config=TUNING)


def test_an_evaluator_may_give_a_report(model, clean):
    def evaluator(network):
        return Report(0.75, 0.25, 4, 4)

    result = defense("fine_tuning")(model, clean, config=TUNING, evaluator=evaluator)
    row = result.history[0]
    assert (row["accuracy"], row["attack_success_rate"]) == (0.75, 0.25)
