"""How high does the attacker's trigger stand among the perturbations of its own length?

    python -m ibau_lab.hiding --data cifar10 --results book/results/hiding.jsonl

A search over δ can tell a backdoor from what any network can be led to only if more is to be had
toward the attacker's class than toward others. So for each poisoned network of the zoo (profile
`cpu`): the H of δ toward every class, no longer than the mean of what the trigger adds, in two
norms. Chapter 12 shows the records. About 90 seconds of one CPU core a network of CIFAR-10,
float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ibau_lite.attacks import Attack
from ibau_lite.attacks.named import ONE_TARGET
from ibau_lite.data import LabelledImages
from ibau_lite.minimax import Ascent, Risk, Toward
from ibau_lite.sets import L1Ball, L2Ball
from ibau_lite.speed import fold_batchnorm

from .engine import once
from .grid import grid
from .records import fingerprint, key_of
from .studies import made
from .zoo import Zoo


def measure(
    model: nn.Module,
    part: LabelledImages,
    attack: Attack,
    *,
    images: int = 50,
    steps: int = 16,
) -> dict[str, Any]:
    """H of the trigger and of its rivals, for an attack with one trigger and one target.

    ``trigger``: H on the triggered images of `part`; ``mean``: H at δ̄, the mean of what the trigger
    adds to an image. ``rivals``: for the l2 and the l1 norm, ‖δ̄‖ (``length``), and for every class
    k H on `part` where an ascent of `steps` toward k on the first `images` images ends, with
    ‖δ‖ ≤ ‖δ̄‖ (``heights``). ``target`` is the attacker's class. The result is JSON.
    """
    network = fold_batchnorm(model)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    risk = Risk(network, part.images, part.labels)
    stamp, relabel = attack.pairs[0]
    stamped = stamp(part.images)
    mean = (stamped - part.images).mean(0)
    triggered = Risk(network, stamped, part.labels)
    climb = Ascent(steps)
    regions: dict[str, L2Ball | L1Ball] = {
        "l2": L2Ball(float(mean.norm())),
        "l1": L1Ball(float(mean.abs().sum())),
    }
    with torch.no_grad():
        classes = network(part.images[:1]).shape[1]
    few = risk.subset(slice(images))
    ways = [Toward(few, label) for label in range(classes)]
    return {
        "target": int(relabel(part.labels[:1])[0]),
        "trigger": triggered.value(torch.zeros_like(mean), theta),
        "mean": risk.value(mean, theta),
        "rivals": {
            norm: {
                "length": region.radius,
                "heights": [risk.value(climb(way, theta, region).delta, theta) for way in ways],
            }
            for norm, region in regions.items()
        },
    }


def lead(record: Mapping[str, Any]) -> float:
    """H toward the target over H toward its rival, in the norm where that is larger."""
    pairs = [_compared(record, norm) for norm in record["rivals"]]
    return max(target / rival for target, rival in pairs)


def _compared(record: Mapping[str, Any], norm: str) -> tuple[float, float]:
    """H toward the attacker's class, and the highest toward another."""
    heights = dict(enumerate(record["rivals"][norm]["heights"]))
    target = heights.pop(record["target"])
    return target, max(heights.values())


def table(records: Iterable[Mapping[str, Any]], data: str) -> str:
    """A Markdown table: for each attack and norm, H toward the target and toward its rival.

    The rival is the highest class other than the attacker's. Where the ratio of the two is not
    above 1, H cannot tell the backdoor from the network's own weaknesses.
    """
    head = ["attack", "H(δ̄)"]
    head += [f"{norm}: {k}" for norm in ("l2", "l1") for k in ("‖δ̄‖", "target", "rival", "ratio")]
    rows = []
    for record in records:
        if record["data"] == data:
            row = [record["attack"], f"{record['mean']:.1f}"]
            for norm, rivals in record["rivals"].items():
                target, rival = _compared(record, norm)
                row += [f"{x:.1f}" for x in (rivals["length"], target, rival)]
                row += [f"{target / rival:.2f}"]
            rows.append(row)
    return grid(pd.DataFrame(rows, columns=head))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the networks with one trigger and one target, one record a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar10", choices=("cifar10", "gtsrb"))
    parser.add_argument("--attacks", default=",".join(ONE_TARGET), help="separated by commas")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path("results/hiding.jsonl"))
    choice = parser.parse_args(arguments)
    zoo = Zoo.open(choice.data, "cpu")
    part = zoo.dataset.clean[: choice.images]
    for name in choice.attacks.split(","):
        victim = zoo.network(zoo.member(name))
        settings = {"victim": victim.settings, "images": fingerprint(part), "version": 1}
        heading = {
            "key": key_of(settings),
            "profile": zoo.profile,
            "data": choice.data,
            "source": zoo.dataset.source,
            "attack": name,
            "settings": settings,
        }
        make = partial(made, heading, partial(measure, victim.model, part, zoo.attack(name)))
        record = once(choice.results, heading["key"], make)
        print(table([record], choice.data).splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
