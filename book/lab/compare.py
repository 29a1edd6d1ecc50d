"""Ours beside the talk's: each table's cells with n, spread, and whether the two agree.

Two results AGREE if they give the same two answers: is the backdoor removed (ASR at most 20 %), and
is the accuracy kept (at most 10 points below that of the network before the defence)? Absolute
accuracies are not compared, since no two trainings give the same network. A result WINS a row if
its ASR is no higher than the talk's I-BAU and its accuracy falls no further. Ours is the mean over
seeds. A defence that found no trigger (×) left the network as it was, and is judged by that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ibau_lite.metrics import Spread, spread
from ibau_lite.streams import VERSION

from .contenders import CONTENDERS, RECIPES
from .grid import grid
from .plan import TABLES, Case, Cell, cases, contestants, plan
from .published import PUBLISHED, Published

__all__ = [
    "KEPT",
    "REMOVED",
    "Comparison",
    "Outcome",
    "adopted",
    "compare",
    "counts",
    "current",
    "markdown",
    "named",
    "of_cells",
    "origin",
    "points",
    "printed",
    "published",
    "strange",
    "success",
]

REMOVED = 0.20
"""The backdoor counts as removed if the attack success rate is at most this."""

KEPT = 0.10
"""The accuracy counts as kept if it falls by at most this."""


@dataclass(frozen=True)
class Outcome:
    """What a defence leaves, as fractions: how far the accuracy fell, and the ASR."""

    drop: float
    attack_success_rate: float

    @property
    def removed(self) -> bool:
        return self.attack_success_rate <= REMOVED

    @property
    def kept(self) -> bool:
        return self.drop <= KEPT

    def no_worse_than(self, other: Outcome) -> bool:
        """Neither a higher ASR nor a larger loss of accuracy."""
        # The talk prints hundredths of a per cent.
        return (
            self.attack_success_rate <= other.attack_success_rate + 5e-5
            and self.drop <= other.drop + 5e-5
        )


@dataclass(frozen=True)
class Comparison:
    """A cell of a table: our results over seeds (none if it was not run), and the talk's."""

    case: Case
    label: str
    records: tuple[Mapping[str, Any], ...]
    talk: Published | None
    best: Outcome | None
    """The talk's I-BAU on this row."""

    @property
    def n(self) -> int:
        return len(self.records)

    @property
    def accuracy(self) -> Spread:
        return spread(record["after"]["accuracy"] for record in self.records)

    @property
    def attack_success_rate(self) -> Spread:
        return spread(record["after"]["attack_success_rate"] for record in self.records)

    @property
    def missed(self) -> int:
        """How many seeds found no trigger."""
        return sum(record["found"] is False for record in self.records)

    @property
    def removed_by(self) -> int:
        """How many seeds removed the backdoor, each by itself."""
        return sum(r["after"]["attack_success_rate"] <= REMOVED for r in self.records)

    @property
    def ours(self) -> Outcome | None:
        if not self.records:
            return None
        before = spread(record["before"]["accuracy"] for record in self.records)
        return Outcome(before.mean - self.accuracy.mean, self.attack_success_rate.mean)

    @property
    def seeds(self) -> set[int]:
        return {record["cell"]["seed"] for record in self.records}

    def of_seeds(self, seeds: set[int]) -> Comparison:
        """The same cell with these seeds alone."""
        kept = tuple(record for record in self.records if record["cell"]["seed"] in seeds)
        return replace(self, records=kept)

    @property
    def agrees(self) -> bool | None:
        """Whether both give the same answers; None where one of them is not there."""
        theirs = None if self.talk is None else published(self.talk)
        if self.ours is None or theirs is None:
            return None
        return (self.ours.removed, self.ours.kept) == (theirs.removed, theirs.kept)

    @property
    def repeats(self) -> bool:
        """Whether the talk's cell is its I-BAU's, held against another recipe once more."""
        return self.talk is not None and self.label in RECIPES

    @property
    def wins(self) -> bool | None:
        """Whether ours is no worse than the talk's I-BAU on this row; None as in `agrees`."""
        if self.ours is None or self.best is None:
            return None
        return self.ours.no_worse_than(self.best)


def published(entry: Published) -> Outcome:
    """The outcome of a printed cell; of × that of the network before any defence."""
    before = printed(entry, "no defence")
    assert before is not None and before.accuracy is not None
    assert before.attack_success_rate is not None
    if entry.accuracy is None or entry.attack_success_rate is None:
        return Outcome(0.0, before.attack_success_rate / 100)
    drop = (before.accuracy - entry.accuracy) / 100
    return Outcome(drop, entry.attack_success_rate / 100)


