"""Cells: one victim × one defence × one seed, run once and recorded."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset
from ibau_lite.defenses import REGISTRY
from ibau_lite.experiments.records import append, fingerprint, provenance, read
from ibau_lite.experiments.victims import Victim
from ibau_lite.metrics import evaluate

__all__ = ["describe", "run"]


def describe(value: Any) -> Any:
    """A configuration as JSON: dataclasses as dicts, solvers by name with their settings.

    Raises `TypeError` for a value that has no such description (an anonymous function, an object
    that is known by its address only): its cells could not be found again.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, functools.partial):
        named = {
            "function": describe(value.func),
            **{k: describe(v) for k, v in value.keywords.items()},
        }
        return {**named, "args": describe(value.args)} if value.args else named
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    name = getattr(value, "__name__", "<unnamed>")
    if callable(value) and name.isidentifier():
        return name
    raise TypeError(
        f"{value!r} cannot be described for a record; use plain values, dataclasses, named "
        "functions, or functools.partial of one"
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
    results: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Defend `victim` once and return the record: settings, provenance, ACC and ASR, per round.

    ACC and ASR are measured on the test split, before, after, and after each round (the clock
    stands still meanwhile); nothing is chosen by them. With `results` (a JSON Lines file) the
    record is appended, and a cell that is there already is not run again: `key` is a hash of
    every setting and of the images. `label` names the row in a table
    (the defence's name by default). Raises `KeyError` for a defence that is not in `REGISTRY`,
    `TypeError` as `describe` does, and whatever the defence raises.
    """
    settings = {
        "victim": victim.settings,
        "defense": defense,
        "config": describe(config),
        # Two draws of as many images have all else in common.
        "clean": {"count": len(dataset.clean), "sha256": fingerprint(dataset.clean)},
        "test": {"count": len(dataset.test), "sha256": fingerprint(dataset.test)},
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    for record in read(results) if results is not None else []:
        if record.get("key") == key:
            return record

    measuring = 0.0

    def measure(model: nn.Module) -> dict[str, float]:
        nonlocal measuring
        began = time.process_time()
        report = evaluate(model, dataset.test, attack)
        measuring += time.process_time() - began
        return {"accuracy": report.accuracy, "attack_success_rate": report.attack_success_rate}

    began = time.process_time()
    defended = REGISTRY[defense](
        victim.model, dataset.clean, config=config, seed=seed, progress=progress, evaluator=measure
    )
    cpu_seconds = time.process_time() - began - measuring
    record = {
        "key": key,
        "profile": profile,
        "data": dataset.name,
        "source": dataset.source,
        "attack": attack.name,
        "defense": label or defense,
        "seed": seed,
        "before": dataclasses.asdict(victim.report),
        "after": dataclasses.asdict(evaluate(defended.model, dataset.test, attack)),
        "seconds": defended.seconds,
        "cpu_seconds": cpu_seconds,  # of all threads: comparable where the machine is shared
        "history": defended.history,
        "settings": settings,
        **provenance(),
    }
    if results is not None:
        append(results, record)
    return record
