"""What every defence of the registry promises, and what is said at the door."""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import functools
import inspect
import json
import pickle
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ibau_lite import protocol
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import (
    IBAU,
    REGISTRY,
    ANPConfig,
    DeepInspectConfig,
    DPConfig,
    FinePruningConfig,
    FineTuningConfig,
    FTSAMConfig,
    Inversion,
    NADConfig,
    NeuralCleanseConfig,
    SAUConfig,
    TaborConfig,
    fine_tuning,
)
from ibau_lite.defenses import defense as decorated
from ibau_lite.door import clean_on_device
from ibau_lite.ibau import Indirect, InnerObjective
from ibau_lite.metrics import Report
from ibau_lite.minimax import Ascent, OnePass, Targeted, Untargeted
from ibau_lite.sets import L2Ball
from ibau_lite.testing import CLASSES, DEFENSE_CHECKS, Subject, tiny_images

SEARCH = Inversion(steps=4, batch_size=12)
BRIEF = IBAU.classical(
    rounds=2, sets=(L2Ball(1.0),), search=Untargeted(Ascent(2)), batch_size=12,
    indirect=Indirect(images=8),
)  # fmt: skip
TUNING = FineTuningConfig(epochs=1, batch_size=12)
CONFIGS = {
    "fine_tuning": FineTuningConfig(epochs=2, batch_size=12),
    "naive": BRIEF,
    "ibau": BRIEF,
    "neural_cleanse": NeuralCleanseConfig(
        epochs=2, batch_size=12, search=SEARCH, targets=(1,), shift=1
    ),
    "tabor": TaborConfig(epochs=2, batch_size=12, search=SEARCH, targets=(1, 2), shift=1),
    "deepinspect": DeepInspectConfig(epochs=2, batch_size=12, steps=3, targets=(0,), shift=1),
    "fine_pruning": FinePruningConfig(epochs=2, batch_size=12, step=0.25),
    "nad": NADConfig(epochs=2, batch_size=12, lr=0.01, teacher=TUNING),
    "dp": DPConfig(epochs=2, batch_size=12, private=False),
    "anp": ANPConfig(epochs=2, batch_size=12, threshold=0.97),
    "ft_sam": FTSAMConfig(epochs=2, batch_size=12),
    "sau": SAUConfig(epochs=2, batch_size=12, steps=2),
}
# Searches that show an old cast: the δ of one `Ascent` on this network does not.
SEEN = {
    "naive": dataclasses.replace(
        BRIEF,
        lr=0.03,
        search=Untargeted(OnePass(1.0)),
        inner=InnerObjective(None, labels="predicted"),
    ),
    "ibau": dataclasses.replace(BRIEF, rounds=3, lr=0.03, batch_size=8, search=Targeted(Ascent(2))),
}
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
    config = SEEN.get(name, CONFIGS[name])
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
    with pytest.raises(TypeError, match=r"config must be a \w+ or None, got dict"):
        defense(name)(model, clean, config={"rounds": 1})


@ALL
def test_a_model_without_logits(name, model, clean):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, x):
            return self.network(x), x

    with pytest.raises(TypeError, match="logits .*, got tuple for"):
        defense(name)(Pair().eval(), clean, config=CONFIGS[name])


@ALL
def test_no_clean_images(name, model, clean):
    with pytest.raises(ValueError, match="the clean set is empty"):
        defense(name)(model, clean[:0], config=CONFIGS[name])


@ALL
def test_something_other_than_labelled_images(name, model, clean):
    with pytest.raises(TypeError, match="must be LabelledImages.*got tuple"):
        defense(name)(model, (clean.images, clean.labels), config=CONFIGS[name])


@ALL
def test_labels_that_the_model_has_no_output_for(name, model, clean):
    wrong = LabelledImages(clean.images, clean.labels + 1)
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


@contextlib.contextmanager
def stops_at_a_warning(says):
    """It is said at the door, so the defence need not be run beyond."""
    with warnings.catch_warnings(), pytest.raises(UserWarning, match=says):
        warnings.simplefilter("error")
        yield


@ALL
def test_one_class_only(name, model, clean):
    with stops_at_a_warning("one class only"):
        defense(name)(model, clean[clean.labels == 2], config=CONFIGS[name])


@ALL
def test_labels_that_the_model_does_not_know(name, model):
    clean = tiny_images(72)
    wrong = LabelledImages(clean.images, (clean.labels + 1) % CLASSES)
    with stops_at_a_warning("which is chance"):
        defense(name)(model, wrong, config=CONFIGS[name])


