"""The search for I-BAU's settings: chosen on five attacks, and on images of no table.

    python -m ibau_lab.tuning --data cifar10 --results book/results/tuning.jsonl

The networks are those of the zoo (profile `cpu`); BadNets, Blend, l2 inv, Trojan SQ and all-to-all
may be looked at, the other attacks are kept for the tables, which confirm or refute what was chosen
here; chapter 12 says where cells of the tables had a say all the same. A row differs from `START`
in what its name says; `CHOSEN` is `contenders.unlearning`. ACC and ASR are measured on the
validation split and on 7,000 images of the training split (as they are, without the poison), since
1,000 images leave an error of a point; rows A to F are older, and were measured on the validation
split alone. What is in the results file already is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ibau_lite.searches import Aimed, AimedUnion

from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.defenses import IBAU
from ibau_lite.metrics import evaluate, spread
from ibau_lite.minimax import Ascent, Scouted
from ibau_lite.sets import L2Ball
from ibau_lite.solvers import MINRES
from ibau_lite.streams import VERSION

from .cells import describe, line, run
from .grid import grid
from .records import read
from .zoo import Zoo

__all__ = ["ATTACKS", "CHOSEN", "ROWS", "START", "main", "measured_on", "recipe", "table"]

ATTACKS = ("badnets", "blend", "l2_inv", "trojan_sq", "all_to_all")
"""The attacks that settings may be chosen by."""

START = IBAU(rounds=1, inner=Ascent(8), solver=None)
"""One naive round with one ascent; the indirect term comes last, since nothing costs as much."""

_PRODUCTS: dict[str, Any] = {"solver": MINRES(max_iter=2), "implicit_images": 25}
_OFTEN: dict[str, Any] = {"rounds": 4, "outer_images": 1250}
_KEPT: dict[str, Any] = {"distillation_weight": 0.9, "stamped": 0.2}
_PARTS: dict[str, Any] = {**_KEPT, "batch_size": 100, "inner": Scouted()}
_AIMED: dict[str, Any] = {**_PARTS, "inner": Aimed()}
_LIGHTER: dict[str, Any] = {**_AIMED, "stamped": 0.1}
_LONGER: dict[str, Any] = {**_LIGHTER, "outer_images": 10_000}
_SETS: dict[str, Any] = {**_LONGER, "inner": AimedUnion(), "stamped": 0.5}
_BACK: dict[str, Any] = {**_SETS, "interpolation": 0.1}
_FREE: dict[str, Any] = {**_SETS, "inner": AimedUnion(images=20), "distillation_weight": 0.0}
_RARE: dict[str, Any] = {**_FREE, "stamped": 0.15}
_FAR: dict[str, Any] = {**_BACK, **_PRODUCTS, "outer_images": 40_000}
_FAR_KEPT: dict[str, Any] = {**_FAR, "inner": AimedUnion(keep_scouts=True)}
_FAR_RARE: dict[str, Any] = {**_RARE, **_PRODUCTS, "outer_images": 40_000}
_FAR_RARE_KEPT: dict[str, Any] = {**_FAR_RARE, "inner": AimedUnion(images=20, keep_scouts=True)}
_BOUNDED: dict[str, Any] = {"max_indirect_ratio": 0.1}


def _rounds(count: int) -> dict[str, Any]:
    return {"rounds": count, "outer_images": 40_000 // count}


ROWS: dict[str, dict[str, Any]] = {
    "start": {},
    "4 parts": {"inner": Scouted()},
    "anchor 0.9": {"distillation_weight": 0.9},
    "δ four times": _OFTEN,
    "δ four times, anchor 0.9": {**_OFTEN, "distillation_weight": 0.9},
    "δ four times, anchor 0.9, 20 % stamped": {**_OFTEN, **_KEPT},
    "anchor 0.9, 20 % stamped": _KEPT,
    "anchor 0.9, 50 % stamped": {**_KEPT, "stamped": 0.5},
    "anchor 0.9, 20 % stamped, 4 parts": {**_KEPT, "inner": Scouted()},
    "anchor 0.9, 20 % stamped, batches of 100": {**_KEPT, "batch_size": 100},
    "B: all of these": _PARTS,
    "B, lr 5e-4": {**_PARTS, "lr": 5e-4},
    "B, anchor 0.97": {**_PARTS, "distillation_weight": 0.97},
    "B, radius 3": {**_PARTS, "ball": L2Ball(3.0)},
    "B, radius 6": {**_PARTS, "ball": L2Ball(6.0)},
    "B, 2 rounds": {**_PARTS, "rounds": 2},
    "B, 10 % stamped": {**_PARTS, "stamped": 0.1},
    "B, 10 % stamped, 2 rounds": {**_PARTS, "stamped": 0.1, "rounds": 2},
    "B, 2 products": {**_PARTS, **_PRODUCTS},
    "C: B, aimed instead of parts": _AIMED,
    "C, 10 % stamped": _LIGHTER,
    "D: C, 10 % stamped, 10,000 images": _LONGER,
    "D, 2 products": {**_LONGER, **_PRODUCTS},
    "D, 50 % stamped": {**_LONGER, "stamped": 0.5},
    "E: D in several sets, 50 % stamped": _SETS,
    "E, drawn back": _BACK,
    "E, drawn back, 2 products": {**_BACK, **_PRODUCTS},
    "F: E without the anchor": _FREE,
    "F, 15 % stamped": _RARE,
    "F, 15 % stamped, 2 products": {**_RARE, **_PRODUCTS},
    "G: E, drawn back, 2 products, 40,000 images": _FAR,
    "G with the scouts' δ": _FAR_KEPT,
    "G with the scouts' δ, trust 0.1": {**_FAR_KEPT, **_BOUNDED},
    "G with the scouts' δ, 2 rounds": {**_FAR_KEPT, **_rounds(2)},
    "G with the scouts' δ, 4 rounds": {**_FAR_KEPT, **_rounds(4)},
    "G with the scouts' δ, 2 rounds, trust 0.1": {**_FAR_KEPT, **_rounds(2), **_BOUNDED},
    "G with the scouts' δ, 4 rounds, trust 0.1": {**_FAR_KEPT, **_rounds(4), **_BOUNDED},
    "G with the scouts' δ, 4 rounds, trust 0.1, lr 2e-3": {
        **_FAR_KEPT, **_rounds(4), **_BOUNDED, "lr": 2e-3,
    },
    "H: F, 15 % stamped, 2 products, 40,000 images": _FAR_RARE,
    "H, trust 0.1": {**_FAR_RARE, **_BOUNDED},
    "H, trust 0.1, 2 rounds": {**_FAR_RARE, **_BOUNDED, **_rounds(2)},
    "H, trust 0.1, 4 rounds": {**_FAR_RARE, **_BOUNDED, **_rounds(4)},
    "H with the scouts' δ, trust 0.1, 2 rounds": {**_FAR_RARE_KEPT, **_BOUNDED, **_rounds(2)},
    "H with the scouts' δ, trust 0.1, lr 2e-3": {**_FAR_RARE_KEPT, **_BOUNDED, "lr": 2e-3},
}  # fmt: skip
"""Row -> what it changes in `START`."""

CHOSEN = {"cifar10": "G with the scouts' δ, trust 0.1", "gtsrb": "H, trust 0.1"}
"""Data set -> the row that the tables are run with."""


def recipe(row: str, data: str) -> IBAU:
    """The settings of a row for a data set; `KeyError` for another name."""
    return replace(START, flip=data == "cifar10", **ROWS[row])


def measured_on(dataset: Dataset) -> LabelledImages:
    """The validation split, then 7,000 images of the training split: 8,000, none of a table."""
    drawn = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(7))
    held_out, train = dataset.validation, dataset.train[drawn[:7_000]]
    return LabelledImages(
        torch.cat([held_out.images, train.images]), torch.cat([held_out.labels, train.labels])
    )


def table(records: Iterable[Mapping[str, Any]], data: str) -> str:
    """A Markdown table: change of ACC in points / ASR, for each attack.

    "images" is how many were measured on. Records of rows that are not in `ROWS`, or had other
    settings than now, are left out.
    """
    cells: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for record in records:
        row = record["defense"]
        if record["data"] == data and row in ROWS and _same(record, recipe(row, data)):
            of_row = cells.setdefault(row, {})
            of_row.setdefault(record["attack"], {})[record["seed"]] = record
    attacks = list(dict.fromkeys(attack for of_row in cells.values() for attack in of_row))
    rows = [["row", "images", *attacks], ["---", "---:"] + ["---:"] * len(attacks)]
    for name, of_row in cells.items():
        every = [run for runs in of_row.values() for run in runs.values()]
        counts = sorted({run["settings"]["test"]["count"] for run in every})
        shown = [_outcome(list(of_row.get(attack, {}).values())) for attack in attacks]
        rows.append([name, ", ".join(f"{count:,}" for count in counts), *shown])
    return grid(rows)


def _outcome(runs: Sequence[Mapping[str, Any]]) -> str:
    if not runs:
        return ""
    drops = [run["after"]["accuracy"] - run["before"]["accuracy"] for run in runs]
    success = spread(run["after"]["attack_success_rate"] for run in runs)
    return f"{100 * sum(drops) / len(drops):+.1f} / {success}"


def _same(record: Mapping[str, Any], settings: IBAU) -> bool:
    if record["versions"].get("streams", 1) != VERSION:
        return True  # of an older network, and described in older words: known by its name
    told: dict[str, Any] = {**describe(IBAU()), **record["settings"]["config"]}
    if told["inner"]["kind"] == "AimedUnion":
        told["inner"] = {**describe(AimedUnion()), **told["inner"]}
    return told == describe(settings)  # a setting may be newer than the record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rows × attacks × seeds from the command line, or print the table of what was run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("cifar10", "gtsrb"), default="cifar10")
    parser.add_argument("--results", type=Path, default=Path("results/tuning.jsonl"))
    parser.add_argument("--folder", type=Path, help="of the networks; the data's cache by default")
    parser.add_argument("--rows", help="only these rows, separated by semicolons")
    parser.add_argument("--attacks", help="only these of the five, separated by commas")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    choice = parser.parse_args(arguments)
    if choice.table:
        print(table(read(choice.results), choice.data))
        return 0
    rows = choice.rows.split(";") if choice.rows else list(ROWS)
    if unknown := sorted(set(rows) - ROWS.keys()):
        parser.error(f"no row {'; '.join(unknown)}; the rows are {'; '.join(ROWS)}")
    asked = choice.attacks.split(",") if choice.attacks else ATTACKS
    if unknown := sorted(set(asked) - set(ATTACKS)):
        parser.error(f"{', '.join(unknown)}: kept for the tables; {', '.join(ATTACKS)} may be seen")
    zoo = Zoo.open(choice.data, "cpu", choice.folder)
    watched = replace(zoo.dataset, test=measured_on(zoo.dataset))
    for name in asked:
        member = zoo.member(name)
        attack, victim = zoo.attack(member.attack), zoo.network(member)
        victim = replace(victim, report=evaluate(victim.model, watched.test, attack))
        print(f"{name}, before: {victim.report}", flush=True)
        for row in rows:
            for seed in range(choice.seeds):
                record = run(
                    watched, attack, victim, "ibau", recipe(row, choice.data),
                    label=row, seed=seed, profile="cpu", results=choice.results,
                )  # fmt: skip
                print(line(record), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
