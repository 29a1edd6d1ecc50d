"""The training loop: the same seed gives the same bits, and stamping comes last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ibau_lite import models
from ibau_lite.attacks import badnets
from ibau_lite.data import LabelledImages
from ibau_lite.metrics import evaluate
from ibau_lite.testing import tiny_images, tiny_network
from ibau_lite.training import Recipe, _optimizer, augment, fit, shuffled_positions

CLASSES = 4


def bright_bands(count: int = 96, seed: int = 0, size: int = 12) -> LabelledImages:
    """Noise with one bright band of rows, whose height is the class: learnt in seconds."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 * torch.rand(count, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += 0.5
    return LabelledImages(images, labels)


class WithDropout(nn.Module):
    """Convolution, batch normalisation and dropout: each thing a seed must govern."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()
            )
            self.head = nn.Linear(400, CLASSES)

    def forward(self, images):
        return self.head(self.body(images))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True, eq=False)
class Changed:
    """A training set whose batches are changed after their augmentation."""

    clean: LabelledImages
    stamp: Callable

    @property
    def base(self):
        return self.clean.images

    @property
    def labels(self):
        return self.clean.labels


QUICK = Recipe(epochs=2, batch_size=16, lr=0.05, flip=True, shift=1)


def test_the_same_seed_gives_the_same_bits():
    data = bright_bands()
    runs = []
    for disturbance, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(disturbance)  # the global state must not matter
        model = WithDropout()
        history = fit(model, data, QUICK, seed=seed)
        runs.append((weights(model), [row["loss"] for row in history]))
    assert same(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


def test_the_global_random_state_and_the_data_are_untouched():
    data = bright_bands()
    images, labels, state = data.images.clone(), data.labels.clone(), torch.get_rng_state()
    fit(WithDropout(), Changed(data, lambda x, _: x.mul_(0.5)), QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.images, images) and torch.equal(data.labels, labels)


@pytest.mark.parametrize(("count", "total"), [(5, 5), (5, 3), (3, 10), (1, 4)])
def test_reshuffled_meets_all_before_any_again(count, total):
    order = shuffled_positions(count, total, torch.Generator().manual_seed(1))
    assert len(order) == total
    for start in range(0, total, count):
        part = order[start : start + count].tolist()
        assert len(set(part)) == len(part) and set(part) <= set(range(count))
    first = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    assert torch.equal(order[:count], first[:total])


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16", None])
def test_auto_is_bfloat16_where_the_processor_multiplies_in_it(feature, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True}, raising=False)
    data, trained = bright_bands(), {}
    for precision in ("auto", "float32", "bfloat16"):
        model = WithDropout()
        recipe = replace(QUICK, precision=precision, compile=False)
        fit(model, data, recipe)
        trained[precision] = weights(model)
    assert same(trained["auto"], trained["bfloat16" if feature else "float32"])
    assert not same(trained["float32"], trained["bfloat16"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(precision):
    train, test = bright_bands(256), bright_bands(200, seed=1)
    model = WithDropout()
    recipe = Recipe(epochs=6, batch_size=32, lr=0.05, precision=precision, compile=False)
    history = fit(model, train, recipe)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9
    assert (model(test.images).argmax(1) == test.labels).float().mean() > 0.95
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_the_learning_rate_rises_and_falls_to_nothing():
    data, recipe = bright_bands(), Recipe(epochs=5, batch_size=16, lr=0.05, warmup=0.4)
    rates = [row["lr"] for row in fit(WithDropout(), data, recipe)]
    assert max(rates) == rates[1] and rates[1] == pytest.approx(0.05, rel=0.05)
    assert rates[-1] < 1e-3


def test_stamping_comes_after_augmentation_and_knows_whom_it_stamps():
    train = bright_bands(64)
    poisoned = badnets(0).poison(train, 0.3)
    members = set(poisoned.indices.tolist())
    seen: list[int] = []

    def after(images, index):
        stamped = poisoned.stamp(images, index)
        for image, position in zip(stamped, index.tolist(), strict=True):
            white = bool((image[:, 7:11, 7:11] == 1).all())
            assert white == (position in members)
        seen.extend(index.tolist())
        return stamped

    fit(WithDropout(), Changed(LabelledImages(poisoned.base, poisoned.labels), after), QUICK)
    assert sorted(seen) == sorted(2 * list(range(64)))  # two epochs, each image once in each


def test_the_network_sees_what_stamp_returns_and_nothing_moved_since():
    train, seen = bright_bands(32), []

    class Watching(WithDropout):
        def forward(self, images):
            if self.training:  # not the one look at the logits before it
                seen.append(images.clone())
            return super().forward(images)

    mark = torch.zeros(3, 12, 12)
    mark[:, 0, 0] = 1  # a flip or a shift after this would move it
    fit(Watching(), Changed(train, lambda x, _: 0 * x + mark), QUICK)
    assert len(seen) == 4 and all(torch.equal(batch, mark.expand(16, -1, -1, -1)) for batch in seen)


def test_a_backdoor_is_learnt_beside_the_task():
    train, test, attack = bright_bands(320), bright_bands(200, seed=1), badnets(3)
    poisoned = attack.poison(train, 0.2)
    model = WithDropout()
    recipe = Recipe(epochs=8, batch_size=32, lr=0.05, flip=True)
    fit(model, poisoned, recipe)
    report = evaluate(model, test, attack)
    assert report.accuracy > 0.95 and report.attack_success_rate > 0.95
    clean = WithDropout()
    fit(clean, train, recipe)
    assert evaluate(clean, test, attack).attack_success_rate < 0.3


def test_flip_and_shift_are_flips_and_shifts():
    images = torch.rand(40, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    flipped = augment(images, generator, flip=True, shift=0)
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all() and 8 < kept.sum() < 32

    moved = augment(images, generator, flip=False, shift=2)
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    moves = set()
    for before, after in zip(padded, moved, strict=True):
        (where,) = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if torch.equal(before[:, i : i + 6, j : j + 6], after)
        ]
        moves.add(where)
    assert {i for i, _ in moves} == {j for _, j in moves} == set(range(5))
    assert augment(images, generator, flip=False, shift=0) is images


def test_the_bar_is_shown_only_when_asked_for(capsys):
    data = bright_bands(32)
    fit(WithDropout(), data, QUICK)
    assert capsys.readouterr() == ("", "")
    fit(WithDropout(), data, QUICK, progress=True)
    assert "4/4" in capsys.readouterr().err


def test_more_images_in_a_batch_than_there_are():
    data = bright_bands(10)
    assert len(fit(WithDropout(), data, Recipe(epochs=1, batch_size=64))) == 1


def test_channels_last_gives_the_same_network():
    data = bright_bands(64)
    results = []
    for channels_last in (False, True):
        model = WithDropout()
        model.body[3].p = 0.0  # dropout draws its mask in the order of the memory
        recipe = Recipe(epochs=1, batch_size=16, lr=0.01, channels_last=channels_last)
        fit(model, data, recipe)
        results.append(weights(model))
    assert all(torch.allclose(results[0][k], results[1][k], atol=1e-4) for k in results[0])


def test_a_run_that_diverges_says_so():
    data = bright_bands()
    model = models.mlp(3 * 12 * 12, (64, 64), CLASSES)
    with pytest.raises(FloatingPointError, match="lower Recipe.lr"):
        fit(model, data, Recipe(epochs=3, batch_size=8, lr=1e6))


@pytest.mark.parametrize(
    ("train", "error", "says"),
    [
        (torch.zeros(4, 3, 12, 12), TypeError, "LabelledImages.*got Tensor"),
        (bright_bands()[:0], ValueError, "empty"),
        (bright_bands(size=3), ValueError, "shift must be below the image size 3"),
        (
            LabelledImages(torch.zeros(4, 3, 12, 12), torch.full((4,), 4)),
            ValueError,
            "classes 0 to 3",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_training(train, error, says):
    model = WithDropout()
    before = weights(model)
    with pytest.raises(error, match=says):
        fit(model, train, replace(QUICK, shift=3))
    assert same(weights(model), before) and model.training


class Stopped(Exception):
    pass


def stopping_at(batch: int) -> Callable:
    """A `stamp` that does nothing, and fails at a batch of the whole training."""
    calls = iter(range(1_000))

    def stamp(images, index):
        if next(calls) == batch:
            raise Stopped
        return images

    return stamp


@pytest.mark.parametrize("at", [3, 6, 13, 17])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(at, tmp_path):
    """Six batches an epoch: stopped in the first, as the second begins, and twice in the third."""
    data, recipe = bright_bands(), replace(QUICK, epochs=3)
    whole, halted, file = WithDropout(), WithDropout(), tmp_path / "networks" / "training.pt"
    expected = fit(whole, data, recipe, seed=3)
    with pytest.raises(Stopped):
        fit(halted, Changed(data, stopping_at(at)), recipe, seed=3, checkpoint=file)
    assert file.exists() == (at >= 6)
    resumed = WithDropout()  # as another process would begin
    torch.manual_seed(at)
    history = fit(resumed, data, recipe, seed=3, checkpoint=file)
    assert same(weights(resumed), weights(whole))
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]
    assert not list(tmp_path.rglob("*.pt*"))


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"stage": 1}, {"recipe": replace(QUICK, epochs=3, lr=0.01)}, {"train": 64}],
)
def test_the_checkpoint_of_another_training_is_refused(other, tmp_path):
    data, recipe, file = bright_bands(), replace(QUICK, epochs=3), tmp_path / "training.pt"
    with pytest.raises(Stopped):
        fit(WithDropout(), Changed(data, stopping_at(13)), recipe, seed=3, checkpoint=file)
    with pytest.raises(ValueError, match="checkpoint of another training"):
        fit(
            WithDropout(),
            data[: other.get("train", 96)],
            other.get("recipe", recipe),
            seed=other.get("seed", 3),
            stage=other.get("stage", 0),
            checkpoint=file,
        )


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x04N."])
def test_a_damaged_checkpoint_is_refused_in_our_words(content, tmp_path):
    file = tmp_path / "training.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a checkpoint of `fit`, or damaged") as refused:
        fit(WithDropout(), bright_bands(), QUICK, checkpoint=file)
    assert "weights_only" not in str(refused.value)


def test_each_stage_of_a_training_draws_numbers_of_its_own():
    ends = []
    for stage in (0, 1):
        network = WithDropout()
        fit(network, bright_bands(), QUICK, stage=stage)
        ends.append(weights(network))
    assert not same(*ends)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"precision": "float16"}, "precision"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": 0.0}, "warmup"),
        ({"warmup": 1.0}, "warmup"),
        ({"shift": -1}, "shift"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(setting, says):
    with pytest.raises(ValueError, match=says):
        Recipe(**setting)


def test_float64_and_lazy_networks_are_trained():
    data = bright_bands()
    recipe = Recipe(epochs=1, batch_size=32)
    network = models.small_cnn(4, width=4).double()
    before = [p.clone() for p in network.parameters()]
    fit(network, data, recipe)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    fit(lazy, data, recipe)  # its weights are made by the first look at logits
    assert all(not p.is_inference() for p in lazy.parameters())


def test_momentum_is_the_one_that_is_stated():
    """At 0.9 the schedule's own: from 0.95 down to 0.85 and up again; at 0 there is none."""
    data, ends = bright_bands(), {}
    for momentum in (0.0, 0.5, 0.9):
        network = models.small_cnn(4, width=4)
        recipe = Recipe(epochs=1, batch_size=32, momentum=momentum)
        fit(network, data, recipe)
        ends[momentum] = weights(network)
    assert not same(ends[0.5], ends[0.9]) and not same(ends[0.0], ends[0.5])
    network = models.small_cnn(4, width=4)
    (group,) = _optimizer(network, Recipe(), 10)[0].param_groups
    assert (group["max_momentum"], group["base_momentum"]) == (0.95, 0.85)
    (group,) = _optimizer(network, Recipe(momentum=0.0), 10)[0].param_groups
    assert group["momentum"] == 0 and not group["nesterov"]


@pytest.mark.parametrize(("count", "warmup"), [(32, 0.5), (96, 0.25), (128, 0.2)])
def test_a_rise_shorter_than_a_step_is_no_division_by_zero(count, warmup):
    data = bright_bands(count)
    recipe = Recipe(epochs=1, batch_size=32, warmup=warmup)
    fit(models.small_cnn(4, width=4), data, recipe)


def test_a_refusal_leaves_the_modes_as_they_were():
    data, network = bright_bands(), models.small_cnn(2, width=4).train()
    network[1].eval()
    with pytest.raises(ValueError, match="classes 0 to 1"):
        fit(network, data)
    assert network.training and not network[1].training


@pytest.mark.parametrize("labels", [torch.full((24,), 0.7), torch.zeros(24, 4, dtype=torch.int64)])
def test_labels_that_are_no_classes_are_refused(labels):
    class Odd:
        base = tiny_images().images
        stamp = staticmethod(lambda images, index: images)

    Odd.labels = labels
    with pytest.raises(ValueError, match=r"labels must be int64, got|labels \[N\] are expected"):
        fit(tiny_network(), Odd(), Recipe(epochs=1))
