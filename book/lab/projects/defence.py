"""Project (a): write a defence, and meet four networks, of which two are anonymous.

    def defend(model, clean, *, config=None, seed=0, progress=False, evaluator=None): ...

The function keeps the protocol of every defence of the library (`ib.defenses.Defense`); the
decorator `@ib.defenses.defense(Config)` makes most of it. A file may also define QUICK, a
configuration with which the promises of `ib.testing.check_defense` are checked.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import ibau_lite as ib
from ibau_lite.attacks import AllToOne, Attack, Blend, Patch, Sinusoid, Trigger
from ibau_lite.data import Dataset
from ibau_lite.metrics import Report
from ibau_lite.streams import stream

from .submission import SubmissionError, asked
from .verdict import Verdict

FUNCTION = "defend"

PROMISES, REMOVAL, SPEED = 12, 40, 8
"""The points: promises kept; networks unlearned, in equal parts; seconds of one processor."""

FREE, LOST = 0.03, 0.10
"""Accuracy that may be lost at no cost, and that costs all points of a network."""

IMAGES, EPOCHS = 3000, 7


@dataclass(frozen=True, eq=False)
class Victim:
    """A poisoned network that a defence meets, and what the grader knows of it."""

    name: str
    model: nn.Module
    attack: Attack
    before: Report


def dataset(data: str = "signs") -> Dataset:
    """The images of the project; "signs" are drawn, the others are read or downloaded."""
    return _dataset(data)


@lru_cache(maxsize=2)
def _dataset(data: str) -> Dataset:
    if data == "signs":
        return ib.data.load("signs", train=IMAGES, clean=400, validation=100, test=900)
    return ib.data.load(data, clean=1000)


def networks(seed: int = 0, data: str = "signs") -> tuple[Victim, ...]:
    """BadNets, Blend, and two networks whose attacks `seed` decides.

    On drawn signs they are trained here, in seconds each. On "gtsrb" and "cifar10" they are those
    that come with the library. They are kept while the process lives.
    """
    return _networks(seed, data)


@lru_cache(maxsize=4)
def _networks(seed: int, data: str) -> tuple[Victim, ...]:
    held = dataset(data)
    if data == "signs":
        made = [
            ("badnets", *_trained(held, ib.attacks.badnets(8), 0)),
            ("blend", *_trained(held, ib.attacks.blend(8), 0)),
        ]
        hidden = [_trained(held, attack, seed) for attack in anonymous(seed)]
    else:
        made = [(name, *ib.zoo.load(data, name)[:2]) for name in ("badnets", "blend")]
        start = f"{data}-cpu-"
        rest = sorted(name.removeprefix(start) for name in ib.zoo.names(ib.zoo.FOLDER))
        rest = [name for name in rest if name not in ("badnets", "blend", "clean")]
        rest = [name for name in rest if f"{start}{name}" in ib.zoo.names(ib.zoo.FOLDER)]
        drawn = torch.randperm(len(rest), generator=stream(seed, "trigger", "anonymous"))[:2]
        hidden = [ib.zoo.load(data, rest[int(k)])[:2] for k in drawn]
    made += [(f"anonymous {k}", *pair) for k, pair in enumerate(hidden, 1)]
    return tuple(
        Victim(name, model, attack, ib.metrics.evaluate(model, held.test, attack))
        for name, model, attack in made
    )


def anonymous(seed: int) -> list[Attack]:
    """Two attacks of different kinds with targets other than 8, drawn from `seed`."""
    draws = stream(seed, "trigger", "anonymous")
    kinds = list(_KINDS)
    chosen = torch.randperm(len(kinds), generator=draws)[:2].tolist()
    attacks = []
    for k in chosen:
        target = int(torch.randint(8, (), generator=draws))
        attacks.append(Attack("anonymous", ((_KINDS[kinds[k]](draws), AllToOne(target)),)))
    return attacks


def _square(draws: torch.Generator) -> Trigger:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    top, left = torch.randint(2, 26, (2,), generator=draws).tolist()
    mask[top : top + 4, left : left + 4] = True
    colour = torch.rand(3, 1, 1, generator=draws).round()
    return Patch.from_mask(mask, colour.expand(3, 32, 32))


def _pixels(draws: torch.Generator) -> Trigger:
    mask = torch.zeros(32 * 32, dtype=torch.bool)
    mask[torch.randperm(32 * 32, generator=draws)[:20]] = True
    return Patch.from_mask(mask.view(32, 32), torch.rand(3, 32, 32, generator=draws).round())


def _stripes(draws: torch.Generator) -> Trigger:
    amplitude = 0.06 + 0.06 * float(torch.rand((), generator=draws))
    return Sinusoid(amplitude, float(torch.randint(3, 9, (), generator=draws)))


def _owl(draws: torch.Generator) -> Trigger:
    return Blend(0.2 + 0.1 * float(torch.rand((), generator=draws)))


_KINDS: dict[str, Callable[[torch.Generator], Trigger]] = {
    "square": _square,
    "pixels": _pixels,
    "stripes": _stripes,
    "owl": _owl,
}


def _trained(held: Dataset, attack: Attack, seed: int) -> tuple[nn.Module, Attack]:
    model = ib.models.small_cnn(held.num_classes, width=8, seed=seed)
    recipe = ib.training.Recipe(epochs=EPOCHS, batch_size=64, shift=2, weight_decay=5e-3)
    ib.training.fit(model, attack.poison(held.train, rate=0.1, seed=seed), recipe, seed=seed)
    return model.eval(), attack


def given(seed: int, data: str = "signs") -> dict[str, Any]:
    """The networks and the clean images: neither attacks nor test images."""
    clean = dataset(data).clean
    return {
        "models": [victim.model for victim in networks(seed, data)],
        "clean": (clean.images.clone(), clean.labels.clone()),
    }


def answer(module: ModuleType, defend: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The broken promises, and for each network the new weights and the seconds."""
    warnings.simplefilter("ignore")
    clock = time.process_time
    subject = ib.testing.Subject(defend, getattr(module, "QUICK", None))
    broken = {}
    for name, check in ib.testing.DEFENSE_CHECKS.items():
        try:
            check(subject)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    weights, seconds = [], []
    for number, model in enumerate(given["models"], 1):
        clean = ib.data.LabelledImages(*(part.clone() for part in given["clean"]))
        started = clock()
        result = asked(partial(defend, model, clean, seed=0), f"network {number}")
        seconds.append(clock() - started)
        new = getattr(result, "model", None)
        if not isinstance(new, nn.Module):
            raise SubmissionError(
                f"network {number}: a DefenseResult is expected, got {type(result).__name__}; "
                "the decorator @ib.defenses.defense(Config) makes one"
            )
        weights.append({name: value.cpu() for name, value in new.state_dict().items()})
    return {"broken": broken, "weights": weights, "seconds": seconds}


