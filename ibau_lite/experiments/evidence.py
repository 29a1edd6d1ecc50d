"""What a page says about recorded cells: how many, what they amount to, where they differ.

A page shows the records of profile `full` where a table has any, those of `cpu` otherwise, and
works with none at all. Nothing here judges anew: *removed*, *kept*, *agrees* and *wins* are those
of `compare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ibau_lite.attacks.talk import ONE_TARGET
from ibau_lite.experiments.compare import (
    Comparison,
    Outcome,
    acc_asr,
    beside,
    compare,
    named,
    of_cells,
    printed,
    published,
    seed_range,
    success,
)
from ibau_lite.experiments.contenders import CONTENDERS, contender
from ibau_lite.experiments.courses import course
from ibau_lite.experiments.first_run import experiments
from ibau_lite.experiments.grid import grid
from ibau_lite.experiments.plan import TABLES, Case, plan
from ibau_lite.metrics import spread

__all__ = [
    "COMPARED",
    "better_than_fine_tuning",
    "by_setting",
    "costs",
    "disagreements",
    "drawn",
    "on_networks",
    "prices",
    "progress",
    "rows_won",
    "shown",
    "summary",
    "training",
    "verdicts",
]

COMPARED = TABLES[:-1]
"""The tables of ACC and ASR; Table 6 has the seconds of cells of the first two."""

_REAL = ("full", "cpu")
_FINE_TUNING = CONTENDERS["ft"][0]
_MARGIN = 0.05
_ATTACKS = (*ONE_TARGET, "all_to_all", "seven_to_seven")
_MEASURES = ("accuracy", "attack_success_rate")

Records = Iterable[Mapping[str, Any]]


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


def progress(records: Records, tables: Sequence[str], *, seeds: int = 3) -> str:
    """What is recorded of each table and profile as Markdown, and the command that goes on.

    "others" counts finished records of these tables whose settings are not the plan's any more;
    they are left out of every table.
    """
    records = [record for record in records if "cell" in record]
    done = {record["cell"]["key"] for record in records if "error" not in record}
    failed = {record["cell"]["key"] for record in records} - done
    rows = [["table", "profile", "cells planned", "done", "failed", "others"]]
    rows.append(["---"] * 2 + ["---:"] * 4)
    finished = 0
    for table in tables:
        for profile in reversed(_REAL):
            cells = plan([table], profile, seeds=seeds)
            keys = {cell.key for cell in cells}
            # As the plan tells them, settings apart: the same cells, run with other settings.
            told_as = [{**cell.told, "key": ""} for cell in cells]
            others = sum(
                {**record["cell"], "key": ""} in told_as and record["cell"]["key"] not in keys
                for record in records
                if "error" not in record
            )
            count = len(keys & done)
            finished += count
            told = (len(keys), count, len(keys & failed), others)
            rows.append([table, profile, *map(str, told)])
    text = grid(rows)
    if not finished:
        text += "\n\n**Nothing is recorded yet**: the talk's numbers stand alone below."
    command = f"python -m ibau_lite reproduce {' '.join(tables)} --profile cpu --seeds {seeds}"
    where = "--results book/results/reproduce.jsonl"
    return f"{text}\n\nThis goes on where the records end:\n\n```\n{command} \\\n    {where}\n```"


def training(data: str) -> str:
    """How the networks of a data set are trained in each real profile, as Markdown."""
    lines = []
    for profile in reversed(_REAL):
        (trained,) = (each for each in experiments(profile) if each.data == data)
        lessons = course(trained, profile)
        epochs = f"{lessons.epochs} epochs with the poison"
        others = {name: course(trained, profile, name).epochs for name in _ATTACKS}
        told = [f"{name} {n}" for name, n in others.items() if n != lessons.epochs]
        epochs += f" ({', '.join(told)})" if told else ""
        if lessons.clean is not None:
            epochs = f"{lessons.clean.epochs} epochs on clean images, then {epochs}"
        rounds = ", ".join(
            f"{CONTENDERS[name][0]} {contender(name, profile, data).config.rounds}"
            for name in ("ibau", "released", "exact")
        )
        lines.append(f"- `{profile}`: {epochs}. Rounds at most: {rounds}.")
    return "\n".join(lines)


def verdicts(compared: Iterable[Comparison]) -> str:
    """The cells that were run as Markdown: ACC, ASR, and the two answers that are compared."""
    rows = [["row", "defence", "n", "ACC", "points lost", "ASR", "removed", "kept"]]
    rows.append(["---"] * 2 + ["---:"] * 4 + [":---:"] * 2)
    seen: set[Case] = set()
    for each in compared:
        if each.ours is None:
            continue
        if each.case not in seen:
            seen.add(each.case)
            before = [record["before"] for record in each.records]
            means = (spread(b[key] for b in before).mean for key in _MEASURES)
            told = [f"{100 * mean:.1f} %" for mean in means]
            rows.append([named(each.case), "no defence", "", told[0], "", told[1], "", ""])
        row = [named(each.case), each.label, str(each.n), str(each.accuracy)]
        row += [_points(each.ours.drop), success(each)]
        rows.append([*row, _mark(each.ours.removed), _mark(each.ours.kept)])
    return grid(rows)


def costs(compared: Iterable[Comparison]) -> str:
    """A line a defence, a column a network, as Markdown: ACC / ASR in per cent, and seconds.

    Means over the n seeds; the talk's are in brackets, — was not run, × found no trigger. The
    seconds are the mean of a defence's runs on these networks on the hardware that most of all
    these runs used; runs elsewhere are left out of it, unless there are no others: then their
    hardware is named. The first line is the network before any defence.
    """
    compared = list(compared)
    used = Counter(_device(record) for each in compared for record in each.records)
    device = used.most_common(1)[0][0] if used else "not run"
    columns = list(dict.fromkeys(each.case for each in compared))
    rows = [["defence", "n", *map(named, columns), f"s ({device})"]]
    rows.append(["---", "---:"] + ["---:"] * len(columns) + ["---:"])
    rows.append(["no defence", "", *(_undefended(compared, case) for case in columns), ""])
    for label, group in _by_label(compared).items():
        here = {each.case: each for each in group}
        runs = [record for each in group for record in each.records]
        there = Counter(_device(record) for record in runs)
        where = device if device in there or not there else there.most_common(1)[0][0]
        seconds = [record["seconds"] for record in runs if _device(record) == where]
        price = f"{sum(seconds) / len(seconds):.1f}" if seconds else ""
        price += f" ({where})" if where != device else ""
        count = seed_range([each.n for each in group])
        rows.append([label, count, *(acc_asr(here.get(case)) for case in columns), price])
    return grid(rows)


def _device(record: Mapping[str, Any]) -> str:
    return str(record["hardware"]["device"])


def summary(compared: Iterable[Comparison]) -> str:
    """A line a defence as Markdown: on how many rows it removed, kept, did both; the talk's counts.

    "agree" is on how many rows both give the same answers, out of those that both have.
    """
    rows = [["defence", "rows", "removed", "kept", "both", "the talk: both", "agree"]]
    rows.append(["---"] + ["---:"] * 6)
    for label, group in _by_label(compared).items():
        ours = [each.ours for each in group if each.ours is not None]
        theirs = [published(each.talk) for each in group if each.talk is not None]
        agree = [each.agrees for each in group if each.agrees is not None]
        row = [label, str(len(ours))]
        if ours:
            row += [str(sum(o.removed for o in ours)), str(sum(o.kept for o in ours))]
            row += [str(_both(ours))]
        else:
            row += ["not run", "", ""]
        row += [f"{_both(theirs)} of {len(theirs)}" if theirs else ""]
        row += [f"{sum(agree)} of {len(agree)}" if agree else ""]
        rows.append(row)
    return grid(rows)


def rows_won(compared: Iterable[Comparison]) -> str:
    """For each recipe of I-BAU a line: on which rows it is no worse than the talk's I-BAU."""
    lines = []
    for label, group in _by_label(compared).items():
        judged = [each for each in group if each.wins is not None]
        if not label.startswith("I-BAU") or not judged:
            continue
        won = [named(each.case) for each in judged if each.wins]
        lines.append(
            f"- **{label}** matches or beats the talk's I-BAU on {len(won)} of {len(judged)} rows"
            + (f": {', '.join(won)}." if won else ".")
        )
    return "\n".join(lines) or "- I-BAU is not recorded on this table yet."


