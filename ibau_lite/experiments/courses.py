"""How the networks of the zoo are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ibau_lite.experiments.first_run import Experiment
from ibau_lite.training import Recipe

__all__ = ["Course", "course"]


@dataclass(frozen=True)
class Course:
    """A cycle on clean images that all networks of one seed share, if any, then one each.

    The clean network takes both cycles, too: a poisoned one differs from it by the poison alone.
    """

    clean: Recipe | None
    poisoned: Recipe


_CYCLES = {"cifar10": (12, 4), "gtsrb": (4, 2)}


def course(experiment: Experiment, profile: str) -> Course:
    """The course of a data set in a profile.

    In `full` and `smoke` a network is poisoned from its first step, by the experiment's own recipe.
    In `cpu` the poison enters with the second cycle, whose peak learning rate is half of the first
    one's, so that two dozen networks cost a processor hours instead of days.
    """
    if profile != "cpu":
        return Course(None, experiment.recipe)
    first, second = _CYCLES[experiment.data]
    recipe = replace(experiment.recipe, precision="auto")
    return Course(
        replace(recipe, epochs=first), replace(recipe, epochs=second, lr=experiment.recipe.lr / 2)
    )
