"""What the studies of the chapters share: a command line, a record, the digits at 8×8 pixels."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ibau_lite.data import Dataset, LabelledImages, load

from .engine import once
from .first_run import PROFILES, Experiment, experiments
from .records import fingerprint, key_of, provenance, weights_digest


def small_digits(seed: int = 0) -> Dataset:
    """The handwritten digits at their own size: `data.load` enlarges them to 3×32×32."""
    digits = load("digits", seed=seed)
    parts: dict[str, Any] = {
        name: LabelledImages(part.images[:, :1, ::4, ::4].contiguous(), part.labels)
        for name, part in vars(digits).items()
        if isinstance(part, LabelledImages)
    }
    return replace(digits, **parts)


def command_line(doc: str | None, name: str, data: str) -> argparse.ArgumentParser:
    """--profile, --data (`data` is its help), and --results for the records."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    parser.add_argument("--data", help=data)
    parser.add_argument("--results", type=Path, default=Path(f"results/{name}.jsonl"))
    return parser


def made(heading: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a measurement: the heading, what was measured, and where it came from."""
    began = time.process_time()
    seen = measure()
    return {**heading, **seen, "cpu_seconds": time.process_time() - began, **provenance()}


def measure_networks(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    options: Sequence[str],
    measure: Callable[..., Mapping[str, Any]],
    told: Callable[[Mapping[str, Any]], str],
) -> int:
    """Measure the poisoned networks of the first run: a record and a printed text for each.

    ``measure(experiment, dataset, model, part, **options)`` gets the first clean images as `part`
    and those of the parser's `options`, on which a record depends. What is recorded is not measured
    again.
    """
    parser.add_argument("--network", type=Path, help="a poisoned network, instead of training one")
    choice = parser.parse_args(arguments)
    known: dict[str, Experiment] = {each.data: each for each in experiments(choice.profile)}
    if choice.data and choice.data not in known:
        parser.error(f"profile {choice.profile} has the data sets {', '.join(known)}")
    if choice.network and not choice.data:
        parser.error("--network needs --data: which images is it for?")
    for experiment in [known[choice.data]] if choice.data else known.values():
        dataset = experiment.load()
        model: nn.Module = experiment.network(dataset, choice.network)
        part = dataset.clean[: choice.images]
        asked = {name: getattr(choice, name) for name in options}
        settings = {"network": weights_digest(model), "images": fingerprint(part), **asked}
        settings["version"] = 2
        heading = {
            "key": key_of(settings),
            "profile": choice.profile,
            "data": experiment.data,
            "source": dataset.source,
            "settings": settings,
        }
        measured = partial(measure, experiment, dataset, model, part, **asked)
        make = partial(made, heading, measured)
        print(told(once(choice.results, key_of(settings), make)), flush=True)
    return 0
