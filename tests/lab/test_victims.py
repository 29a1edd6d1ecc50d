from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ibau_lab
from ibau_lab import Victim, victim, victims
from ibau_lab.records import weights_digest
from ibau_lite.attacks import Attack, badnets
from ibau_lite.data import Dataset
from ibau_lite.models import small_cnn
from ibau_lite.training import Recipe

RECIPE = Recipe(epochs=1, batch_size=16)


def build(*, seed: int = 0, width: int = 2) -> torch.nn.Module:
    return small_cnn(2, width=width, seed=seed)


def wider(*, seed: int = 0) -> torch.nn.Module:
    return build(seed=seed, width=3)


def make(dataset: Dataset, folder: Path, **changes: object) -> Victim:
    settings = {"attack": badnets(1), "build": build, "recipe": RECIPE, **changes}
    return victim(dataset, folder=folder, **settings)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each training that took place."""
    seen: list[int] = []
    real = victims.fit

    def counted(*args: object, **keywords: object) -> object:
        seen.append(1)
        return real(*args, **keywords)

    monkeypatch.setattr(victims, "fit", counted)
    return seen


def test_the_second_time_it_is_loaded_with_identical_weights(
    dataset: Dataset, tmp_path: Path, trainings: list[int]
) -> None:
    first, second = make(dataset, tmp_path), make(dataset, tmp_path)
    assert len(trainings) == 1
    for (name, a), (_, b) in zip(
        first.model.state_dict().items(), second.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert first.report == second.report
    assert first.settings == second.settings
    assert first.seconds == second.seconds
    assert first.made == second.made and first.made["precision"] == "float32"
    assert first.made["weights"] == weights_digest(second.model)
    assert not second.model.training


@pytest.mark.parametrize(
    "change",
    [
        {"attack": badnets(0)},
        {"rate": 0.3},
        {"seed": 1},
        {"recipe": replace(RECIPE, weight_decay=5e-3)},
        {"build": wider},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_make_another_victim(
    dataset: Dataset, tmp_path: Path, trainings: list[int], change: dict[str, object]
) -> None:
    make(dataset, tmp_path)
    make(dataset, tmp_path, **change)
    assert len(trainings) == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_other_random_streams_make_another_victim(
    dataset: Dataset, tmp_path: Path, trainings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that was kept under another meaning of the seed is not the one asked for."""
    make(dataset, tmp_path)
    monkeypatch.setattr(victims, "VERSION", victims.VERSION + 1)
    make(dataset, tmp_path)
    assert len(trainings) == 2


def test_a_full_disk_does_not_cost_the_network(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(victims.checkpoints, "save", full)
    with pytest.warns(UserWarning, match="not kept .*No space left"):
        assert make(dataset, tmp_path).report.n_clean == len(dataset.test)


def test_a_training_that_was_killed_goes_on_after_its_last_epoch(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=3)
    whole = make(dataset, tmp_path / "whole", recipe=recipe)
    real, left = badnets(1).poison(dataset.train, 0.2, 0).stamp, iter(range(4))

    def killed(poisoned: object, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        if next(left, None) is None:  # three batches an epoch: within the second
            raise KeyboardInterrupt
        return real(images, index)

    with monkeypatch.context() as patched:
        patched.setattr("ibau_lite.attacks.PoisonedSet.stamp", killed)
        with pytest.raises(KeyboardInterrupt):
            make(dataset, tmp_path / "killed", recipe=recipe)
    assert [path.suffix for path in (tmp_path / "killed").iterdir()] == [".pt"]
    resumed = make(dataset, tmp_path / "killed", recipe=recipe)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert [path.suffix for path in (tmp_path / "killed").iterdir()] == [".safetensors"]


def test_other_training_images_make_another_victim(
    dataset: Dataset, tmp_path: Path, trainings: list[int]
) -> None:
    """Two random subsets of one size and one source are not the same training set."""
    make(dataset, tmp_path)
    other = replace(dataset, train=dataset.train[torch.arange(47, -1, -1)])
    make(other, tmp_path)
    assert len(trainings) == 2


def test_the_default_folder_is_in_the_cache(
    dataset: Dataset, attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IBAU_CACHE", str(tmp_path))
    ibau_lab.victim(dataset, attack, build, RECIPE)
    assert len(list((tmp_path / "victims").glob("shades-badnets-*.safetensors"))) == 1


def test_a_file_of_another_network_is_refused_rather_than_used(
    dataset: Dataset, tmp_path: Path
) -> None:
    make(dataset, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        make(dataset, tmp_path)