def printed(row: Published | Case, column: str) -> Published | None:
    """The talk's cell of the same row in another column; Table 4 is Trojan WM at other rates."""
    same = (row.data, row.attack, row.rate, row.clean)
    for entry in PUBLISHED:
        if (entry.data, entry.attack, entry.rate, entry.clean) == same and entry.defense == column:
            return entry
    return None


def current(
    records: Iterable[Mapping[str, Any]], profile: str
) -> dict[Case, dict[str, dict[int, Mapping[str, Any]]]]:
    """Finished records of a profile by case, defence and seed.

    Left out are records whose settings are not those that the plan has now, which are other cells;
    those of other images than most records of the data set have (`source`), as of the originals
    where most are of a copy; and of two networks that one seed has met the one of the lower seed.
    """
    found: dict[Case, dict[str, dict[int, Mapping[str, Any]]]] = {}
    done, usual = _done(adopted(records), profile)
    for record in done:
        told = record["cell"]
        if record.get("source") != usual[told["data"]]:
            continue
        case = Case(told["data"], told["attack"], told["rate"], told["clean"])
        seed, network = told["seed"], told["network_seed"]
        if Cell(case, told["defense"], seed, profile, network).key == told["key"]:
            runs = found.setdefault(case, {}).setdefault(told["defense"], {})
            if seed not in runs or network >= runs[seed]["cell"]["network_seed"]:
                runs[seed] = record
    return found


