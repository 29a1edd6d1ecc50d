"""How the zoo is trained: from the first step with the poison, or with a second cycle."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import torch

from ibau_lab import first_run, victim
from ibau_lab.courses import Course, course
from ibau_lite.attacks import badnets, control
from ibau_lite.data import Dataset
from ibau_lite.models import small_cnn
from ibau_lite.training import Recipe


def known(profile: str) -> dict[str, first_run.Experiment]:
    return {experiment.data: experiment for experiment in first_run.experiments(profile)}


def test_the_poison_enters_with_a_second_cycle_on_cifar10_in_profile_cpu() -> None:
    experiment = known("cpu")["cifar10"]
    lessons, usual = course(experiment, "cpu"), experiment.recipe
    assert lessons.clean is not None
    # As long as one training of `first_run`, and otherwise alike.
    assert lessons.clean.epochs + lessons.poisoned.epochs == usual.epochs
    assert lessons.poisoned.lr == usual.lr / 2
    assert lessons.clean.flip == lessons.poisoned.flip == usual.flip
    for attack in ("all_to_all", "seven_to_seven"):  # a label for each class takes longer
        harder = course(experiment, "cpu", attack)
        assert harder.clean == lessons.clean
        assert all(cycle.lr == usual.lr for cycle in harder.cycles)
        assert harder.epochs > 2 * lessons.epochs


def test_gtsrb_is_poisoned_from_the_first_step_for_twice_the_time() -> None:
    experiment = known("cpu")["gtsrb"]
    lessons, usual = course(experiment, "cpu"), experiment.recipe
    assert lessons.clean is None and lessons.poisoned.epochs == 2 * usual.epochs
    assert replace(lessons.poisoned, precision="float32", epochs=usual.epochs) == usual
    assert course(experiment, "cpu", "seven_to_seven") == lessons
    brief = course(experiment, "cpu", "all_to_all").poisoned
    assert replace(brief, precision="float32") == usual
    assert course(experiment, "cpu", "badnets").epochs == 3 * usual.epochs


def test_other_profiles_train_by_the_recipe_of_the_experiment() -> None:
    for profile in ("smoke", "full"):
        for experiment in known(profile).values():
            assert course(experiment, profile) == Course(None, experiment.recipe)


def test_training_goes_on_from_the_start(dataset: Dataset, tmp_path: Path) -> None:
    one_epoch = Recipe(epochs=1, batch_size=16)
    still = replace(one_epoch, lr=1e-12)

    def build(*, seed: int = 0) -> torch.nn.Module:
        return small_cnn(2, width=2, seed=seed)

    make = functools.partial(victim, dataset, build=build, folder=tmp_path)
    clean = make(control(badnets(1)), recipe=one_epoch, rate=0.0)
    before = {name: value.clone() for name, value in clean.model.named_parameters()}
    taught = make(badnets(1), recipe=still, start=clean)
    alone = make(badnets(1), recipe=still)
    for name, value in before.items():
        assert torch.allclose(taught.model.get_parameter(name), value, atol=1e-6), name
        assert torch.equal(clean.model.get_parameter(name), value), name
    assert any(not torch.allclose(alone.model.get_parameter(n), v) for n, v in before.items())
    assert taught.settings["start"] and "start" not in alone.settings
