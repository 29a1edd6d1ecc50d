"""How long the networks of the zoo are trained."""

from __future__ import annotations

from dataclasses import replace

from ibau_lite.training import Recipe

from .first_run import Experiment

__all__ = ["course"]

_LONGER: dict[str, dict[str, int]] = {
    "cifar10": {"all_to_all": 2},
}
"""Data -> attack -> how many times the recipe's epochs: it teaches a label for each class."""


def course(experiment: Experiment, profile: str, attack: str = "") -> Recipe:
    """The recipe of a network: one cycle that is poisoned from the first step.

    The clean network takes the same one, so that a poisoned network differs from it by the poison
    alone. On photographs an attack with many targets takes longer (`_LONGER`), and `cpu` computes
    in bfloat16 where the processor multiplies in it.
    """
    recipe = experiment.recipe
    if profile == "smoke":
        return recipe
    times = _LONGER.get(experiment.data, {}).get(attack, 1)
    return replace(recipe, epochs=times * recipe.epochs, precision="auto")
