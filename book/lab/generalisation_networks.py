"""Theorem 3 put to the test: constants and gaps of many small networks, and of victims unlearned.

    python -m ibau_lab.generalisation_networks --profile cpu

Chapter 10 calls the same functions. What is in the results file already is not run again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from ibau_lite.theory.generalisation_networks import (
    Capacity,
    Constants,
    capacity,
    constants,
    measured_from,
)
from ibau_lite.theory.margins import margin_error, margins
from torch import Tensor, nn

from ibau_lite.data import Dataset, LabelledImages, load
from ibau_lite.defenses import fine_tuning, ibau
from ibau_lite.metrics import evaluate
from ibau_lite.minimax import Ascent, Risk
from ibau_lite.models import mlp
from ibau_lite.sets import L2Ball
from ibau_lite.streams import VERSION
from ibau_lite.training import Recipe, fit

from . import first_run, studies
from .engine import once


def scores(model: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """Scores [n, k] in double precision, without a graph."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [model(part.to(device)).double().cpu() for part in images.split(batch)]
    return torch.cat(parts).clone()


@dataclass(frozen=True, eq=False)
class Worst:
    """The δ with the largest error among several ascents, and the errors of all of them."""

    delta: Tensor
    error: float
    by_restart: tuple[float, ...]


def worst_delta(
    model: nn.Module,
    part: LabelledImages,
    radius: float,
    *,
    restarts: int = 4,
    steps: int = 15,
    images: int = 400,
    seed: int = 0,
) -> Worst:
    """Climb H from zero and from random starts on up to `images` images; judge by errors on all.

    A search: the error found is a lower bound of the largest one.
    """
    part = part.to(next(model.parameters()).device)
    theta = dict(model.named_parameters())

    def error(delta: Tensor) -> float:
        moved = margins(scores(model, part.images + delta), part.labels.cpu())
        return float(margin_error(moved))

    start = torch.zeros_like(part.images[0])
    if radius == 0:
        return Worst(start, error(start), ())
    risk = Risk(model, part.images[:images], part.labels[:images])
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(restarts):
        found.append(Ascent(steps)(risk, theta, L2Ball(radius), start).delta)
        start = torch.randn(start.shape, generator=generator).to(start)
        start = radius * start / torch.linalg.vector_norm(start)
    errors = tuple(map(error, found))
    return Worst(found[errors.index(max(errors))], max(errors), errors)


def both_sides(
    model: nn.Module,
    sample: LabelledImages,
    unseen: LabelledImages,
    radius: float,
    a: Capacity,
    **search: Any,
) -> dict[str, Any]:
    """What Theorem 3 compares, at the worst δ found on the sample and at the worst found elsewhere.

    The unseen images are halved: one half is searched for a second δ, the other is measured. Of the
    two δ the one with the larger unseen error is reported: `left`, `sample_error`, their difference
    `gap`, and γ, the margin that a tenth of the sample more than errs does not reach. `ratio` is
    A/(γ√n) for the capacity `a`: up to constants and a logarithm, the complexity term.
    """
    middle = len(unseen) // 2
    searched, measured = unseen[:middle], unseen[middle:]
    rows = []
    for part in (sample, searched):
        delta = worst_delta(model, part, radius, **search).delta
        here = margins(scores(model, sample.images + delta.cpu()), sample.labels)
        there = margins(scores(model, measured.images + delta.cpu()), measured.labels)
        error = float(margin_error(here))
        gamma = float(here.clamp_min(0).quantile(min(1.0, error + 0.1)))
        rows.append({"left": float(margin_error(there)), "sample_error": error, "gamma": gamma})
    row = max(rows, key=lambda row: row["left"])
    ratio = a.total / (row["gamma"] * math.sqrt(len(sample))) if row["gamma"] > 0 else math.inf
    return {**row, "gap": row["left"] - row["sample_error"], "n": len(sample), "ratio": ratio}


def steepest(model: nn.Module, images: Tensor) -> float:
    """max over these images of ‖∂f/∂x‖: what ∏ sᵢϱᵢ bounds for every image there could be."""
    x = images.detach().clone().requires_grad_(True)
    outputs = model(x)
    rows = [
        torch.autograd.grad(outputs[:, j].sum(), x, retain_graph=True)[0].flatten(1)
        for j in range(outputs.shape[1])
    ]
    return float(torch.linalg.matrix_norm(torch.stack(rows, 1).double(), ord=2).max())


# --- many small networks ------------------------------------------------------------------------


def small_digits() -> tuple[LabelledImages, LabelledImages]:
    """The digits at their own size, 8×8: 1,000 to train on, 797 held out."""
    digits = studies.small_digits()
    held_out = (digits.clean, digits.validation, digits.test)
    images = torch.cat([part.images for part in held_out])
    return digits.train, LabelledImages(images, torch.cat([part.labels for part in held_out]))


@dataclass(frozen=True)
class Setting:
    """One network of the zoo: hidden units, weight decay, share of random labels, images seen."""

    width: int = 64
    decay: float = 1e-3
    noise: float = 0.0
    n: int = 800
    epochs: int = 30
    seed: int = 0


ZOO = tuple(
    Setting(width, decay, noise, n)
    for width, decay, noise, n in itertools.product((16, 128), (0.0, 1e-2), (0.0, 0.5), (200, 800))
)