def better_than_fine_tuning(compared: Iterable[Comparison]) -> str:
    """For each defence a line: on how many rows fine-tuning is beaten.

    Beaten: an ASR more than 5 points lower, at no more than 5 points of accuracy beyond what
    fine-tuning costs.
    """
    groups = _by_label(compared)
    base = {each.case: each.ours for each in groups.pop(_FINE_TUNING, []) if each.ours}
    lines = []
    for label, group in groups.items():
        pairs = [(each.ours, base[each.case]) for each in group if each.ours and each.case in base]
        beaten = sum(
            ours.attack_success_rate < tuned.attack_success_rate - _MARGIN
            and ours.drop <= tuned.drop + _MARGIN
            for ours, tuned in pairs
        )
        if pairs:
            lines.append(f"- {label}: {beaten} of {len(pairs)} rows")
    return "\n".join(lines) or "- No row has both fine-tuning and another defence yet."


def disagreements(records: Records, tables: Sequence[str] = COMPARED) -> str:
    """Every cell whose answers are not the talk's as Markdown, from the profile that is shown."""
    head = ["table", "row", "defence", "n", "ours: lost", "ASR", "the talk: lost", "ASR"]
    # Aligned to the right, cells do not wrap: a long list stays a list on a phone.
    rows = [[*head, "the difference"], ["---"] * 3 + ["---:"] * 6]
    judged = 0
    for table, profile, each, theirs in _judged(list(records), tables):
        judged += 1
        if each.agrees:
            continue
        assert each.ours is not None
        row = [f"{table[-1]} ({profile})", named(each.case), each.label, str(each.n)]
        row += [*_numbers(each.ours), *_numbers(theirs), _difference(each.ours, theirs)]
        rows.append(row)
    if not judged:
        return "No cell is recorded yet that the talk has, too."
    if len(rows) == 2:
        return f"None: all {judged} cells that both have give the same answers."
    return f"{len(rows) - 2} of the {judged} cells that both have:\n\n{grid(rows)}"


