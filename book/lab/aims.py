"""How sure I-BAU's search was of its aim: how high it climbed toward each class, from records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from ibau_lite.attacks.named import ONE_TARGET
from ibau_lite.searches import AimedUnion

from .compare import Comparison, named
from .contenders import contender
from .grid import grid
from .records import Record


def heights(compared: Iterable[Comparison]) -> str:
    """The three highest classes and the median, a row a network and a column a seed, as Markdown.

    The attacker's target is bold, and there if it is lower; in brackets is the ASR that was left.
    Networks without one target, and runs that did not aim at classes, are left out.
    """
    table: dict[str, dict[str, str]] = {}
    for network, seed, target, run in _searched(compared):
        seen = run["climbs"]
        ranked = sorted(range(len(seen)), key=lambda label: -seen[label])
        shown = [k for rank, k in enumerate(ranked) if rank < 3 or k == target]
        told = (f"**{k}: {seen[k]:.1f}**" if k == target else f"{k}: {seen[k]:.1f}" for k in shown)
        left = run["after"]["attack_success_rate"]
        text = f"{', '.join(told)} / {statistics.median(seen):.1f} ({left:.0%})"
        table.setdefault(network, {})[seed] = text
    frame = pd.DataFrame.from_dict(table, orient="index", dtype=object)
    frame = frame.reindex(columns=sorted(frame.columns)).fillna("")
    return grid(frame.rename_axis("network").reset_index(), "l")


def unaimed(compared: Iterable[Comparison], **changes: Any) -> list[str]:
    """The runs in which the attacker's target is no aim: network and seed.

    By the rule of the setting that they ran with, or with `changes` to its `AimedUnion`.
    """
    missed = []
    for network, seed, target, run in _searched(compared):
        search = contender("ibau", run["cell"]["profile"], run["cell"]["data"]).config.inner
        assert isinstance(search, AimedUnion)
        if target not in replace(search, **changes).chosen(run["climbs"]):
            missed.append(f"{network} ({seed})")
    return missed


def _searched(compared: Iterable[Comparison]) -> list[tuple[str, str, int, Record]]:
    """(network, seed, the attacker's target, the run) of each run that aimed at classes."""
    return [
        (named(each.case), _seed(run), ONE_TARGET[each.case.attack], run)
        for each in compared
        if each.label == "I-BAU" and each.case.attack in ONE_TARGET
        for run in each.records
        if run["climbs"]
    ]


def _seed(run: Record) -> str:
    cell = run["cell"]
    network = f", network {cell['network_seed']}" if cell["network_seed"] else ""
    return f"seed {cell['seed']}{network}"
