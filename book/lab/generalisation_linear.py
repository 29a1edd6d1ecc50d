"""Theorem 2 put to the test: populations that are known to the last image, and samples of them.

    python -m ibau_lab.generalisation_linear --profile cpu

Chapter 9 calls the same functions. A sample is drawn with replacement from a finite population, so
that the images are independent, as the theorem wants them, and its left side is known exactly: it
is an average over the population. What is in the results file already is not run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from ibau_lite.theory.generalisation_linear import augmented, centred, choose_margin
from ibau_lite.theory.margins import margin_error, margins
from ibau_lite.theory.worst_shift import worst_shift
from torch import Tensor, nn

from ibau_lite.data import Dataset

from . import first_run
from .engine import once
from .studies import command_line, made, small_digits


@dataclass(frozen=True, eq=False)
class Population:
    """All images there are: features [N, d] of norm at most `chi` and labels [N] from 0.

    `fixed` is how many of the last features no δ may touch (the constant that carries the bias);
    `chi` is known without looking at the images. `source` follows every result.
    """

    name: str
    features: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    classes: int
    chi: float
    fixed: int
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent images with their labels: drawn with replacement."""
        index = torch.randint(len(self), (n,), generator=generator)
        return self.features[index], self.labels[index]

    def error(self, theta: Tensor, delta: Tensor | None = None) -> float:
        """Pr[arg max θ(x + δ) ≠ y], ties counted as errors: the left side, exactly."""
        moved = self.features if delta is None else self.features + delta
        return float(margin_error(margins(moved @ centred(theta).T, self.labels)))


def digits() -> Population:
    """The 1,797 handwritten digits as 8×8 pixels around 1/2, with a constant: χ = √17."""
    dataset = small_digits()
    parts = (dataset.train, dataset.clean, dataset.validation, dataset.test)
    features = augmented(torch.cat([part.images for part in parts])).double()
    labels = torch.cat([part.labels for part in parts])
    return Population("digits", features, labels, 10, math.sqrt(17), 1, dataset.source)


def pair(population: Population, first: int, second: int) -> Population:
    """Only two of the classes, as classes 0 and 1."""
    chosen = (population.labels == first) | (population.labels == second)
    return replace(
        population,
        name=f"{population.name} {first}/{second}",
        features=population.features[chosen],
        labels=(population.labels[chosen] == second).long(),
        classes=2,
    )


def features_of(dataset: Dataset, model: nn.Module) -> Population:
    """What a network's last layer sees of the official test half: one unit vector an image.

    The maps are averaged over their positions, then normalised. The network was trained on the
    other half: the features do not depend on the sample. A δ lives in this feature space, not among
    pixels; χ = 1 by construction, and the linear model has no bias.
    """
    parts = (dataset.clean, dataset.validation, dataset.test)
    device = next(model.parameters()).device
    body: nn.Module = model.features  # type: ignore[assignment]  # of `small_vgg`
    with torch.inference_mode():
        maps = [
            body(batch.to(device)).mean((2, 3)).double().cpu()
            for part in parts
            for batch in part.images.split(500)
        ]
    return Population(
        f"{dataset.name} features",
        F.normalize(torch.cat(maps), dim=1).clone(),
        torch.cat([part.labels for part in parts]),
        dataset.num_classes,
        1.0,
        0,
        dataset.source,
    )


def train(features: Tensor, labels: Tensor, classes: int, *, decay: float = 1e-2) -> Tensor:
    """θ [k, d] minimising the mean cross-entropy + ½·decay·‖θ‖²_F: convex, solved by L-BFGS."""
    theta = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [theta], max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(features @ theta.T, labels) + 0.5 * decay * theta.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return theta.detach()


def compare(
    population: Population,
    theta: Tensor,
    sample: tuple[Tensor, Tensor],
    c_delta: float,
    *,
    xi: float = 0.05,
    restarts: int = 16,
) -> dict[str, Any]:
    """Both sides of Theorem 2 at the δ that the search finds worst *for the population*.

    `left` is the population's error there (exact), `sample_error` the sample's, `worst_on_sample`
    the error of the sample at the δ that is worst for it; `agree` says how many restarts came
    within one per cent of the best; `empirical`, `complexity`, `confidence`, `total`, `gamma` are
    the bound at this δ, minimised over γ.
    """
    features, labels = sample
    settings = {"fixed": population.fixed, "restarts": restarts}
    found = worst_shift(theta, population.features, population.labels, c_delta, **settings)
    own = worst_shift(theta, features, labels, c_delta, **settings)
    choice = choose_margin(
        theta, features, labels, chi=population.chi, c_delta=c_delta, xi=xi, delta=found.delta
    )
    here = margins((features + found.delta) @ centred(theta).T, labels)
    near = (found.by_restart >= found.error - 0.01).sum()
    terms = ("empirical", "complexity", "confidence", "total")
    return {
        "n": len(labels),
        "c_delta": c_delta,
        "xi": xi,
        "left": found.error,
        "left_ceiling": found.ceiling,
        "agree": float(near) / len(found.by_restart),
        "sample_error": float(margin_error(here)),
        "worst_on_sample": own.error,
        "gamma": choice.gamma / float(torch.linalg.vector_norm(centred(theta))),
        **{term: getattr(choice.bound, term) for term in terms},
    }


