"""Which models and clean sets a defence takes, and what it warns of."""

from __future__ import annotations

import copy
import functools
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import (
    IBAU,
    ANPConfig,
    DPConfig,
    FinePruningConfig,
    FineTuningConfig,
    FTSAMConfig,
    NADConfig,
    NeuralCleanseConfig,
    SAUConfig,
    anp,
    dp,
    fine_pruning,
    fine_tuning,
    ft_sam,
    ibau,
    nad,
    neural_cleanse,
    sau,
)
from ibau_lite.defenses.inversion import Inversion
from ibau_lite.metrics import accuracy
from ibau_lite.sets import L2Ball
from ibau_lite.testing import CLASSES, tiny_images, tiny_network
from ibau_lite.training import Recipe, fit

BRIEF = FineTuningConfig(epochs=1, batch_size=8)
RUNS = {
    "fine_tuning": functools.partial(fine_tuning, config=BRIEF),
    "ibau": functools.partial(ibau, config=IBAU(rounds=1, round_images=24, sets=(L2Ball(1.0),))),
    "neural_cleanse": functools.partial(
        neural_cleanse, config=NeuralCleanseConfig(search=Inversion(steps=2), targets=(1,))
    ),
    "fine_pruning": functools.partial(fine_pruning, config=FinePruningConfig(epochs=1)),
    "nad": functools.partial(nad, config=NADConfig(epochs=1, lr=0.01, teacher=BRIEF)),
    "anp": functools.partial(anp, config=ANPConfig(epochs=1)),
    "ft_sam": functools.partial(ft_sam, config=FTSAMConfig(epochs=1)),
    "sau": functools.partial(sau, config=SAUConfig(epochs=1, steps=2)),
    "dp": functools.partial(dp, train=tiny_images(), config=DPConfig(epochs=1, private=False)),
}
EACH = pytest.mark.parametrize("name", RUNS)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


# --- what is warned of --------------------------------------------------------------------------


def said_of(model: nn.Module, clean: LabelledImages) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fine_tuning(model, clean, config=FineTuningConfig(epochs=1, shift=0))
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


class Reader(nn.Module):
    """Reads the class from the first pixel, and says so with a stated confidence."""

    def __init__(self, classes: int, sure: float) -> None:
        super().__init__()
        odds = sure / ((1 - sure) / (classes - 1))
        self.classes, self.scale = classes, nn.Parameter(torch.tensor(odds).log())

    def forward(self, images):
        read = (images[:, 0, 0, 0] * self.classes).round().long()
        return self.scale * nn.functional.one_hot(read, self.classes)


def set_of(labels, answers, classes: int) -> LabelledImages:
    """Images that `Reader` reads as the answers, with the labels."""
    images = torch.zeros(len(labels), 1, 4, 4)
    images[:, 0, 0, 0] = torch.as_tensor(answers) / classes
    return LabelledImages(images, torch.as_tensor(labels))


def read_right(share: float, classes: int, count: int = 860) -> LabelledImages:
    """Some answers are right, the others are drawn from the other classes."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    other = (labels + torch.randint(1, classes, (count,), generator=draw)) % classes
    right = torch.rand(count, generator=draw) < share
    return set_of(labels, torch.where(right, labels, other), classes)


def test_folders_that_were_sorted_as_text_are_noticed():
    """GTSRB's classes 0 … 42 as 0, 1, 10, 11, …: a few stay in their place, so it is not chance."""
    order = sorted(range(43), key=str)
    truth = torch.arange(860) % 43
    labels = torch.tensor([order.index(k) for k in truth.tolist()])
    right = float((labels == truth).float().mean())
    assert right > 1.5 / 43
    (message,) = said_of(Reader(43, 0.95), set_of(labels, truth, 43))
    assert "reads 6% of 200" in message and "as if it could read 100%" in message


@pytest.mark.parametrize(
    ("right", "sure", "warned"),
    [(0.94, 0.97, False), (0.75, 0.92, False), (0.6, 0.98, False), (0.3, 0.35, False),
     (0.3, 0.9, True), (0.05, 0.9, True), (0.45, 0.99, False), (0.1, 0.1001, True)],
)  # fmt: skip
def test_a_network_is_to_be_right_at_least_half_as_often_as_it_is_sure(right, sure, warned):
    assert bool(said_of(Reader(10, sure), read_right(right, 10))) == warned


def test_a_sorted_clean_set_is_looked_at_everywhere():
    """The first 200 images of a set that is sorted by class would be of two classes only."""
    data = read_right(0.9, 10)
    order = data.labels.argsort(stable=True)
    labels = data.labels.clone()
    labels[data.labels >= 2] = (data.labels[data.labels >= 2] - 1) % 8 + 2
    assert said_of(Reader(10, 0.9), LabelledImages(data.images, labels)[order])


def test_missing_classes_are_named():
    clean = tiny_images()
    (message,) = said_of(tiny_network(), clean[(clean.labels != 3) & (clean.labels != 1)])
    assert "no image of 2 of the model's 4 classes (1, 3)" in message


# --- what comes in ------------------------------------------------------------------------------


