"""Every defence of the library on one poisoned network: the settings of chapter 11, by profile.

    python -m ibau_lite.experiments.other_defences --profile cpu --data gtsrb \\
        --results book/results/other_defences.jsonl --only "NAD;Fine-Pruning" --seeds 3

The network, its images and its training are those of `first_run` (in smoke a narrower network, so
that ten defences fit into a minute). A profile changes sizes only. Differential privacy is not
among the rows: it trains a network of its own (`private`). What is in the results file already is
not run again.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ibau_lite.defenses import (
    ANPConfig,
    DeepInspectConfig,
    DPConfig,
    FinePruningConfig,
    FineTuningConfig,
    FTSAMConfig,
    IBAUConfig,
    Inversion,
    NADConfig,
    NeuralCleanseConfig,
    SAUConfig,
    TaborConfig,
)
from ibau_lite.experiments.cells import line
from ibau_lite.experiments.first_run import PROFILES, Experiment, Row, cells, experiments
from ibau_lite.experiments.published import Published, one_trigger
from ibau_lite.experiments.tables import NO_DEFENCE
from ibau_lite.metrics import spread
from ibau_lite.models import small_cnn

__all__ = ["TALK", "beside_the_talk", "experiment", "main", "private", "rows"]

TALK: dict[str, str] = {
    NO_DEFENCE: "no defence",
    "Neural Cleanse": "NC",
    "TABOR": "TABOR",
    "DeepInspect": "DI",
    "Fine-Pruning": "FP",
    "NAD": "NAD",
    "DP": "DP",
    "I-BAU": "I-BAU",
}
"""What the talk reports on: label of a row -> the talk's column."""


def experiment(profile: str = "smoke", data: str | None = None) -> Experiment:
    """The experiment of a profile: drawn signs in `smoke`, real images in `cpu` and `full`.

    `data` is "cifar10" or "gtsrb", by default the first of the profile. Raises `ValueError` for
    what the profile does not have.
    """
    known = {each.data: each for each in experiments(profile)}
    data = data or next(iter(known))
    if data not in known:
        raise ValueError(f"data: {' or '.join(known)} in profile {profile!r}, got {data!r}")
    chosen = known[data]
    if profile == "smoke":
        chosen = replace(chosen, build=functools.partial(small_cnn, 12, width=8))
    return replace(chosen, rows=rows(profile, flip=data == "cifar10"))


def rows(profile: str, *, flip: bool = False) -> tuple[Row, ...]:
    """The defences in the order of the chapter; `flip` mirrors images where they allow it."""
    smoke, full = profile == "smoke", profile == "full"
    search = Inversion(steps=120 if smoke else 1000 if full else 300, batch_size=16)
    brief: dict[str, Any] = {"flip": flip}
    return (
        Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=4, **brief)),
        Row("Neural Cleanse", "neural_cleanse", NeuralCleanseConfig(search=search, **brief)),
        Row("TABOR", "tabor", TaborConfig(search=search, **brief)),
        Row(
            "DeepInspect",
            "deepinspect",
            DeepInspectConfig(steps=search.steps + 50, search_batch=12 if smoke else 16, **brief),
        ),
        Row("Fine-Pruning", "fine_pruning", FinePruningConfig(epochs=4, **brief)),
        Row("NAD", "nad", NADConfig(epochs=5 if smoke else 20, **brief)),
        Row("ANP", "anp", ANPConfig(epochs=6 if smoke else 20, **brief)),
        Row("FT-SAM", "ft_sam", FTSAMConfig(epochs=5 if smoke else 20, **brief)),
        Row("SAU", "sau", SAUConfig(epochs=1 if smoke else 5, **brief)),
        Row("I-BAU", "ibau", replace(IBAUConfig(), rounds=2 if smoke else 5, **brief)),
    )


def private(profile: str) -> DPConfig:
    """Settings of the private training: too little for a good network in smoke."""
    if profile == "smoke":
        return DPConfig(epochs=2, batch_size=100)
    return DPConfig(epochs=60 if profile == "full" else 10, batch_size=512)


def beside_the_talk(records: Iterable[Mapping[str, Any]], data: str) -> str:
    """A Markdown table for one data set: our ACC, ASR and CPU seconds, and the talk's for BadNets.

    Every row that can be run is there, and what the talk reports besides; mean ± sample deviation
    over seeds. × says that no trigger was found, in all runs or in some of them. Of two records
    with the same row and seed the later one counts. Raises `KeyError` for data that the talk lacks.
    """
    talk = {entry.defense: entry for entry in one_trigger(data)}
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        if record["data"] == data:
            runs.setdefault(record["defense"], {})[record["seed"]] = record
    labels = dict.fromkeys([NO_DEFENCE, *(row.label for row in rows("cpu")), *TALK])
    head = ["", "ACC", "ASR", "CPU s", "the talk: ACC", "ASR"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    anything = next((run for by_seed in runs.values() for run in by_seed.values()), None)
    for label in labels:
        ours = ["not run", "", ""]
        if label == NO_DEFENCE and anything is not None:
            before = anything["before"]
            ours = [_percent(before["accuracy"]), _percent(before["attack_success_rate"]), ""]
        elif label in runs:
            ours = _measured(list(runs[label].values()))
        lines.append([label, *ours, *_printed(talk.get(TALK.get(label, "")))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _measured(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """ACC, ASR (with × where no trigger was found) and CPU seconds over the seeds."""
    after = [run["after"] for run in runs]
    accuracy = str(spread(report["accuracy"] for report in after))
    success = str(spread(report["attack_success_rate"] for report in after))
    missed = sum(run.get("found") is False for run in runs)
    if missed:
        success += " ×" if missed == len(runs) else f" (× {missed} of {len(runs)})"
    return [accuracy, success, f"{sum(run['cpu_seconds'] for run in runs) / len(runs):.0f}"]


def _printed(entry: Published | None) -> list[str]:
    if entry is None:
        return ["", ""]
    numbers = (entry.accuracy, entry.attack_success_rate)
    return ["×" if number is None else f"{number:.2f} %" for number in numbers]


def _percent(fraction: float) -> str:
    return f"{fraction:.1%}".replace("%", " %")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows of a profile from the command line, seed after seed, one printed line a cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    parser.add_argument("--results", type=Path, default=Path("results/other_defences.jsonl"))
    parser.add_argument("--data", help="the data set (the first of the profile by default)")
    parser.add_argument("--only", help="only these rows, by label, separated by semicolons")
    parser.add_argument("--seeds", type=int, help="how many, from 0 on (those of the profile)")
    choice = parser.parse_args(arguments)
    try:
        chosen = experiment(choice.profile, choice.data)
    except ValueError as error:
        parser.error(str(error))
    if choice.seeds is not None:
        if choice.seeds < 1:
            parser.error(f"--seeds: at least 1, got {choice.seeds}")
        chosen = replace(chosen, seeds=tuple(range(choice.seeds)))
    dataset = chosen.load()
    print(f"{dataset.source}: {len(dataset.clean):,} clean images to defend with", flush=True)
    poisoned = chosen.victim(dataset, progress=True)
    print(f"{NO_DEFENCE:<16}        {poisoned.report}", flush=True)
    for record in cells(
        chosen,
        dataset,
        poisoned,
        profile=choice.profile,
        results=choice.results,
        only=choice.only.split(";") if choice.only else None,
        progress=True,
    ):
        print(line(record), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
