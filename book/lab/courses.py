"""How the networks of the zoo are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ibau_lite.training import Recipe

from .first_run import Experiment

__all__ = ["Course", "course"]


@dataclass(frozen=True)
class Course:
    """A cycle on clean images that all networks of one seed share, if any, then one (or more) each.

    The clean network takes both cycles, too: a poisoned one differs from it by the poison alone.
    """

    clean: Recipe | None
    poisoned: Recipe | tuple[Recipe, ...]

    @property
    def cycles(self) -> tuple[Recipe, ...]:
        """Those with the poison, one after the other."""
        return (self.poisoned,) if isinstance(self.poisoned, Recipe) else self.poisoned

    @property
    def epochs(self) -> int:
        """How often the poisoned images are seen."""
        return sum(cycle.epochs for cycle in self.cycles)


_CPU: dict[str, dict[str, tuple[int, tuple[int, ...], float]]] = {
    "cifar10": {
        "": (12, (4,), 0.5),
        "all_to_all": (12, (50, 70), 1.0),
        "seven_to_seven": (12, (10,), 1.0),
    },
    "gtsrb": {"": (0, (12,), 1.0), "all_to_all": (0, (6,), 1.0), "badnets": (0, (18,), 1.0)},
}
"""Data -> attack ("": any other) -> epochs on clean images, then of each cycle with the poison, and
at what fraction of the recipe's peak learning rate."""


def course(experiment: Experiment, profile: str, attack: str = "") -> Course:
    """The course of a data set in a profile: by the experiment's own recipe, poisoned from step 1.

    But for real images in `cpu`. There CIFAR-10's poison enters with a second cycle, so that a
    dozen networks cost hours instead of days; all-to-all and seven triggers, which have a label for
    each class to learn, take a longer one (all-to-all: ASR 57.8 % after 4 epochs and 69.8 % after
    10 at half of the rate, 75.3 % after 20 and 78.5 % after 50 at the whole, and 80.8 % after 70
    more in a third cycle). GTSRB's networks are poisoned from step 1, and the poison takes twice
    the recipe's epochs: BadNets has ACC 96.0 % after 6, 96.7 % after a second cycle of 6, and
    97.6 % after 12 in one cycle. All-to-all has 98.1 % after 6; BadNets loses most and takes 18
    (98.0 %).

    The figures are in `book/results/courses.jsonl` and `zoo.jsonl`.
    """
    if profile != "cpu" or experiment.data not in _CPU:
        return Course(None, experiment.recipe)
    rows = _CPU[experiment.data]
    first, second, peak = rows.get(attack, rows[""])
    recipe = replace(experiment.recipe, precision="auto")
    clean = replace(recipe, epochs=first) if first else None
    cycles = tuple(replace(recipe, epochs=epochs, lr=peak * recipe.lr) for epochs in second)
    return Course(clean, cycles[0] if len(cycles) == 1 else cycles)
