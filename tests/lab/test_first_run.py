from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ibau_lab import Victim, describe, first_run, read
from ibau_lab.first_run import PROFILES, Row, cells, experiments
from ibau_lite.data import Dataset
from ibau_lite.defenses import IBAU, REGISTRY, FineTuningConfig


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_the_same_rows_cheap_ones_first(profile: str) -> None:
    for experiment in experiments(profile):
        labels = [row.label for row in experiment.rows]
        assert labels == ["fine-tuning", "naive", "I-BAU", "I-BAU released"]
        assert all(row.defense in REGISTRY for row in experiment.rows)
        assert [describe(row.config)["kind"] for row in experiment.rows]


@pytest.mark.parametrize("profile", ["cpu", "full"])
def test_photographs_of_things_are_mirrored_and_signs_are_not(profile: str) -> None:
    cifar10, gtsrb = experiments(profile)
    assert [experiment.data for experiment in (cifar10, gtsrb)] == ["cifar10", "gtsrb"]
    assert cifar10.recipe.flip and cifar10.rows[0].config.flip
    assert not gtsrb.recipe.flip and not gtsrb.rows[0].config.flip
    assert gtsrb.rows[3].config.inner.clamp and not cifar10.rows[3].config.inner.clamp
    assert len(cifar10.seeds) == len(gtsrb.seeds) == 3


def test_i_bau_has_its_default_settings_and_naive_the_same() -> None:
    for experiment in (*experiments("smoke"), *experiments("cpu")):
        by_label = {row.label: row for row in experiment.rows}
        naive, ibau = by_label["naive"], by_label["I-BAU"]
        assert naive.config == ibau.config == IBAU() and naive.defense != ibau.defense


def test_fine_tuning_sees_as_many_images_as_i_bau() -> None:
    recipe = IBAU()
    for experiment in experiments("cpu"):
        tuned = experiment.rows[0].config
        assert tuned.epochs * tuned.epoch_images == recipe.rounds * recipe.round_images


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="smoke, cpu, full, got 'gpu'"):
        experiments("gpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, poisoned: Victim) -> None:
    """The command line on data that take a moment."""
    rows = (
        Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=1, shift=0)),
        Row("naive", "naive", IBAU(rounds=1, shift=0)),
    )
    shades = replace(experiments("smoke")[0], data="shades", rows=rows, seeds=(0, 1), target=1)
    monkeypatch.setattr(first_run, "experiments", lambda profile: (shades,))
    monkeypatch.setattr(first_run.Experiment, "load", lambda self: dataset)
    monkeypatch.setattr(first_run.Experiment, "victim", lambda self, data, progress: poisoned)


def test_all_cells_are_recorded_seed_by_seed_and_not_run_again(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    assert first_run.main(["--results", str(path)]) == 0
    done = [(record["seed"], record["defense"]) for record in read(path)]
    assert done == [(0, "fine-tuning"), (0, "naive"), (1, "fine-tuning"), (1, "naive")]
    assert "naive" in capsys.readouterr().out
    assert first_run.main(["--results", str(path)]) == 0
    assert len(read(path)) == 4


def test_only_chosen_rows_are_run(small: None, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert first_run.main(["--results", str(path), "--only", "naive", "--data", "shades"]) == 0
    assert [record["defense"] for record in read(path)] == ["naive", "naive"]


def test_unknown_rows_and_data_are_refused_before_anything_runs(
    small: None, dataset: Dataset, poisoned: Victim, tmp_path: Path
) -> None:
    (experiment,) = first_run.experiments("smoke")
    with pytest.raises(ValueError, match="no row prayer; the rows are fine-tuning, naive"):
        next(cells(experiment, dataset, poisoned, profile="smoke", only=["prayer"]))
    with pytest.raises(SystemExit):
        first_run.main(["--data", "imagenet", "--results", str(tmp_path / "r.jsonl")])
