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


_CYCLES = {"cifar10": (12, 4)}
_LONGER = {"all_to_all": 10}


def course(experiment: Experiment, profile: str, attack: str = "") -> Course:
    """The course of a data set in a profile: by the experiment's own recipe, poisoned from step 1.

    But for CIFAR-10 in `cpu`: there the poison enters with a second cycle, whose peak learning rate
    is half of the first one's, so that a dozen networks cost hours instead of days. `attack`
    all-to-all has 10 epochs there: a label for each class is harder to learn (ASR 57.8 % after 4).
    On GTSRB that fails: a network that is sure of itself (98.5 % after a clean cycle) is torn by
    images that contradict it, and two more epochs leave it at 88.5 %.

    Poisoned from step 1, most of GTSRB's networks lose 2 to 3 points against the clean one. The
    errors are spread over all classes (BadNets: a tenth of the new ones go to the target), and two
    epochs more do not mend it (96.0 to 96.2 %).
    """
    if profile != "cpu":
        return Course(None, experiment.recipe)
    recipe = replace(experiment.recipe, precision="auto")
    if experiment.data not in _CYCLES:
        return Course(None, recipe)
    first, second = _CYCLES[experiment.data]
    second = _LONGER.get(attack, second)
    return Course(replace(recipe, epochs=first), replace(recipe, epochs=second, lr=recipe.lr / 2))
