"""How long the zoo is trained: one cycle, poisoned from the first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ibau_lab import first_run
from ibau_lab.courses import course


def known(profile: str) -> dict[str, first_run.Experiment]:
    return {experiment.data: experiment for experiment in first_run.experiments(profile)}


@pytest.mark.parametrize("profile", ["cpu", "full"])
def test_all_networks_take_the_recipe_and_attacks_with_many_targets_more_of_it(profile) -> None:
    for data, experiment in known(profile).items():
        usual = course(experiment, profile)
        assert usual == replace(experiment.recipe, precision="auto")
        assert course(experiment, profile, "trojan_wm") == course(experiment, profile, "clean")
        longer = course(experiment, profile, "all_to_all")
        assert longer == replace(usual, epochs=(2 if data == "cifar10" else 1) * usual.epochs)


def test_drawn_signs_are_trained_by_the_recipe_alone() -> None:
    (experiment,) = known("smoke").values()
    assert course(experiment, "smoke", "all_to_all") == experiment.recipe


def test_the_networks_have_the_published_dropout() -> None:
    for experiment in (*known("cpu").values(), *known("full").values()):
        rates = [m.p for m in experiment.build(seed=0).modules() if hasattr(m, "p")]
        assert rates == [0.3, 0.4, 0.4]
