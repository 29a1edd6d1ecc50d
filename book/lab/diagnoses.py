"""How often a diagnosis is right: every network of the zoo, the clean ones included.

    python -m ibau_lab diagnoses --data gtsrb --results diagnoses.jsonl

What is in the results file already is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ibau_lite.attacks import Attack
from ibau_lite.diagnosis import diagnose
from ibau_lite.zoo import FOLDER

from .engine import once
from .records import key_of, provenance
from .zoo import CLEAN, Member, Zoo, members

__all__ = ["main", "outcomes", "targets"]


def targets(attack: Attack, classes: int) -> list[int]:
    """The classes to which an attack leads images of every other class.

    >>> from ibau_lite.attacks import badnets, badnets_all_to_all
    >>> targets(badnets(3), 10), targets(badnets_all_to_all(10), 10)
    ([3], [])
    """
    ends = [rule(torch.arange(classes)).unique().tolist() for _, rule in attack.pairs]
    return sorted({only[0] for only in ends if len(only) == 1})


def outcomes(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a record: network, the highest score and its class, and what that says.

    "outcome" is "found" (a target stands out), "wrong" (another class does), "missed" (none does,
    though there is one target or several), and for networks without a target "nothing" or "false
    alarm".
    """
    rows = []
    for record in records:
        score, poisoned = max(record["scores"]), bool(record["targets"])
        suspect = record["scores"].index(score)
        if score < record["threshold"]:
            outcome = "missed" if poisoned else "nothing"
        else:
            outcome = "found" if suspect in record["targets"] else "wrong"
            outcome = outcome if poisoned else "false alarm"
        rows.append(
            {name: record[name] for name in ("data", "network", "seed")}
            | {"score": score, "suspect": suspect, "targets": record["targets"]}
            | {"outcome": outcome}
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Diagnose the networks of a data set, one printed line each, and record it."""
    parser = argparse.ArgumentParser(
        prog="ibau_lab diagnoses", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", default="gtsrb", choices=("cifar10", "gtsrb"))
    parser.add_argument("--results", type=Path, default=Path("results/diagnoses.jsonl"))
    parser.add_argument("--received", type=Path, default=FOLDER, help="the folder of the networks")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the clean images")
    choice = parser.parse_args(arguments)
    zoo = Zoo.open(choice.data, received=choice.received)
    for member in members(choice.data):
        for seed in range(choice.seeds if zoo.has(member.name) else 0):
            (row,) = outcomes([_record(zoo, member, seed, choice.results)]).to_dict("records")
            print(
                f"{row['network']:<15} seed {seed}  class {row['suspect']:>2} at "
                f"{row['score']:.2f}  {row['outcome']}",
                flush=True,
            )
    return 0


def _record(zoo: Zoo, member: Member, seed: int, results: Path) -> dict[str, Any]:
    network, attack = zoo.network(member), zoo.attack(member.attack)
    where = {"weights": network.settings["weights"], "clean": zoo.dataset.source, "seed": seed}

    def make() -> dict[str, Any]:
        began = time.process_time()
        found = diagnose(network.model, zoo.dataset.clean, seed=seed)
        return {
            "key": key_of(where),
            "data": zoo.dataset.name,
            "network": member.name,
            "targets": [] if member.name == CLEAN else targets(attack, zoo.dataset.num_classes),
            "seed": seed,
            "scores": found.scores.tolist(),
            "heights": found.heights.tolist(),
            "threshold": found.threshold,
            "cpu_seconds": time.process_time() - began,
            "settings": where,
            **provenance(),
        }

    return once(results, key_of(where), make)