def sweep(
    population: Population,
    sizes: Sequence[int],
    radii: Sequence[float],
    *,
    xi: float = 0.05,
    decays: Sequence[float] = (1e-2,),
) -> Iterator[dict[str, Any]]:
    """One row for each n and C_δ: of the θ trained with these decays the one with the least bound.

    The theorem holds for all θ at once, so the choice among them is free.
    """
    for n in sizes:
        sample = population.draw(n, torch.Generator().manual_seed(0))
        thetas = [train(*sample, population.classes, decay=decay) for decay in decays]
        for c_delta in radii:
            rows = [compare(population, theta, sample, c_delta, xi=xi) for theta in thetas]
            yield min(rows, key=lambda row: row["total"])


def coverage(
    population: Population,
    n: int,
    c_delta: float,
    *,
    draws: int,
    xi: float = 0.05,
) -> list[dict[str, Any]]:
    """`draws` independent samples of size n, a θ trained on each: the rows of `compare`.

    The theorem lets `left` exceed `total` in a fraction ξ of all samples.
    """
    generator = torch.Generator().manual_seed(0)
    samples = [population.draw(n, generator) for _ in range(draws)]
    return [
        compare(population, train(*sample, population.classes), sample, c_delta, xi=xi, restarts=8)
        for sample in samples
    ]


@dataclass(frozen=True)
class Task:
    """What `main` records of one population; the sweep chooses among the decays."""

    data: str
    sizes: tuple[int, ...]
    radii: tuple[float, ...]
    pair: tuple[int, int] | None = None
    decays: tuple[float, ...] = (1e-3, 1e-2)
    coverage: tuple[int, float, int] | None = None  # n, C_δ, draws

    @property
    def name(self) -> str:
        """What the records call its population."""
        name = self.data + (" features" if self.data != "digits" else "")
        return name + ("" if self.pair is None else f" {self.pair[0]}/{self.pair[1]}")


_SIZES = (100, 300, 1000, 3000, 10_000)
_SMOKE = (
    Task("digits", (300, 1000), (0.0, 0.5)),
    Task("digits", (100, 300), (0.0, 0.5), pair=(0, 1), coverage=(100, 0.5, 20)),
)
_REAL = (
    Task("digits", _SIZES, (0.0, 0.5, 1.0), coverage=(300, 0.5, 50)),
    Task("digits", _SIZES, (0.0, 0.5, 1.0), pair=(0, 1), coverage=(100, 0.5, 500)),
    Task("cifar10", (1000, 10_000), (0.0, 0.1, 0.2)),
    Task("cifar10", _SIZES[1:], (0.0, 0.1, 0.2), pair=(0, 1)),
    Task("gtsrb", (1000, 10_000), (0.0, 0.1, 0.2), decays=(1e-3,)),
    Task("gtsrb", _SIZES[1:], (0.0, 0.1, 0.2), pair=(1, 2)),
)
PROFILES = {"smoke": _SMOKE, "cpu": _REAL, "full": _REAL}


def _population(task: Task) -> Population:
    if task.data == "digits":
        whole = digits()
    else:
        (experiment,) = [e for e in first_run.experiments("cpu") if e.data == task.data]
        dataset = experiment.load()
        whole = features_of(dataset, experiment.victim(dataset, progress=True).model)
    return whole if task.pair is None else pair(whole, *task.pair)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the tasks of a profile, one JSON line each."""
    parser = command_line(__doc__, "generalisation_linear", "only these data sets, with commas")
    choice = parser.parse_args(arguments)
    for task in PROFILES[choice.profile]:
        if choice.data and task.data not in choice.data.split(","):
            continue
        population = cache(partial(_population, task))
        for kind in ["sweep"] + ["coverage"] * (task.coverage is not None):
            heading = {"population": task.name, "profile": choice.profile, "kind": kind}
            make = partial(made, heading, partial(_rows, task, kind, population))
            rows = once(choice.results, _named(heading), make, named=_named)["rows"]
            failed = sum(row["left"] > row["total"] for row in rows)
            print(f"{task.name} ({kind}): {len(rows)} rows, the bound failed in {failed}")
    return 0


def _named(record: Mapping[str, Any]) -> str:
    return "{population}, {profile}, {kind}".format_map(record)


def _rows(task: Task, kind: str, populated: Callable[[], Population]) -> dict[str, Any]:
    population = populated()
    if kind == "sweep":
        rows = list(sweep(population, task.sizes, task.radii, decays=task.decays))
    else:
        assert task.coverage is not None
        n, c_delta, draws = task.coverage
        rows = coverage(population, n, c_delta, draws=draws)
    return {
        "classes": population.classes,
        "images": len(population),
        "chi": population.chi,
        "source": population.source,
        "rows": rows,
    }


if __name__ == "__main__":
    raise SystemExit(main())
