"""Cells: one victim × one defence × one seed, run once and recorded."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.defenses import REGISTRY, Defense, dp
from ibau_lite.metrics import accuracy, evaluate
from ibau_lite.streams import VERSION

from .answers import Answers
from .engine import once
from .near_duplicates import NEAR, nearest
from .records import fingerprint, key_of, provenance
from .victims import Victim


def describe(value: Any) -> Any:
    """A configuration as JSON: dataclasses as dicts, solvers by name with their settings.

    Raises `TypeError` for a value that has no such description (an anonymous function, one that is
    made in a call, an object that is known by its address only): its cells could not be found
    again.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, functools.partial):
        named = {"function": describe(value.func), **describe(value.keywords)}
        return {**named, "args": describe(value.args)} if value.args else named
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    name = getattr(value, "__name__", "<unnamed>")
    # Two functions that are made in a call, or methods of two objects, have one name.
    made = "<locals>" in getattr(value, "__qualname__", "") or inspect.ismethod(value)
    if callable(value) and name.isidentifier() and not made:
        return name
    raise TypeError(
        f"{value!r} cannot be described for a record; use plain values, dataclasses, functions "
        "that a module names, or functools.partial of one"
    )


def line(record: Mapping[str, Any]) -> str:
    """A finished cell in one printed line, with × where no trigger was found."""
    after = record["after"]
    missed = "  no trigger found (×)" if record.get("found") is False else ""
    return (
        f"{record['defense']:<32} seed {record['seed']}  ACC {after['accuracy']:6.1%}"
        f"  ASR {after['attack_success_rate']:6.1%}  {record['cpu_seconds']:6.0f} CPU s{missed}"
    )


def run(
    dataset: Dataset,
    attack: Attack,
    victim: Victim,
    defense: str,
    config: Any,
    *,
    label: str | None = None,
    seed: int = 0,
    profile: str = "smoke",
    watched: int | None = None,
    results: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Defend `victim` once and return the record: settings, provenance, ACC and ASR, per round.

    ACC and ASR are measured on the test split, before, after, and after each round (the clock
    stands still meanwhile, and `elapsed` is what it shows; with `watched`, on as many test images
    after each round); nothing is chosen by them. `by_pair` is the ASR of each trigger if there are
    several; `answers` keeps which test images are read right and which stamped ones as the attacker
    wants (`Answers`), and `apart` the ACC on the test images that have no near-duplicate among the
    clean ones; `found` says whether a defence that looks for a trigger found one, `flagged` for
    which classes, `climbs` what the inner search of I-BAU saw (None for the others). `dp` gets the
    poisoned training set. With `results` (a JSON Lines file) the record is appended, and a cell
    that is there already is not run again: `key` is a hash of the images and of every setting that
    the outcome depends on.
    `label` names the row in a table (the defence's name by default). Raises `KeyError` for a
    defence not in `REGISTRY`, `TypeError` as `describe` does, and whatever the defence raises.
    """
    settings = {
        "victim": victim.settings,
        "defense": defense,
        "config": describe(config),
        # Two draws of as many images have all else in common.
        "clean": {"count": len(dataset.clean), "sha256": fingerprint(dataset.clean)},
        "test": {"count": len(dataset.test), "sha256": fingerprint(dataset.test)},
        "seed": seed,
        "streams": VERSION,
        **_measured(attack, victim),
    }
    key = key_of(settings)

    def make() -> dict[str, Any]:
        defend = _prepared(defense, dataset, attack, victim)
        clock = _Clock(dataset.test[:watched], attack)
        defended = defend(
            victim.model, dataset.clean, config=config, seed=seed, progress=progress,
            evaluator=clock,
        )  # fmt: skip
        cpu_seconds = time.process_time() - clock.cpu
        answers = Answers.of(_channels_last(defended.model), dataset.test, attack)
        return {
            "key": key,
            "profile": profile,
            "defense": label or defense,
            "data": dataset.name,
            "source": dataset.source,
            "attack": attack.name,
            "seed": seed,
            "before": dataclasses.asdict(victim.report),
            "after": dataclasses.asdict(answers.report),
            "answers": answers.to_dict(),
            "apart": _apart(dataset, answers),
            "by_pair": _by_pair(defended.model, dataset, attack),
            **{name: defended.details.get(name) for name in ("found", "flagged", "climbs")},
            "seconds": defended.seconds,
            "cpu_seconds": cpu_seconds,  # of all threads: comparable where the machine is shared
            "history": defended.history,
            "watched": len(clock.test),
            "settings": settings,
            **provenance(),
        }

    return make() if results is None else once(results, key, make)


class _Clock:
    """What measures ACC and ASR after each round, and stands still meanwhile.

    `cpu` and `wall` say when it was started, later by the time that was spent on measuring.
    """

    def __init__(self, test: LabelledImages, attack: Attack) -> None:
        self.test, self.attack = test, attack
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def __call__(self, model: nn.Module) -> dict[str, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was asked of the device before now belongs to the round
        began, wall = time.process_time(), time.perf_counter()
        elapsed = wall - self.wall
        report = evaluate(_channels_last(model), self.test, self.attack)
        self.cpu += time.process_time() - began
        self.wall += time.perf_counter() - wall
        return {
            "accuracy": report.accuracy,
            "attack_success_rate": report.attack_success_rate,
            "elapsed": elapsed,
        }


def _measured(attack: Attack, victim: Victim) -> dict[str, Any]:
    """The triggers that are measured, where they are not those that the victim was poisoned with.

    A control tells of its training set, which no trigger has touched, the name alone.
    """
    shown = Attack(attack.name, attack.pairs).to_dict()["pairs"]
    known = victim.settings.get("attack", {}).get("pairs")
    return {} if json.dumps(shown) == json.dumps(known) else {"measured": shown}


def _channels_last(model: nn.Module) -> nn.Module:
    """A copy for looking at many images: a processor convolves a third faster so."""
    last: nn.Module = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last


def _apart(dataset: Dataset, answers: Answers) -> dict[str, Any]:
    """ACC on the test images without a near-duplicate in the clean set, and how many there are."""
    alone = nearest(dataset.test.images, dataset.clean.images)[0] <= NEAR
    right = answers.clean[alone]
    return {"accuracy": float(right.double().mean()) if len(right) else None, "n": len(right)}


def _prepared(defense: str, dataset: Dataset, attack: Attack, victim: Victim) -> Defense:
    """The defence; one that trains anew is given what the victim was trained on."""
    if defense != "dp":
        return REGISTRY[defense]
    poisoned = attack.poison(dataset.train, victim.settings["rate"], victim.settings["seed"])
    return functools.partial(dp, train=LabelledImages(poisoned.images, poisoned.labels))


def _by_pair(model: nn.Module, dataset: Dataset, attack: Attack) -> dict[str, float]:
    """The ASR of each trigger under its label rule; of a single one it is known already."""
    if len(attack.pairs) == 1:
        return {}
    views = attack.poisoned_test_sets(dataset.test)
    return {str(rule): accuracy(model, views[k]) for k, (_, rule) in enumerate(attack.pairs)}
