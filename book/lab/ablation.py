"""Does the indirect term help, and when? One setting changed at a time, on real poisoned networks.

    python -m ibau_lab.ablation --data gtsrb --results book/results/ablation.jsonl

The networks are those of `first_run` (profile `cpu`); the defender owns 1,000 clean images and has
two rounds, so that a row takes a minute or two on a CPU. The rows of `ROWS` differ from
`IBAU.classical` in what their names say and in nothing else, and share their seeds with it: rows of
one seed may be subtracted. ACC and ASR are measured on 2,000 test images after each round, by which
nothing is chosen. What is in the results file already is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ibau_lite.data import Dataset
from ibau_lite.defenses import IBAU
from ibau_lite.ibau import Indirect, InnerObjective
from ibau_lite.metrics import evaluate
from ibau_lite.minimax import Ascent, Climb, OnePass, Untargeted
from ibau_lite.solvers import MINRES, ConjugateGradient, FixedPoint

from .cells import line, run
from .first_run import experiments

__all__ = ["GROUPS", "ROWS", "main", "recipe"]

CLEAN, TEST = 1_000, 2_000

_INTERIOR: dict[str, Any] = {"max_ratio": None, "on_ball": False}


def _products(count: int) -> dict[str, Any]:
    return {"indirect": Indirect(MINRES(max_iter=count), images=50) if count else None}


def _solved(**changes: Any) -> dict[str, Any]:
    return {"indirect": Indirect(**{"solver": MINRES(max_iter=5), "images": 50, **changes})}


_CLIMBS: dict[str, Climb] = {
    "one pass (published)": OnePass(10.0),
    "1 step": Ascent(1),
    "3 steps": Ascent(3),
    "24 steps": Ascent(24),
    "4 starts": Ascent(8, starts=4),
}

GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "products with the Hessian": {
        f"K = {count}" if count else "naive (K = 0)": _products(count)
        for count in (0, 1, 2, 5, 10, 50)
    },
    "equal time": {"naive, 8 rounds": {**_products(0), "rounds": 8}},
    "inner solve": {
        f"{name}{', naive' if not count else ''}": {"search": Untargeted(climb), **_products(count)}
        for name, climb in _CLIMBS.items()
        for count in (0, 5)
    },
    "the indirect term as it comes": {
        "on the ball": _solved(max_ratio=None),
        "on the ball, damping 1": _solved(solver=MINRES(max_iter=5, damping=1.0), max_ratio=None),
        "interior": _solved(**_INTERIOR),
        "interior, conjugate gradients": _solved(solver=ConjugateGradient(max_iter=5), **_INTERIOR),
        **{
            f"interior, fixed point, step {step:g}": _solved(
                solver=FixedPoint(step=step, max_iter=5, compute_residual=False), **_INTERIOR
            )
            for step in (0.01, 0.1, 1.0)
        },
    },
}  # fmt: skip
"""Group -> row -> what it changes in `IBAU.classical`, which is K = 5."""

ROWS = {name: changes for group in GROUPS.values() for name, changes in group.items()}
RECIPES = ("released", "exact")


def recipe(row: str, *, gtsrb: bool) -> IBAU:
    """The settings of a row of `ROWS`, or of `released` or `exact`; `KeyError` for another name."""
    if row == "released":
        return IBAU.released(gtsrb=gtsrb, rounds=2)
    if row == "exact":
        search = Untargeted(Ascent(20))
        return IBAU.exact(rounds=2, search=search, inner=InnerObjective(images=500))
    return IBAU.classical(rounds=2, **ROWS[row])


def _reduced(dataset: Dataset) -> Dataset:
    return replace(dataset, clean=dataset.clean[:CLEAN], test=dataset.test[:TEST])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rows × seeds from the command line, one printed line a cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = {experiment.data: experiment for experiment in experiments("cpu")}
    parser.add_argument("--data", choices=sorted(known), default="gtsrb")
    parser.add_argument("--results", type=Path, default=Path("results/ablation.jsonl"))
    parser.add_argument("--rows", help="only these rows, separated by semicolons")
    parser.add_argument("--seeds", type=int, default=3)
    choice = parser.parse_args(arguments)
    rows = choice.rows.split(";") if choice.rows else [*ROWS, *RECIPES]
    unknown = sorted(set(rows) - {*ROWS, *RECIPES})
    if unknown:
        parser.error(f"no row {'; '.join(unknown)}; the rows are {'; '.join([*ROWS, *RECIPES])}")
    experiment = known[choice.data]
    whole = experiment.load()
    victim = experiment.victim(whole, progress=True)
    dataset = _reduced(whole)
    victim = replace(victim, report=evaluate(victim.model, dataset.test, experiment.attack))
    for row in rows:
        settings = recipe(row, gtsrb=choice.data == "gtsrb")
        for seed in range(choice.seeds):
            record = run(
                dataset,
                experiment.attack,
                victim,
                "ibau",
                settings,
                label=row,
                seed=seed,
                profile="cpu",
                results=choice.results,
                progress=True,
            )
            print(line(record), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
