"""When does the indirect term help? Drawn signs: three networks, ten seeds, three inner players.

    python -m ibau_lab indirect --results book/results/indirect.jsonl

Each pair of runs shares the network, the seed and with it every draw: one is naive, the other
follows the hypergradient. The inner players are one step of ascent on H (a poor solve), eight
(a good one), and the default recipe, whose δ climbs toward a class and not H: there inner and outer
objective differ, and Danskin's theorem says nothing. What is in the results file already is not run
again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ibau_lite.ibau import IBAU
from ibau_lite.minimax import Ascent, Untargeted

from .cells import line, run
from .first_run import experiments
from .victims import victim

__all__ = ["PLAYERS", "differences", "main"]

PLAYERS: dict[str, IBAU] = {
    "one step on H": IBAU.classical(search=Untargeted(Ascent(1))),
    "eight steps on H": IBAU.classical(),
    "toward a class": IBAU(),
}
"""Inner player -> the settings of I-BAU."""

NETWORKS, SEEDS = 3, 10


def differences(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a pair: player, network, seed, and what the indirect term adds to ASR and ACC, in
    points."""
    found: dict[tuple[str, int, int], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        player, _, term = record["defense"].rpartition(", ")
        place = (player, record["settings"]["victim"]["seed"], record["seed"])
        found.setdefault(place, {})[term] = record["after"]
    rows = [
        {"player": player, "network": network, "seed": seed}
        | {
            short: 100 * (pair["indirect"][name] - pair["naive"][name])
            for short, name in (("ASR", "attack_success_rate"), ("ACC", "accuracy"))
        }
        | {"naive ASR": 100 * pair["naive"]["attack_success_rate"]}
        for (player, network, seed), pair in found.items()
        if len(pair) == 2
    ]
    return pd.DataFrame(rows, columns=["player", "network", "seed", "ASR", "ACC", "naive ASR"])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval (normal; 0 of fewer than two values)."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), 1.96 * spread / len(values) ** 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs, one printed line a run."""
    parser = argparse.ArgumentParser(
        prog="ibau_lab indirect", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--results", type=Path, default=Path("results/indirect.jsonl"))
    parser.add_argument("--networks", type=int, default=NETWORKS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    choice = parser.parse_args(arguments)
    experiment = experiments("smoke")[0]
    dataset = experiment.load()
    for seed in range(choice.seeds):
        for network in range(choice.networks):
            poisoned = victim(
                dataset, experiment.attack, experiment.build, experiment.recipe,
                rate=experiment.rate, seed=network,
            )  # fmt: skip
            for player, config in PLAYERS.items():
                for term in ("naive", "indirect"):
                    settings = config if term == "indirect" else replace(config, indirect=None)
                    record = run(
                        dataset, experiment.attack, poisoned, "ibau", settings,
                        label=f"{player}, {term}", seed=seed, watched=50, results=choice.results,
                    )  # fmt: skip
                    print(f"network {network}  {line(record)}", flush=True)
    return 0
