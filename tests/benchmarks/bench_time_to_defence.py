"""Seconds until a network is defended, for published code and for this library, in one run.

    python tests/benchmarks/bench_time_to_defence.py [--data signs|cifar10|gtsrb] [--rounds 3]
        [--only "naive minimax;released recipe"]

A network is *defended* at the first round after which, on the validation split, ASR is at most 10 %
and ACC at most 2 points below where it began. `signs` is trained in a minute; on real images the
network is the one with BadNets that comes with the package. The clock runs during rounds only, not
while ASR is measured. On a busy machine compare CPU seconds.

The baseline is the published recipe, computed as published code does it: the same loop and draws
as `IBAU.released`, with each outer gradient by plain reverse-over-reverse autograd through
the network as it is (`published` in bench_hypergradient.py). A contender that is not done after
`--rounds` rounds (the default recipe: after its own) is listed with the time it has spent, which
bounds its ratio from below.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from bench_hypergradient import published
from torch import Tensor, nn

from ibau_lab.first_run import experiments
from ibau_lab.victims import Victim
from ibau_lab.zoo import Zoo
from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset
from ibau_lite.defenses import IBAU, ibau, naive
from ibau_lite.metrics import evaluate
from ibau_lite.minimax import Risk
from ibau_lite.solvers import SolverWarning


def as_published(
    outer: Risk, inner: Risk, delta: Tensor, theta: Mapping[str, Tensor], **_: Any
) -> SimpleNamespace:
    """`published` in the place of `hypergrad.hypergradient`; its sizes are of no interest here."""
    slopes = dict(zip(theta, published(outer.model, inner, outer, delta, 5), strict=True))
    return SimpleNamespace(
        value=delta.new_zeros(()),
        direct=slopes,
        total=slopes,
        indirect=None,
        residual=None,
        solution=None,
    )


class _Enough(Exception):
    """Raised by the evaluator to end a run: the network is defended, or time is up."""


@dataclass
class Clock:
    """An evaluator that measures on the validation split after each round and stops a run."""

    dataset: Dataset
    attack: Attack
    least_accuracy: float
    rounds: int
    done: int = 0
    defended: bool = False
    report: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    started: tuple[float, float] = field(default_factory=lambda: _now())

    def __call__(self, model: nn.Module) -> dict[str, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = _now()
        self.seconds += wall - self.started[0]
        self.cpu_seconds += cpu - self.started[1]
        self.done += 1
        report = evaluate(model, self.dataset.validation, self.attack)
        self.report = str(report)
        self.defended = report.attack_success_rate <= 0.10
        self.defended &= report.accuracy >= self.least_accuracy
        if self.defended or self.done == self.rounds:
            raise _Enough
        self.started = _now()
        return {}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def until_defended(
    defense: Any, config: IBAU, model: nn.Module, dataset: Dataset, attack: Attack
) -> Clock:
    """The clock as it stood when the network was defended, or after `config.rounds` rounds."""
    least = evaluate(model, dataset.validation, attack).accuracy - 0.02
    clock = Clock(dataset, attack, least, config.rounds)
    with contextlib.suppress(_Enough):
        defense(model, dataset.clean, config=config, evaluator=clock)
    return clock


def poisoned(data: str) -> tuple[Dataset, Attack, Victim]:
    """A data set, BadNets, and a network that it has poisoned."""
    if data == "signs":
        (experiment,) = experiments("smoke")
        dataset = experiment.load()
        return dataset, experiment.attack, experiment.victim(dataset, progress=True)
    zoo = Zoo.open(data)
    return zoo.dataset, zoo.attack("badnets"), zoo.network(zoo.member("badnets"))


def main() -> None:
    parser = argparse.ArgumentParser(description="seconds until a network is defended")
    parser.add_argument("--data", default="signs", choices=("signs", "cifar10", "gtsrb"))
    parser.add_argument("--rounds", type=int, default=3, help="give up after this many")
    parser.add_argument("--clean", type=int, help="only so many clean images")
    parser.add_argument("--only", default="", help="rows that begin so, separated by semicolons")
    options = parser.parse_args()
    whole, attack, victim = poisoned(options.data)
    dataset = replace(whole, clean=whole.clean[: options.clean])
    ours = IBAU()
    released = IBAU.released(gtsrb=options.data == "gtsrb", rounds=options.rounds)
    warnings.simplefilter("ignore", SolverWarning)

    rows = {
        "naive minimax, default recipe": (naive, ours),
        "I-BAU, default recipe": (ibau, ours),
        "released recipe, this library": (ibau, released),
    }
    found = {
        name: until_defended(defense, config, victim.model, dataset, attack)
        for name, (defense, config) in rows.items()
        if name.startswith(tuple(options.only.split(";")))
    }
    module = sys.modules[ibau.__module__]
    plain = mock.patch.object(module, "hypergradient", as_published)
    unfolded = mock.patch.object(module, "fold_batchnorm", lambda m: m)
    with plain, unfolded:
        base = until_defended(ibau, released, victim.model, dataset, attack)
    found["released recipe, published code"] = base

    print(f"\n{dataset.source}; {len(dataset.clean):,} clean images; before: {victim.report}")
    where = f"{torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}\n")
    print(f"{'':36} defended  rounds  seconds  published / this   CPU s  published / this")
    for name, clock in found.items():
        answer, ratio = "yes" if clock.defended else "not yet", base.seconds / clock.seconds
        sign = "" if base.defended == clock.defended else "> " if clock.defended else "< "
        by_cpu = base.cpu_seconds / clock.cpu_seconds
        print(
            f"{name:36} {answer:8} {clock.done:7} {clock.seconds:8.1f} {sign:>8}{ratio:<9.1f}"
            f"{clock.cpu_seconds:7.1f} {sign:>8}{by_cpu:.1f}"
        )
        print(f"{'':36} {clock.report}")


if __name__ == "__main__":
    main()
