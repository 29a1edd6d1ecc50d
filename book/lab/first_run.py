"""The book's first run: BadNets against fine-tuning, the naive minimax and I-BAU, on real images.

    python -m ibau_lab.first_run --profile cpu --results book/results/first_run.jsonl

Chapter 7 calls the same functions, so that a page and a record are one experiment. A profile
changes sizes only. What is in the results file already is not run again, so a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ibau_lite import checkpoints
from ibau_lite.attacks import Attack, badnets
from ibau_lite.data import Dataset, load
from ibau_lite.defenses import IBAU, FineTuningConfig
from ibau_lite.models import small_cnn, small_vgg
from ibau_lite.training import Recipe

from .cells import line, run
from .victims import Victim, victim

__all__ = ["PROFILES", "Experiment", "Row", "cells", "experiments", "main"]

PROFILES = ("smoke", "cpu", "full")


@dataclass(frozen=True)
class Row:
    """A row of the table: its label, and a defence of `defenses.REGISTRY` with its settings."""

    label: str
    defense: str
    config: Any


@dataclass(frozen=True)
class Experiment:
    """One data set: the network to poison, how it is trained, and who defends it with which seeds.

    `build(seed=…)` makes the untrained network. The rows are in order of what they cost. `train`
    and `test` keep the first so many images of those parts (None: all).
    """

    data: str
    build: Callable[..., nn.Module]
    recipe: Recipe
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    target: int = 8
    rate: float = 0.2
    train: int | None = None
    test: int | None = None

    @property
    def attack(self) -> Attack:
        """BadNets: a white 4×4 square that means class `target`."""
        return badnets(self.target)

    def load(self) -> Dataset:
        """The data, in the four disjoint parts of `data.load`."""
        dataset = load(self.data)
        return replace(dataset, train=dataset.train[: self.train], test=dataset.test[: self.test])

    def victim(self, dataset: Dataset, *, progress: bool = False) -> Victim:
        """The poisoned network: trained, or loaded if it was trained before."""
        return victim(
            dataset, self.attack, self.build, self.recipe, rate=self.rate, progress=progress
        )

    def network(self, dataset: Dataset, path: Path | None = None) -> nn.Module:
        """The poisoned network on the CPU, in evaluation mode: from a file, or the victim's."""
        if path is None:
            return self.victim(dataset, progress=True).model.cpu()
        model: nn.Module = self.build(seed=0)
        checkpoints.load(path, model)
        return model.eval()


def experiments(profile: str = "smoke") -> tuple[Experiment, ...]:
    """The experiments of a profile: drawn signs in `smoke`, CIFAR-10 and GTSRB in `cpu` and `full`.

    The networks have the paper's dropout. `full` trains them for 50 epochs, `cpu` for as long as it
    takes to come near that.
    Raises `ValueError` for another profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    if profile == "smoke":
        recipe = Recipe(epochs=8, shift=2, weight_decay=5e-3)
        return (
            Experiment(
                "signs",
                functools.partial(small_cnn, 12, width=12),
                recipe,
                _rows(),
                seeds=(0,),
                train=4000,
                test=600,
            ),
        )
    full = profile == "full"
    return (
        Experiment(
            "cifar10",
            functools.partial(small_vgg, 10),
            Recipe(epochs=50 if full else 30, flip=True, shift=2, warmup=0.2, lr=0.1),
            _rows(flip=True),
        ),
        Experiment(
            "gtsrb",
            functools.partial(small_vgg, 43),
            Recipe(epochs=50 if full else 15, shift=2, warmup=0.2, lr=0.1),
            _rows(gtsrb=True),
        ),
    )


def _rows(*, flip: bool = False, gtsrb: bool = False) -> tuple[Row, ...]:
    """The rows; the published code gets two rounds."""
    return (
        Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=2, epoch_images=5000, flip=flip)),
        Row("naive", "naive", IBAU()),
        Row("I-BAU", "ibau", IBAU()),
        Row("I-BAU released", "ibau", IBAU.released(gtsrb=gtsrb, rounds=2)),
    )


def cells(
    experiment: Experiment,
    dataset: Dataset,
    poisoned: Victim,
    *,
    profile: str,
    results: str | Path | None = None,
    only: Sequence[str] | None = None,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run seed after seed, and for each the rows in order; yield the record of each cell.

    `only` keeps the rows of these labels. Raises `ValueError` for a label that is not there.
    """
    labels = [row.label for row in experiment.rows]
    unknown = sorted(set(only or ()) - set(labels))
    if unknown:
        raise ValueError(f"there is no row {', '.join(unknown)}; the rows are {', '.join(labels)}")
    for seed in experiment.seeds:
        for row in experiment.rows:
            if only and row.label not in only:
                continue
            yield run(
                dataset,
                experiment.attack,
                poisoned,
                row.defense,
                row.config,
                seed=seed,
                label=row.label,
                profile=profile,
                results=results,
                progress=progress,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiments of a profile from the command line, one printed line a cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    parser.add_argument("--results", type=Path, default=Path("results/first_run.jsonl"))
    parser.add_argument("--data", help="only these data sets, separated by commas")
    parser.add_argument("--only", help="only these rows, by label, separated by semicolons")
    choice = parser.parse_args(arguments)
    chosen = choice.data.split(",") if choice.data else None
    only = choice.only.split(";") if choice.only else None
    known = experiments(choice.profile)
    unknown = sorted(set(chosen or ()) - {experiment.data for experiment in known})
    if unknown:
        parser.error(f"profile {choice.profile} has no data set {', '.join(unknown)}")
    for experiment in known:
        if chosen and experiment.data not in chosen:
            continue
        dataset = experiment.load()
        print(f"{dataset.source}: {len(dataset.train):,} images to train on", flush=True)
        poisoned = experiment.victim(dataset, progress=True)
        print(f"{'no defence':<16}        {poisoned.report}", flush=True)
        for record in cells(
            experiment,
            dataset,
            poisoned,
            profile=choice.profile,
            results=choice.results,
            only=only,
            progress=True,
        ):
            print(line(record), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