def noisy(part: LabelledImages, share: float, seed: int) -> LabelledImages:
    """Replace a share of the labels by random classes: a world in which less can be known."""
    generator = torch.Generator().manual_seed(seed)
    hit = torch.rand(len(part), generator=generator) < share
    random = torch.randint(10, (len(part),), generator=generator)
    return LabelledImages(part.images, torch.where(hit, random, part.labels))


def train(
    setting: Setting, train_part: LabelledImages
) -> tuple[nn.Module, nn.Module, LabelledImages]:
    """(network, the network it started from, the sample that it has seen) for a setting."""
    sample = noisy(train_part[: setting.n], setting.noise, setting.seed)
    model, start = (
        mlp(64, (setting.width,), 10, smooth=False, seed=setting.seed) for _ in range(2)
    )
    recipe = Recipe(
        epochs=max(1, setting.epochs * 800 // setting.n),  # the same number of steps for all
        batch_size=50,
        lr=0.05,
        weight_decay=setting.decay,
        channels_last=False,
    )
    fit(model, sample, recipe, seed=setting.seed)
    return model, start.eval(), sample


def zoo(
    settings: Sequence[Setting] = ZOO, *, radius: float = 0.1, restarts: int = 2
) -> Iterator[dict[str, Any]]:
    """Train each network; yield its setting, both sides, and the factors of its bound.

    `ratio` has distances from the initial network, `ratio_zero` from zero; `product` is ∏ sᵢϱᵢ.
    """
    train_part, held_out = small_digits()
    chi = math.sqrt(64) / 2  # the farthest that an image can be from grey
    for setting in settings:
        model, start, sample = train(setting, train_part)
        unseen = noisy(held_out, setting.noise, setting.seed + 1)
        moved, a, a_zero = _capacities(model, start, (1, 8, 8), chi, radius)
        row = both_sides(model, sample, unseen, radius, a, restarts=restarts)
        row["ratio_zero"] = row["ratio"] * a_zero.total / a.total
        yield {**asdict(setting), **row, "product": moved.product}


def _capacities(
    model: nn.Module, start: nn.Module, shape: tuple[int, int, int], chi: float, radius: float
) -> tuple[Constants, Capacity, Capacity]:
    """The constants with distances from `start`, A with them, and A with distances from zero."""
    found = constants(model, shape)
    moved = measured_from(found, model, start, shape)
    return moved, capacity(moved, chi, radius), capacity(found, chi, radius)


# --- a victim, before and after -----------------------------------------------------------------


def before_and_after(
    experiment: first_run.Experiment,
    dataset: Dataset,
    *,
    radius: float = 1.0,
    **search: Any,
) -> Iterator[dict[str, Any]]:
    """Both sides for a poisoned network, fine-tuned, and unlearned by I-BAU.

    The sample is the defender's clean set; the reference is the poisoned network, which does not
    depend on it. `ratio_zero` measures from zero weights instead.
    """
    victim = experiment.victim(dataset, progress=True).model
    recipes = {row.label: row.config for row in experiment.rows}
    tuned = replace(recipes["fine-tuning"], epochs=2)
    shape, chi = dataset.shape, math.sqrt(math.prod(dataset.shape)) / 2
    for name in ("poisoned", "fine-tuning", "I-BAU"):
        model = victim
        if name == "fine-tuning":
            model = fine_tuning(victim, dataset.clean, config=tuned).model
        elif name == "I-BAU":
            model = ibau(victim, dataset.clean, config=recipes["I-BAU"]).model
        report = evaluate(model, dataset.test, experiment.attack)
        own = model.cpu()
        here, a, a_zero = _capacities(own, victim.cpu(), shape, chi, radius)
        row = both_sides(own, dataset.clean, dataset.test, radius, a, **search)
        yield {
            "network": name,
            "accuracy": report.accuracy,
            "attack_success_rate": report.attack_success_rate,
            **row,
            "radius": radius,
            "product": here.product,
            "steepest": steepest(own, dataset.test.images[:50]),
            "gains": [layer.gain for layer in here.layers],
            "slack": [layer.norm.upper / layer.norm.lower for layer in here.layers],
            "capacity": a.total,
            "capacity_weights": a.network,
            "capacity_zero": a_zero.total,
            "ratio_zero": row["ratio"] * a_zero.total / a.total,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the zoo and the victims of a profile, one JSON line each."""
    help_ = "only these of zoo, signs, cifar10, gtsrb, with commas"
    choice = studies.command_line(__doc__, "generalisation_networks", help_).parse_args(arguments)
    experiments = {e.data: e for e in first_run.experiments(choice.profile)}
    for data in ("zoo", *experiments):
        if choice.data and data not in choice.data.split(","):
            continue
        heading = {"data": data, "profile": choice.profile}
        make = partial(studies.made, heading, partial(_rows, experiments.get(data)))
        record = once(choice.results, f"{data}, {choice.profile}", make, named=_named)
        print(f"{data}: {len(record['rows'])} networks", flush=True)
    return 0


def _named(record: Mapping[str, Any]) -> str | None:
    current = record["versions"].get("streams", 1) == VERSION  # older ones are other networks
    return f"{record['data']}, {record['profile']}" if current else None


def _rows(experiment: first_run.Experiment | None) -> dict[str, Any]:
    if experiment is None:
        return {"source": "digits", "rows": list(zoo())}
    data = experiment.data
    dataset = load(data) if data == "signs" else load(data, clean=1000, test=2000)
    search = {"restarts": 2, "steps": 10, "images": 100}
    rows = list(before_and_after(experiment, dataset, **search))
    return {"source": dataset.source, "rows": rows}


if __name__ == "__main__":
    raise SystemExit(main())
