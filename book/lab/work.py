"""The work of one cell, in whatever process or machine it is done: a function of plain values."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn

from ibau_lite.attacks.named import COMPUTED
from ibau_lite.data import LabelledImages

from . import cells
from .contenders import contender
from .engine import NeedFailed
from .plan import Case, Cell
from .records import provenance
from .victims import Victim
from .zoo import CLEAN, Member, Zoo

_WATCHED = 1_000
"""Test images that are looked at after each round: on a CPU all of them cost more than a round."""


def perform(cell: Cell, folder: str | None = None, jobs: int = 1) -> dict[str, Any]:
    """Run a cell and return its record; trains what it needs if nobody has.

    `folder` keeps the networks (the cache's `victims/` by default); `jobs` is how many cells share
    this machine, for the record. Raises `NeedFailed`, and whatever the defence raises.
    """
    began = time.perf_counter()
    try:
        zoo = _zoo(cell.case.data, cell.profile, folder)
        # Of one network whatever the clean set, so that it is read once for all of Table 5.
        victim = _victim(zoo, dataclasses.replace(cell.case, clean=0), cell.network_seed)
    except Exception as error:
        raise NeedFailed(f"{cell.case.network}: {type(error).__name__}: {error}") from error
    warmed = _warm_up(cell.case.data, cell.profile, folder, victim.model)
    ready = time.perf_counter()
    chosen = contender(cell.defense, cell.profile, cell.case.data)
    clean = zoo.dataset.clean
    if len(clean) < cell.case.clean:
        raise ValueError(f"{cell.case.clean} clean images are asked for, there are {len(clean)}")
    record = cells.run(
        # The clean images lie in random order: the first are a sample of them.
        dataclasses.replace(zoo.dataset, clean=clean[: cell.case.clean]),
        zoo.attack(cell.case.attack, cell.network_seed),
        victim,
        chosen.defense,
        chosen.config,
        label=chosen.label,
        seed=cell.seed,
        profile=cell.profile,
        watched=_WATCHED,
    )
    told = {
        **_told(cell),
        **record,
        "jobs": jobs,
        "warm_up_seconds": warmed,
        "cell_seconds": time.perf_counter() - ready,
        "network_made": victim.made,
        "network_seconds": 0.0 if "weights" in victim.settings else victim.seconds,
        "waited_seconds": ready - began,
    }
    finite: dict[str, Any] = _finite(told)
    return finite


def attempt(cell: Cell, folder: str | None = None, jobs: int = 1) -> dict[str, Any]:
    """`perform`, and the record of a failure where the defence raises.

    The text of the error comes back, not the error: not every one survives the way from another
    process. Raises `NeedFailed` alone.
    """
    try:
        return perform(cell, folder, jobs)
    except NeedFailed:
        raise
    except Exception as error:
        return failure(cell, error)


def failure(cell: Cell, error: BaseException) -> dict[str, Any]:
    """The record of a cell that failed."""
    return {**_told(cell), "error": f"{type(error).__name__}: {error}", **provenance()}


def _told(cell: Cell) -> dict[str, Any]:
    return {"cell": {"key": cell.key, **cell.told}}


@lru_cache(maxsize=1)  # a data set is most of a gigabyte
def _zoo(data: str, profile: str, folder: str | None) -> Zoo:
    return Zoo.open(data, profile, folder)


@lru_cache(maxsize=1)  # the next cell is often of the same network
def _victim(zoo: Zoo, case: Case, seed: int) -> Victim:
    """A case's network: received, loaded, or trained while all others who want it wait.

    What it is made from comes first, each under a lock of its own.
    """
    if seed == 0 and zoo.has(case.network):
        return zoo.network(zoo.member(case.network))
    triggers = [name for name in COMPUTED if case.attack in (name, "seven_to_seven")]
    if triggers:
        with _alone(zoo, CLEAN, seed):
            zoo.network(Member(CLEAN, CLEAN, 0.0), seed)
    for name in triggers:
        with _alone(zoo, name, f"trigger-{seed}"):
            zoo.attack(name, seed)
    with _alone(zoo, case.network, seed):
        return zoo.network(Member(case.network, case.attack, case.rate), seed)


def _alone(zoo: Zoo, name: str, what: int | str) -> FileLock:
    """A lock that one process or thread at a time holds for making this network or trigger."""
    zoo.folder.mkdir(parents=True, exist_ok=True)
    return FileLock(zoo.folder / f".{zoo.dataset.name}-{zoo.profile}-{name}-{what}.lock")


_WARM: dict[tuple[str, str, str | None], float] = {}


def _warm_up(data: str, profile: str, folder: str | None, model: nn.Module) -> float:
    """Seconds of the first passes on this data in this process, which no defence is charged for.

    Forward, backward, twice differentiated, and a step, which is all that a defence will ask for.
    """
    key = (data, profile, folder)
    if key not in _WARM:
        began = time.perf_counter()
        part: LabelledImages = _zoo(*key).dataset.clean[:50].to(next(model.parameters()).device)
        images = part.images.clone().requires_grad_(True)
        loss = F.cross_entropy(model(images), part.labels)
        (slope,) = torch.autograd.grad(loss, images, create_graph=True)
        torch.autograd.grad(slope.square().sum(), images)
        idle = torch.zeros(1, requires_grad=True)
        idle.grad = torch.zeros(1)
        torch.optim.Adam([idle]).step()  # the first step of a process loads half of torch
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        _WARM[key] = time.perf_counter() - began
    return _WARM[key]


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