def adopted(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records, those of older random streams under the keys of the cells that replace them.

    They stand in the tables until the networks and all cells are made anew; the runner does not
    take them for done. A record of an older version was held against its own plan when it was made.
    """
    return [_adopted(record) for record in records]


def _adopted(record: Mapping[str, Any]) -> Mapping[str, Any]:
    told = record.get("cell", {})
    if told.get("streams", 1) == VERSION or told.get("defense") not in CONTENDERS:
        return record
    case = Case(told["data"], told["attack"], told["rate"], told["clean"])
    cell = Cell(case, told["defense"], told["seed"], told["profile"], told["network_seed"])
    return {**record, "cell": {"key": cell.key, **cell.told}}


def strange(records: Iterable[Mapping[str, Any]], profile: str) -> list[Mapping[str, Any]]:
    """Finished records of other images than most of their data set have: in no table."""
    done, usual = _done(adopted(records), profile)
    return [run for run in done if run.get("source") != usual[run["cell"]["data"]]]


def _done(
    records: Iterable[Mapping[str, Any]], profile: str
) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """The finished records of a profile, and for each data set the commonest source of images."""
    done = [
        record
        for record in records
        if "error" not in record
        and record.get("cell", {}).get("profile") == profile
        and record["cell"]["defense"] in CONTENDERS
    ]
    sources: dict[str, Counter[Any]] = {}
    for record in done:
        sources.setdefault(record["cell"]["data"], Counter())[record.get("source")] += 1
    return done, {data: counted.most_common(1)[0][0] for data, counted in sources.items()}


def compare(
    records: Iterable[Mapping[str, Any]], table: str, profile: str = "full"
) -> list[Comparison]:
    """The cells of a table row by row, those included that were not run.

    Raises `ValueError` for a table or a profile that is not there.
    """
    rows = [
        (case, name) for case in cases(table, profile) for name in contestants(table, case.data)
    ]
    return _compared(current(records, profile), rows)


def of_cells(records: Iterable[Mapping[str, Any]], cells: Sequence[Cell]) -> list[Comparison]:
    """The given cells alone, their seeds together, row by row; they need not be in a table."""
    records, compared = adopted(records), []
    for profile in dict.fromkeys(cell.profile for cell in cells):
        mine = [cell for cell in cells if cell.profile == profile]
        order = list(dict.fromkeys(cell.case for cell in mine))
        rows = dict.fromkeys((cell.case, cell.defense) for cell in mine)
        keys = {cell.key for cell in mine}
        known = (record for record in records if record.get("cell", {}).get("key") in keys)
        by_case = sorted(rows, key=lambda row: order.index(row[0]))
        compared += _compared(current(known, profile), by_case)
    return compared


def _compared(
    found: Mapping[Case, Mapping[str, Mapping[int, Mapping[str, Any]]]],
    rows: Sequence[tuple[Case, str]],
) -> list[Comparison]:
    compared = []
    for case, name in rows:
        best = printed(case, "I-BAU")
        label, column = CONTENDERS[name]
        runs = found.get(case, {}).get(name, {})
        compared.append(
            Comparison(
                case,
                label,
                tuple(runs[seed] for seed in sorted(runs)),
                None if column is None else printed(case, column),
                None if best is None else published(best),
            )
        )
    return compared


def markdown(compared: Sequence[Comparison], *, missing: bool = False) -> str:
    """The cells as a Markdown table; `missing` keeps those that were neither run nor printed."""
    head = ["row", "defence", "n", "ACC", "ASR", "the talk: ACC", "the talk: ASR", "agree", "wins"]
    rows = []
    for each in compared:
        if not each.records and not missing:
            continue
        ours = [str(each.accuracy), success(each)] if each.records else ["not run", ""]
        marks = ["" if x is None else "✓" if x else "✗" for x in (each.agrees, each.wins)]
        rows.append([named(each.case), each.label, each.n, *ours, *_told(each), *marks])
    return grid(pd.DataFrame(rows, columns=head), "llrrrrrcc")


def success(each: Comparison) -> str:
    """The ASR over seeds; × says that no trigger was found, in all runs or in so many of them."""
    crosses = "" if not each.missed else " ×" if each.missed == each.n else f" (× in {each.missed})"
    return f"{each.attack_success_rate}{crosses}"


def _told(each: Comparison) -> list[str]:
    """The talk's ACC and ASR as it prints them, empty where it has none."""
    if each.talk is None:
        return ["", ""]
    numbers = (each.talk.accuracy, each.talk.attack_success_rate)
    return ["×" if number is None else f"{number:.2f} %" for number in numbers]


def points(drop: float) -> str:
    """A change of accuracy in points, with one decimal."""
    return f"{round(100 * drop, 1) + 0.0:.1f}"  # never -0.0


def named(case: Case) -> str:
    """A row as a reader knows it: the rate and the clean set are said where they are unusual."""
    rate = "" if case.rate == 0.2 else f", {100 * case.rate:g} % poisoned"
    usual = 800 if case.data == "signs" else 5000
    clean = "" if case.clean == usual else f", {case.clean:,} clean"
    return f"{case.data} {case.attack}{rate}{clean}"


def counts(
    records: Iterable[Mapping[str, Any]], profile: str, *, seeds: int = 3, networks: int = 1
) -> str:
    """How many cells of each table are done in a profile, as a Markdown table.

    A cell counts for each table it appears in. "agree" is out of the talk's cells that we have, too
    (other recipes of I-BAU do not count). "rows won" is out of those where the book's I-BAU was run
    and the talk has a row: of how many it is no worse than the talk's.
    """
    records = list(records)
    records = adopted(records)
    settled = {r["cell"]["key"]: "error" in r for r in records if "cell" in r}
    done = {r["cell"]["key"] for r in records if "cell" in r and "error" not in r}
    rows = []
    for table in TABLES:
        keys = {cell.key for cell in plan([table], profile, seeds=seeds, networks=networks)}
        failed = sum(settled.get(key, False) and key not in done for key in keys)
        compared = compare(records, table, profile)
        agree = [x.agrees for x in compared if x.agrees is not None and not x.repeats]
        won = [each.wins for each in compared if each.label == "I-BAU" and each.wins is not None]
        told = (f"{sum(answers)} of {len(answers)}" for answers in (agree, won))
        rows.append([table, len(keys), len(keys & done), failed, *told])
    head = ["table", "planned", "done", "failed", "agree", "rows won"]
    return grid(pd.DataFrame(rows, columns=head))


def origin(records: Iterable[Mapping[str, Any]]) -> str:
    """Where finished records come from: images, machines, versions, dates; a line each."""
    done = [record for record in records if "cell" in record and "error" not in record]
    lines = {
        "images": {record["source"] for record in done},
        "hardware": {
            f"{record['hardware']['device']} ({record['hardware']['threads']} threads, "
            f"{record['jobs']} cells at a time)"
            for record in done
        },
        "versions": {
            ", ".join(f"{name} {value}" for name, value in record["versions"].items())
            for record in done
        },
        "dates": {record["date"][:10] for record in done},
    }
    return "\n".join(f"{name}: {'; '.join(sorted(values))}" for name, values in lines.items())
