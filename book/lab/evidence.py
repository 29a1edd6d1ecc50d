"""What a page says about recorded cells: how many, and what they amount to.

A page shows the records of profile `full` where a table has any, those of `cpu` otherwise, and
works with none at all. Nothing here judges anew: *removed*, *kept*, *agrees* and *wins* are those
of `compare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pandas as pd

from ibau_lite import zoo
from ibau_lite.attacks.named import ONE_TARGET

from .compare import (
    Comparison,
    Outcome,
    adopted,
    compare,
    named,
    of_cells,
    points,
    settled,
    strange,
    success,
)
from .contenders import CONTENDERS, RECIPES, contender
from .courses import course
from .first_run import experiments
from .grid import grid, mark, share
from .layout import matrix_rows, means
from .plan import TABLES, plan
from .records import Records, device, usual_device

COMPARED = TABLES[:-1]
"""The tables of ACC and ASR; Table 6 has the seconds of cells of the first two."""

_REAL = ("full", "cpu")
_FINE_TUNING = CONTENDERS["ft"][0]
_MARGIN = 0.05
_ATTACKS = (*ONE_TARGET, "all_to_all", "seven_to_seven")


def shown(records: Records, table: str) -> tuple[str, list[Comparison]]:
    """The profile that a page shows of a table, and its cells: `full` if any is done, else `cpu`.

    Raises `ValueError` for a table that is not there.
    """
    records = list(records)
    for profile in _REAL:
        compared = compare(records, table, profile)
        if any(each.n for each in compared):
            break
    return profile, compared


def on_networks(
    records: Records, data: str, networks: Sequence[str]
) -> tuple[str, list[Comparison]]:
    """The profile that is shown, and every defence on these networks of a data set.

    The cells are those of Tables 1, 2 and 6, defences in the order of `CONTENDERS`.
    """
    records = list(records)
    profile, _ = shown(records, "table1" if data == "cifar10" else "table2")
    cells = plan(["table1", "table2", "table6"], profile, attacks=networks, data=[data])
    order = list(CONTENDERS)
    return profile, of_cells(records, sorted(cells, key=lambda cell: order.index(cell.defense)))


def progress(records: Records, tables: Sequence[str]) -> str:
    """What is recorded of each table and profile as Markdown, and the command that goes on.

    "others" counts finished records of these tables whose settings are not the plan's any more, and
    those that `compare.current` leaves out because of their images; they are in no table.
    """
    records = adopted(records)
    done = [record["cell"] for record in records if "cell" in record and "error" not in record]
    rows = []
    for table in tables:
        for profile in reversed(_REAL):
            # As the plan tells them, settings apart: the same cells, run with other settings.
            told_as = {cell.key: {**cell.told, "key": ""} for cell in plan([table], profile)}
            older = [{**cell, "key": ""} for cell in done if cell["key"] not in told_as]
            others = sum(cell in told_as.values() for cell in older)
            others += sum(record["cell"]["key"] in told_as for record in strange(records, profile))
            rows.append([table, profile, *settled(records, table, profile), others])
    head = ["table", "profile", "cells planned", "done", "failed", "others"]
    counted = pd.DataFrame(rows, columns=head)
    text = grid(counted, "llr")
    if not counted["done"].sum():
        text += "\n\n**Nothing is recorded yet**: the talk's numbers stand alone below."
    command = f"python -m ibau_lab reproduce {' '.join(tables)} --profile cpu --seeds 3"
    where = "--results book/results/reproduce.jsonl"
    return f"{text}\n\nThis goes on where the records end:\n\n```\n{command} \\\n    {where}\n```"


def training(data: str) -> str:
    """How the networks of a data set are trained in each real profile, as Markdown."""
    lines = []
    for profile in reversed(_REAL):
        epochs = {name: _epochs(data, profile, name) for name in _ATTACKS}
        ((usual, _),) = Counter(epochs.values()).most_common(1)
        others = ", ".join(f"{name} {n}" for name, n in epochs.items() if n != usual)
        told = f"{usual} epochs with the poison" + (f" ({others})" if others else "")
        if profile == "cpu" and "start" in _trained_with(data, "badnets"):
            told = f"a cycle of clean images, then {told}"
        rounds = ", ".join(
            f"{CONTENDERS[name][0]} {contender(name, profile, data).config.rounds}"
            for name in ("ibau", "released", "exact")
        )
        lines.append(f"- `{profile}`: {told}. Rounds at most: {rounds}.")
    return "\n".join(lines)


def _epochs(data: str, profile: str, attack: str) -> int:
    """How often the poisoned images are seen: of `cpu` by the networks that are shipped."""
    if profile != "cpu":
        (trained,) = (each for each in experiments(profile) if each.data == data)
        return course(trained, profile, attack).epochs
    told = _trained_with(data, attack)
    return sum(recipe["epochs"] for recipe in told.get("recipes") or [told["recipe"]])


def _trained_with(data: str, attack: str) -> dict[str, Any]:
    settings: dict[str, Any] = zoo.load(data, attack).metadata["settings"]
    return settings


def verdicts(compared: Iterable[Comparison]) -> str:
    """The cells that were run as Markdown: ACC, ASR, and the two answers that are compared."""
    head = ["row", "defence", "n", "ACC", "points lost", "ASR", "removed", "kept"]
    rows: list[list[Any]] = []
    for each in compared:
        if each.ours is None:
            continue
        row = named(each.case)
        if row not in (above[0] for above in rows):
            acc, asr = means(record["before"] for record in each.records)
            rows.append([row, "no defence", "", f"{acc} %", "", f"{asr} %", "", ""])
        told = [each.label, each.n, each.accuracy, points(each.ours.drop), success(each)]
        rows.append([row, *told, mark(each.ours.removed), mark(each.ours.kept)])
    return grid(pd.DataFrame(rows, columns=head), "llrrrrcc")


def costs(compared: Iterable[Comparison]) -> str:
    """A line a defence, a column a network, as Markdown: ACC / ASR in per cent, and seconds.

    Means over the n seeds; the talk's are in brackets, — was not run, × found no trigger. The
    seconds are the mean of a defence's runs on these networks on the hardware that most of all
    these runs used; runs elsewhere are left out of it, unless there are no others: then their
    hardware is named. The first line is the network before any defence.
    """
    compared = list(compared)
    usual = usual_device(record for each in compared for record in each.records) or "not run"
    spent = [""]  # of no defence
    for group in _by_label(compared).values():
        runs = [record for each in group for record in each.records]
        where = usual if usual in map(device, runs) else usual_device(runs) or usual
        seconds = [record["seconds"] for record in runs if device(record) == where]
        price = f"{sum(seconds) / len(seconds):.1f}" if seconds else ""
        spent.append(price + (f" ({where})" if where != usual else ""))
    return grid(matrix_rows(compared).assign(**{f"s ({usual})": spent}))


def summary(compared: Iterable[Comparison]) -> str:
    """A line a defence as Markdown: on how many rows it removed, kept, did both; the talk's counts.

    "every seed" is on how many rows each seed by itself removed, where "removed" asks the mean;
    "agree" on how many both give the same answers, out of those that both have.
    """
    head = ["defence", "rows", "removed", "every seed", "kept", "both", "the talk: both", "agree"]
    rows = []
    for label, group in _by_label(compared).items():
        ours = [each.ours for each in group if each.ours]
        every = sum(each.n > 0 and each.removed_by == each.n for each in group)
        counted: list[Any] = ["not run", "", "", ""]
        if ours:
            counted = [sum(o.removed for o in ours), every, sum(o.kept for o in ours)]
            counted.append(sum(o.both for o in ours))
        theirs = share(each.theirs.both if each.theirs else None for each in group)
        agree = share(each.agrees for each in group)
        rows.append([label, len(ours), *counted, theirs, agree])
    return grid(pd.DataFrame(rows, columns=head))


def rows_won(compared: Iterable[Comparison]) -> str:
    """For each recipe of I-BAU a line: on which rows it is no worse than the talk's I-BAU."""
    lines = []
    for label, group in _by_label(compared).items():
        judged = [each for each in group if each.wins is not None]
        if label in ("I-BAU", *RECIPES) and judged:
            won = [named(each.case) for each in judged if each.wins]
            lines.append(
                f"- **{label}** matches or beats the talk's I-BAU on {len(won)} of {len(judged)} "
                "rows" + (f": {', '.join(won)}." if won else ".")
            )
    return "\n".join(lines) or "- I-BAU is not recorded on this table yet."