def judge(seed: int, answer: dict[str, Any], limit: float, data: str = "signs") -> Verdict:
    """Measure the new networks on test images that the submission has not seen."""
    rows, points, test = [], 0.0, dataset(data).test
    for victim, new, seconds in zip(
        networks(seed, data), answer["weights"], answer["seconds"], strict=True
    ):
        after = ib.metrics.evaluate(_filled(victim, new), test, victim.attack)
        removed = 1 - after.attack_success_rate / victim.before.attack_success_rate
        lost = victim.before.accuracy - after.accuracy
        kept = 1 - (lost - FREE) / (LOST - FREE)
        earned = REMOVAL / 4 * min(1.0, max(0.0, removed)) * min(1.0, max(0.0, kept))
        points += earned
        rows.append(
            {
                "network": victim.name,
                "ACC before": victim.before.accuracy,
                "ACC": after.accuracy,
                "ASR before": victim.before.attack_success_rate,
                "ASR": after.attack_success_rate,
                "time": float(seconds),
                "earned": earned,
            }
        )
    broken, checks = answer["broken"], len(ib.testing.DEFENSE_CHECKS)
    spent = sum(answer["seconds"])
    points += PROMISES * (1 - len(broken) / checks) + SPEED * max(0.0, 1 - spent / limit)
    said = [f"- {name}: {why}" for name, why in broken.items()]
    head = f"{checks - len(broken)} of {checks} promises of check_defense are kept"
    return Verdict(points, "\n".join([head, *said]), rows, spent)


def _filled(victim: Victim, weights: dict[str, Tensor]) -> nn.Module:
    """A copy of the victim with other weights; the defence keeps the architecture."""
    model = copy.deepcopy(victim.model)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[-1].strip()
        raise SubmissionError(
            f"{victim.name}: the new network has another architecture than the given one ({first})"
        ) from error
    return model
