"""Seconds until a network is defended, for published code and for this library, in one run.

    python tests/benchmarks/bench_time_to_defence.py [--data signs|cifar10|gtsrb] [--rounds 5]

A network is *defended* at the first round after which, on the validation split, ASR is at most 10 %
and ACC at most 2 points below where it began. The networks and the clean sets are those of
`ibau_lite.experiments.first_run` (`signs`: trained in a minute; the others: profile `cpu`, loaded
if they were trained before). The clock runs during rounds only, not while ASR is measured.

The baseline is the published recipe, computed as published code does it: the same loop and draws
as `IBAUConfig.released`, with each outer gradient by plain reverse-over-reverse autograd through
the network as it is (`published` in bench_hypergradient.py). A contender that is not done after
`--rounds` rounds is listed with the time it has spent, which bounds its ratio from below.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from bench_hypergradient import published
from torch import Tensor, nn

from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset
from ibau_lite.defenses import IBAUConfig, ibau, naive
from ibau_lite.experiments.first_run import experiments
from ibau_lite.metrics import evaluate
from ibau_lite.minimax import Risk
from ibau_lite.solvers import SolverWarning


def as_published(
    outer: Risk, inner: Risk, delta: Tensor, theta: Mapping[str, Tensor], **_: Any
) -> SimpleNamespace:
    """`published` in the place of `hypergrad.hypergradient`; its sizes are of no interest here."""
    slopes = dict(zip(theta, published(outer.model, inner, outer, delta, 5), strict=True))
    return SimpleNamespace(
        value=delta.new_zeros(()), direct=slopes, indirect=None, residual=None, total=slopes
    )


def until_defended(
    defense: Any, config: IBAUConfig, model: nn.Module, dataset: Dataset, attack: Attack
) -> tuple[bool, int, float, str]:
    """(defended?, rounds, seconds, the last report) on the validation split."""
    start = evaluate(model, dataset.validation, attack)
    for rounds in range(1, config.rounds + 1):
        # The step decays over the rounds of a run, so a shorter run is another run.
        result = defense(model, dataset.clean, config=replace(config, rounds=rounds))
        report = evaluate(result.model, dataset.validation, attack)
        if report.attack_success_rate <= 0.10 and report.accuracy >= start.accuracy - 0.02:
            return True, rounds, result.seconds, str(report)
    return False, config.rounds, result.seconds, str(report)


def main() -> None:
    parser = argparse.ArgumentParser(description="seconds until a network is defended")
    parser.add_argument("--data", default="signs", choices=("signs", "cifar10", "gtsrb"))
    parser.add_argument("--rounds", type=int, default=3, help="give up after this many")
    options = parser.parse_args()
    profile = "smoke" if options.data == "signs" else "cpu"
    experiment = next(e for e in experiments(profile) if e.data == options.data)
    dataset = experiment.load()
    victim = experiment.victim(dataset, progress=True)
    flip = options.data == "cifar10"
    ours = IBAUConfig(rounds=options.rounds, flip=flip)
    released = IBAUConfig.released(gtsrb=options.data == "gtsrb", rounds=options.rounds)
    module = sys.modules[ibau.__module__]
    warnings.simplefilter("ignore", SolverWarning)

    rows = {
        "naive minimax, this book's recipe": (naive, ours),
        "I-BAU, this book's recipe": (ibau, ours),
        "released recipe, this library": (ibau, released),
    }
    found = {
        name: until_defended(defense, config, victim.model, dataset, experiment.attack)
        for name, (defense, config) in rows.items()
    }
    as_is = mock.patch.multiple(module, hypergradient=as_published, fold_batchnorm=lambda m: m)
    with as_is:
        base = until_defended(ibau, released, victim.model, dataset, experiment.attack)
    found["released recipe, published code"] = base

    print(f"\n{dataset.source}; {len(dataset.clean):,} clean images; before: {victim.report}")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"{'':36} defended  rounds  seconds  published / this")
    for name, (defended, rounds, seconds, report) in found.items():
        answer = "yes" if defended else "not yet"
        bound = "" if base[0] else "> "
        print(f"{name:36} {answer:8} {rounds:7} {seconds:8.1f} {bound:>8}{base[2] / seconds:.1f}")
        print(f"{'':36} {report}")


if __name__ == "__main__":
    main()