def better_than_fine_tuning(compared: Iterable[Comparison]) -> str:
    """For each defence a line: on how many rows fine-tuning is beaten.

    Beaten: an ASR more than 5 points lower, at no more than 5 points of accuracy beyond what
    fine-tuning costs, over the seeds that both have.
    """
    groups = _by_label(compared)
    base = {each.case: each for each in groups.pop(_FINE_TUNING, [])}
    lines = []
    for label, group in groups.items():
        both = [(each, base[each.case]) for each in group if each.case in base]
        outcomes = [(a.of_seeds(b.seeds).ours, b.of_seeds(a.seeds).ours) for a, b in both]
        beaten = share(
            ours.attack_success_rate < tuned.attack_success_rate - _MARGIN
            and ours.drop <= tuned.drop + _MARGIN
            for ours, tuned in outcomes
            if ours and tuned
        )
        lines += [f"- {label}: {beaten} rows"] if beaten else []
    return "\n".join(lines) or "- No row has both fine-tuning and another defence yet."


def prices(
    compared: Iterable[Comparison],
) -> dict[str, list[tuple[Outcome | None, Outcome | None]]]:
    """Label -> (ours, the talk's) of each row that one of them has, for `plots.price`."""
    pairs = {
        label: [(each.ours, each.theirs) for each in group if each.ours or each.theirs]
        for label, group in _by_label(drawn(compared)).items()
    }
    return {label: rows for label, rows in pairs.items() if rows}


def by_setting(
    compared: Iterable[Comparison], setting: Literal["rate", "clean"], *, lost: bool = False
) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Label -> "ours" or "the talk" -> setting -> ASR, one a seed, for `plots.over_setting`.

    With `lost` the fraction of accuracy lost instead. `setting` is a field of the case.
    """
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for each in drawn(compared):
        x = float(getattr(each.case, setting))
        alone = [each.of_seeds({seed}).ours for seed in sorted(each.seeds)]
        for name, outcomes in (("ours", alone), ("the talk", [each.theirs])):
            values = [o.drop if lost else o.attack_success_rate for o in outcomes if o]
            if values:
                found.setdefault(each.label, {}).setdefault(name, {})[x] = values
    return found


def drawn(compared: Iterable[Comparison]) -> list[Comparison]:
    """The cells of a figure: of defences that were run, or that the talk has under their own name.

    The talk's I-BAU is not drawn again for a recipe of ours that was not run.
    """
    compared = list(compared)
    run = {each.label for each in compared if each.n}
    own = {each.label for each in compared if each.talk and not each.repeats}
    return [each for each in compared if each.label in run | own]


def _by_label(compared: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for each in compared:
        groups.setdefault(each.label, []).append(each)
    return groups