class Reads(nn.Module):
    """Reads the class of 43 that is written into every pixel, without being sure of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(42.0))

    def forward(self, x):
        return nn.functional.one_hot((x.mean((1, 2, 3)) * self.scale).round().long(), 43) + 1.0


def written(classes):
    return (classes / 42)[:, None, None, None].repeat(1, 1, 2, 2)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_classes_that_are_numbered_otherwise(share):
    """As folders 0 … 42 in alphabetical order: far below what the network can, above chance."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(43).repeat(10)[torch.randperm(430, generator=draw)]
    other = torch.randint(43, (430,), generator=draw)
    weak = torch.where(torch.rand(430, generator=draw) < share, labels, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean_on_device(Reads(), LabelledImages(written(labels), labels))
        clean_on_device(Reads(), LabelledImages(written(weak), labels))  # weak, but not mistaken
    moved = torch.where(labels < (1 - share) * 43, labels, (labels + 1) % 43)
    with pytest.warns(UserWarning, match="of one label alike, as if it could read 9[678]%"):
        clean_on_device(Reads(), LabelledImages(written(labels), moved))


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


class Masked(nn.Module):
    """A mask that is made at first use stays in an attribute."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.kept = network, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = torch.ones(CLASSES)
        return self.network(x) * self.kept


@ALL
def test_a_mask_made_at_first_use_can_be_trained_with(name, model, clean):
    result = defense(name)(Masked(model).eval(), clean, config=CONFIGS[name]).model
    result(clean.images).sum().backward()


def test_an_evaluator_may_give_a_report(model, clean):
    def evaluator(network):
        return Report(0.75, 0.25, 4, 4)

    result = defense("fine_tuning")(model, clean, config=TUNING, evaluator=evaluator)
    row = result.history[0]
    assert (row["accuracy"], row["attack_success_rate"]) == (0.75, 0.25)


# --- the decorator ------------------------------------------------------------------------------


@ALL
def test_the_settings_of_every_other_defence_are_refused(name, model, clean):
    for other, config in CONFIGS.items():
        if type(config) is not type(CONFIGS[name]):
            with pytest.raises(TypeError, match=f"config must be .*, got {type(config).__name__}"):
                defense(name)(model, clean, config=config)
            assert other != name


@dataclasses.dataclass(frozen=True)
class Shrink:
    factor: float = 0.9


@decorated(Shrink)
def shrink(model, clean, config, run, *, wait=0.0):
    """Make all weights smaller."""
    for weight in model.parameters():
        weight.data *= config.factor
    time.sleep(wait)
    return model, [{"round": 1, "drawn": float(torch.rand((), generator=run.generator))}], {}


def test_a_subclass_of_the_settings_is_refused_too(model, clean):
    @dataclasses.dataclass(frozen=True)
    class Twice(Shrink):
        times: int = 2

    with pytest.raises(TypeError, match="config must be a Shrink or None, got Twice"):
        shrink(model, clean, config=Twice())
    shrink(model, clean, config=Shrink(0.5))


def test_the_example_runs():
    outcome = doctest.testmod(protocol)
    assert outcome.attempted and not outcome.failed


def test_the_decorated_function_is_a_defence(model, clean):
    assert (shrink.__name__, shrink.__doc__) == ("shrink", "Make all weights smaller.")
    assert list(inspect.signature(shrink).parameters)[:3] == ["model", "clean", "config"]
    assert pickle.loads(pickle.dumps(fine_tuning)) is fine_tuning
    slow = shrink(model, clean, wait=0.2)
    assert 0.2 <= slow.seconds < 5
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        shrink(model, clean, epochs=3)
    rows = [shrink(model, clean, seed=seed).history for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


@ALL
def test_an_evaluator_that_does_not_work_fails_before_the_first_round(name, model, clean):
    trained = []
    for module in model.modules():
        module.register_forward_hook(  # the door reads one image with gradients
            lambda _, given, __: trained.append(torch.is_grad_enabled() and len(given[0]) > 1)
        )
    for said, says in ((None, "got NoneType"), ({"acc": "high"}, "'acc' is to be a number")):
        with pytest.raises(TypeError, match=f"evaluator: .*{says}"):
            defense(name)(model, clean, config=CONFIGS[name], evaluator=lambda _, said=said: said)
    assert not any(trained)


def test_what_an_evaluator_says_becomes_plain_numbers(model, clean):
    calls = []

    def evaluator(network):
        calls.append(network)
        return {"a": torch.tensor(0.5), "b": np.float32(0.25), "n": np.int64(len(calls))}

    result = defense("fine_tuning")(model, clean, config=TUNING, evaluator=evaluator)
    row = {key: result.history[0][key] for key in "abn"}
    assert json.dumps(row) == '{"a": 0.5, "b": 0.25, "n": 2}'
    assert result.details["before"] == {"a": 0.5, "b": 0.25, "n": 1}
