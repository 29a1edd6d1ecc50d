"""How sure I-BAU's search was of its aim: how high it climbed toward each class, from records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ibau_lite.searches import AimedUnion

from ibau_lite.attacks.named import ONE_TARGET

from .compare import Comparison, named
from .contenders import contender
from .grid import grid

__all__ = ["heights", "unaimed"]

Runs = list[tuple[Comparison, Mapping[str, Any]]]


def heights(compared: Iterable[Comparison]) -> str:
    """The three highest classes and the median, a row a network and a column a seed, as Markdown.

    The attacker's target is bold, and there if it is lower; in brackets is the ASR that was left.
    Networks without one target, and runs that did not aim at classes, are left out.
    """
    table: dict[str, dict[str, str]] = {}
    for each, run in _searched(compared):
        seen, target = run["climbs"], ONE_TARGET[each.case.attack]
        ranked = sorted(range(len(seen)), key=lambda label: -seen[label])[:3]
        ranked += [target] if target not in ranked else []
        told = [f"{label}: {seen[label]:.1f}" for label in ranked]
        told = [
            f"**{text}**" if k == target else text for k, text in zip(ranked, told, strict=True)
        ]
        left = run["after"]["attack_success_rate"]
        text = f"{', '.join(told)} / {statistics.median(seen):.1f} ({left:.0%})"
        table.setdefault(named(each.case), {})[_seed(run)] = text
    seeds = sorted({seed for row in table.values() for seed in row})
    rows = [["network", *seeds], ["---"] * (len(seeds) + 1)]
    rows += [[name, *(row.get(seed, "") for seed in seeds)] for name, row in table.items()]
    return grid(rows)


def unaimed(compared: Iterable[Comparison], **changes: Any) -> list[str]:
    """The runs in which the attacker's target is no aim: network and seed.

    By the rule of the setting that they ran with, or with `changes` to its `AimedUnion`.
    """
    missed = []
    for each, run in _searched(compared):
        profile = run["cell"]["profile"]
        search = contender("ibau", profile, each.case.data).config.inner
        assert isinstance(search, AimedUnion)
        if ONE_TARGET[each.case.attack] not in replace(search, **changes).chosen(run["climbs"]):
            missed.append(f"{named(each.case)} ({_seed(run)})")
    return missed


def _searched(compared: Iterable[Comparison]) -> Runs:
    return [
        (each, run)
        for each in compared
        if each.label == "I-BAU" and each.case.attack in ONE_TARGET
        for run in each.records
        if run["climbs"]
    ]


def _seed(run: Mapping[str, Any]) -> str:
    cell = run["cell"]
    network = f", network {cell['network_seed']}" if cell["network_seed"] else ""
    return f"seed {cell['seed']}{network}"