class Keeping(nn.Module):
    """Keeps its last features, in an attribute, a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last, self.all, self.by_name = tiny_network(), None, [], {}

    def forward(self, x):
        self.last = self.body[:4](x)
        self.all.append(self.last.mean())
        self.by_name["last"] = self.last
        return self.body(x)


@EACH
@pytest.mark.parametrize("used", [False, True])
def test_what_a_forward_pass_leaves_behind_does_not_come_out(name, used):
    model = Keeping().eval()
    if used:
        model(tiny_images().images).sum().backward()
        model.zero_grad()
    seen = []
    result = RUNS[name](
        model, tiny_images(), evaluator=lambda m: seen.append(copy.deepcopy(m)) or {}
    ).model
    torch.save(result, io.BytesIO())
    assert len(result.all) == len(model.all) == int(used)
    assert (result.last is None) == (not used)
    assert same(copy.deepcopy(result), seen[-1])
    result(tiny_images().images).sum().backward()


@EACH
@pytest.mark.parametrize("inside", [False, True])
def test_compiled_networks(name, inside):
    bare = tiny_network()
    compile_ = functools.partial(torch.compile, backend="aot_eager")
    model = nn.Sequential(compile_(bare[:5]), *bare[5:]) if inside else compile_(bare)
    result = RUNS[name](model.eval(), tiny_images()).model
    assert same(result, RUNS[name](tiny_network(), tiny_images()).model) or inside
    assert not any("_orig_mod" in key for key in result.state_dict())
    assert same(model, tiny_network())


def weight_normed(way) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = way(nn.Conv2d(3, 8, 3)), nn.ReLU(), way(nn.Conv2d(8, 8, 3)), nn.ReLU()
        return nn.Sequential(*layers, nn.Flatten(), way(nn.Linear(128, CLASSES))).eval()


WAYS = pytest.mark.parametrize(
    "way", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)


@WAYS
@EACH
@pytest.mark.filterwarnings("ignore")
def test_computed_weights_are_trained_or_refused(name, way):
    model = weight_normed(way)
    if name in ("fine_pruning", "anp"):
        with pytest.raises(ValueError, match="its weight is computed.*take that off first"):
            RUNS[name](model, tiny_images())
    elif name == "dp":
        with pytest.raises(ValueError, match="draw all weights anew.*weight_v|original1"):
            RUNS[name](model, tiny_images())
    else:
        result = RUNS[name](model, tiny_images()).model
        assert not same(result, model)
        copy.deepcopy(result)(tiny_images().images).sum().backward()


@EACH
@pytest.mark.parametrize(
    "state",
    [torch.no_grad, torch.inference_mode, "float64", lambda: torch.device("meta")],
    ids=["no_grad", "inference_mode", "float64", "device"],
)
def test_pytorchs_global_settings_do_not_matter(name, state):
    model, clean = tiny_network(), tiny_images()
    wanted = RUNS[name](model, clean).model
    if state == "float64":
        try:
            torch.set_default_dtype(torch.float64)
            result = RUNS[name](model, clean).model
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with state():
            result = RUNS[name](model, clean).model
    assert same(result, wanted)


def test_training_and_measuring_do_not_depend_on_them_either():
    wanted, clean = tiny_network(), tiny_images()
    recipe = Recipe(epochs=1, batch_size=8, shift=1)
    fit(wanted, clean, recipe)
    for state in (torch.no_grad, torch.inference_mode, lambda: torch.device("meta")):
        model = tiny_network()
        with state():
            fit(model, clean, recipe)
            assert accuracy(model, clean) == accuracy(wanted, clean)
        assert same(model, wanted)


def test_what_was_made_under_inference_mode():
    with torch.inference_mode():
        model, clean = models.small_cnn(CLASSES, width=4).eval(), tiny_images()
    assert not same(fine_tuning(model, clean, config=BRIEF).model, model)
    with pytest.raises(ValueError, match="built under torch.inference_mode"):
        fit(model, tiny_images(), Recipe(epochs=1))
    fit(tiny_network(), clean, Recipe(epochs=1, batch_size=8))


@pytest.mark.parametrize(
    ("seed", "error"), [(None, TypeError), (1.5, TypeError), ("1", TypeError), (-1, ValueError)]
)
@EACH
def test_seeds_that_are_none(name, seed, error):
    with pytest.raises(error, match="seed"):
        RUNS[name](tiny_network(), tiny_images(), seed=seed)


def test_numbers_of_numpy_are_as_good_as_pythons(tmp_path):
    numpy = FineTuningConfig(
        epochs=np.int64(1), batch_size=np.int32(8), epoch_images=np.int64(16), lr=np.float32(0.125)
    )
    python = FineTuningConfig(epochs=1, batch_size=8, epoch_images=16, lr=0.125)
    assert repr(numpy) == repr(python)
    one, other = (
        fine_tuning(tiny_network(), tiny_images(), config=config, seed=seed).model
        for config, seed in ((numpy, np.int64(3)), (python, 3))
    )
    assert same(one, other)
    model, recipe = tiny_network(), Recipe(epochs=np.int64(2), batch_size=np.int64(8))
    fit(model, tiny_images(), recipe, seed=np.int64(1), checkpoint=tmp_path / "training.pt")
    for name, run in RUNS.items():
        run(tiny_network(), tiny_images(), seed=np.int32(1)), name


def test_more_images_than_fit_into_memory_are_refused():
    with pytest.raises(ValueError, match="epoch_images: at most 100,000,000.*1,000,000,000,000"):
        FineTuningConfig(epoch_images=10**12)
    config = IBAU(rounds=1, sets=(L2Ball(1.0),), round_images=10**12)
    with pytest.raises(ValueError, match=r"at most 100,000,000 .*1,000,000,000,000"):
        ibau(tiny_network(), tiny_images(), config=config)