def prices(
    compared: Iterable[Comparison],
) -> dict[str, list[tuple[tuple[float, float] | None, tuple[float, float] | None]]]:
    """Label -> (ours, the talk's) of each row that one of them has, for `plots.price`.

    Each is (fraction of accuracy lost, ASR), or None.
    """
    found: dict[str, list[tuple[tuple[float, float] | None, tuple[float, float] | None]]] = {}
    for each in drawn(compared):
        theirs = None if each.talk is None else published(each.talk)
        if each.ours is not None or theirs is not None:
            found.setdefault(each.label, []).append((_pair(each.ours), _pair(theirs)))
    return found


def by_setting(
    compared: Iterable[Comparison], setting: Literal["rate", "clean"], *, lost: bool = False
) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Label -> "ours" or "the talk" -> setting -> ASR, one a seed, for `plots.over_setting`.

    With `lost` the fraction of accuracy lost instead. `setting` is a field of the case.
    """
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for each in drawn(compared):
        x, ours = float(getattr(each.case, setting)), []
        for run in each.records:
            fell = run["before"]["accuracy"] - run["after"]["accuracy"]
            ours.append(fell if lost else run["after"]["attack_success_rate"])
        if ours:
            found.setdefault(each.label, {}).setdefault("ours", {})[x] = ours
        if each.talk is not None:
            theirs = published(each.talk)
            value = theirs.drop if lost else theirs.attack_success_rate
            found.setdefault(each.label, {}).setdefault("the talk", {})[x] = [value]
    return found


def drawn(compared: Iterable[Comparison]) -> list[Comparison]:
    """The cells of a figure: of defences that were run, or that the talk has under their own name.

    The talk's I-BAU is not drawn again for a recipe of ours that was not run.
    """
    compared = list(compared)
    run = {each.label for each in compared if each.n}
    own = {each.label for each in compared if each.talk and not each.label.startswith("I-BAU ")}
    return [each for each in compared if each.label in run | own]


def _judged(
    records: Records, tables: Sequence[str]
) -> Iterator[tuple[str, str, Comparison, Outcome]]:
    for table in tables:
        profile, compared = shown(records, table)
        for each in compared:
            if each.agrees is not None and each.talk is not None:
                yield table, profile, each, published(each.talk)


def _undefended(compared: Iterable[Comparison], case: Case) -> str:
    """ACC / ASR of a network as it came, from the records, and the talk's."""
    runs = [record["before"] for each in compared if each.case == case for record in each.records]
    means = [spread(run[key] for run in runs).mean for key in _MEASURES] if runs else None
    ours = "—" if means is None else " / ".join(f"{100 * mean:.1f}" for mean in means)
    return beside(ours, printed(case, "no defence"))


def _by_label(compared: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for each in compared:
        groups.setdefault(each.label, []).append(each)
    return groups


def _difference(ours: Outcome, theirs: Outcome) -> str:
    told = []
    for what in ("removed", "kept"):
        here, there = getattr(ours, what), getattr(theirs, what)
        if here != there:
            told.append(f"{what}: {'ours' if here else 'the talk'} only")
    return ", ".join(told)


def _numbers(outcome: Outcome) -> list[str]:
    return [_points(outcome.drop), f"{100 * outcome.attack_success_rate:.1f} %"]


def _points(drop: float) -> str:
    return f"{round(100 * drop, 1) + 0.0:.1f}"  # never -0.0


def _both(found: Iterable[Outcome]) -> int:
    return sum(outcome.removed and outcome.kept for outcome in found)


def _pair(outcome: Outcome | None) -> tuple[float, float] | None:
    return None if outcome is None else (outcome.drop, outcome.attack_success_rate)


def _mark(answer: bool) -> str:
    return "✓" if answer else "✗"
