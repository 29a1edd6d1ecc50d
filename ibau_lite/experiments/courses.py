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
_HARDER = {"all_to_all": 20, "seven_to_seven": 10}
_FROM_STEP_1 = {"gtsrb": {"all_to_all": 6, "": 12}}


def course(experiment: Experiment, profile: str, attack: str = "") -> Course:
    """The course of a data set in a profile: by the experiment's own recipe, poisoned from step 1.

    But for `cpu`. There CIFAR-10's poison enters with a second cycle, whose peak learning rate is
    half of the first one's, so that a dozen networks cost hours instead of days; all-to-all and
    seven triggers, which have a label for each class to learn, take a longer one at the full rate
    (all-to-all at half of it: ASR 57.8 % after 4 epochs, 69.8 % after 10).
    On GTSRB that fails: a network that is sure of itself (98.5 % after a clean cycle) is torn by
    images that contradict it, and two more epochs leave it at 88.5 %. Its networks are poisoned
    from step 1, and the poison takes twice the time: BadNets has ACC 96.0 % after 6 epochs, 96.7 %
    after a second cycle of 6, and 97.6 % after 12 in one cycle. All-to-all has 98.1 % after 6.
    """
    if profile != "cpu":
        return Course(None, experiment.recipe)
    recipe = replace(experiment.recipe, precision="auto")
    if experiment.data not in _CYCLES:
        epochs = _FROM_STEP_1.get(experiment.data, {"": recipe.epochs})
        return Course(None, replace(recipe, epochs=epochs.get(attack, epochs[""])))
    first, second = _CYCLES[experiment.data]
    clean = replace(recipe, epochs=first)
    if attack in _HARDER:
        return Course(clean, replace(recipe, epochs=_HARDER[attack]))
    return Course(clean, replace(recipe, epochs=second, lr=recipe.lr / 2))
