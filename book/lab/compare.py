"""Ours beside the talk's: each table's cells with n, spread, and whether the two agree.

Two results AGREE if they give the same two answers: is the backdoor removed (ASR at most 20 %), and
is the accuracy kept (at most 10 points below that of the network before the defence)? Absolute
accuracies are not compared, since no two trainings give the same network. A result WINS a row if
its ASR is no higher than the talk's I-BAU and its accuracy falls no further. Ours is the mean over
seeds. A defence that found no trigger (×) left the network as it was, and is judged by that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd

from ibau_lite.metrics import Spread, spread
from ibau_lite.streams import VERSION

from .contenders import CONTENDERS, RECIPES
from .grid import grid, mark, share
from .plan import TABLES, Case, Cell, cases, contestants, plan
from .published import Published, printed
from .records import Record, Records

REMOVED = 0.20
"""The backdoor counts as removed if the attack success rate is at most this."""

KEPT = 0.10
"""The accuracy counts as kept if it falls by at most this."""


class Outcome(NamedTuple):
    """What a defence leaves, as fractions: how far the accuracy fell, and the ASR."""

    drop: float
    attack_success_rate: float

    @property
    def removed(self) -> bool:
        return self.attack_success_rate <= REMOVED

    @property
    def kept(self) -> bool:
        return self.drop <= KEPT

    @property
    def both(self) -> bool:
        return self.removed and self.kept

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
    records: tuple[Record, ...]
    talk: Published | None

    @property
    def n(self) -> int:
        return len(self.records)

    @property
    def accuracy(self) -> Spread:
        return spread(record["after"]["accuracy"] for record in self.records)

    @property
    def attack_success_rate(self) -> Spread:
        return spread(self.rates)

    @property
    def rates(self) -> list[float]:
        """The ASR of each seed."""
        return [record["after"]["attack_success_rate"] for record in self.records]

    @property
    def missed(self) -> int:
        """How many seeds found no trigger."""
        return sum(record["found"] is False for record in self.records)

    @property
    def removed_by(self) -> int:
        """How many seeds removed the backdoor, each by itself."""
        return sum(rate <= REMOVED for rate in self.rates)

    @property
    def ours(self) -> Outcome | None:
        if not self.records:
            return None
        before = spread(record["before"]["accuracy"] for record in self.records)
        return Outcome(before.mean - self.accuracy.mean, self.attack_success_rate.mean)

    @property
    def theirs(self) -> Outcome | None:
        return None if self.talk is None else published(self.talk)

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
        if self.ours is None or self.theirs is None:
            return None
        return (self.ours.removed, self.ours.kept) == (self.theirs.removed, self.theirs.kept)

    @property
    def repeats(self) -> bool:
        """Whether the talk's cell is its I-BAU's, held against another recipe once more."""
        return self.talk is not None and self.label in RECIPES

    @property
    def wins(self) -> bool | None:
        """Whether ours is no worse than the talk's I-BAU on this row; None as in `agrees`."""
        best = printed("I-BAU", **vars(self.case))
        if self.ours is None or best is None:
            return None
        return self.ours.no_worse_than(published(best))


def published(entry: Published) -> Outcome:
    """The outcome of a printed cell; of × that of the network before any defence."""
    before = printed("no defence", entry.data, entry.attack, entry.rate, entry.clean)
    assert before is not None and before.accuracy is not None
    assert before.attack_success_rate is not None
    if entry.accuracy is None or entry.attack_success_rate is None:
        return Outcome(0.0, before.attack_success_rate / 100)
    drop = (before.accuracy - entry.accuracy) / 100
    return Outcome(drop, entry.attack_success_rate / 100)


def current(records: Records, profile: str) -> dict[Case, dict[str, dict[int, Record]]]:
    """Finished records of a profile by case, defence and seed.

    Left out are records whose settings are not those that the plan has now, which are other cells;
    those that are `strange`; and of two networks that one seed has met the one of the lower seed.
    """
    found: dict[Case, dict[str, dict[int, Record]]] = {}
    for record in _finished(records, profile)[0]:
        cell = Cell.of(record["cell"])
        if cell.key == record["cell"]["key"]:
            runs = found.setdefault(cell.case, {}).setdefault(cell.defense, {})
            known = runs.get(cell.seed)
            if known is None or cell.network_seed >= known["cell"]["network_seed"]:
                runs[cell.seed] = record
    return found


def adopted(records: Records) -> list[Record]:
    """The records, those of older random streams under the keys of the cells that replace them.

    They stand in the tables until the networks and all cells are made anew; the runner does not
    take them for done. A record of an older version was held against its own plan when it was made.
    """
    return [_adopted(record) for record in records]


def _adopted(record: Record) -> Record:
    told = record.get("cell", {})
    if told.get("streams", 1) == VERSION or told.get("defense") not in CONTENDERS:
        return record
    cell = Cell.of(told)
    return {**record, "cell": {"key": cell.key, **cell.told}}


def strange(records: Records, profile: str) -> list[Record]:
    """Finished records of other images than most of their data set have: in no table."""
    return _finished(records, profile)[1]


def _finished(records: Records, profile: str) -> tuple[list[Record], list[Record]]:
    """The finished records of a profile: of the images that most of a data set have; of others."""
    done = [
        record
        for record in adopted(records)
        if "error" not in record
        and record.get("cell", {}).get("profile") == profile
        and record["cell"]["defense"] in CONTENDERS
    ]
    sources = [(record["cell"]["data"], record.get("source")) for record in done]
    # Of each data set the commonest is written last.
    usual = dict(pair for pair, _ in reversed(Counter(sources).most_common()))
    with_source = list(zip(done, sources, strict=True))
    return (
        [record for record, (data, source) in with_source if usual[data] == source],
        [record for record, (data, source) in with_source if usual[data] != source],
    )


def compare(records: Records, table: str, profile: str = "full") -> list[Comparison]:
    """The cells of a table row by row, those included that were not run.

    Raises `ValueError` for a table or a profile that is not there.
    """
    rows = [
        (case, name) for case in cases(table, profile) for name in contestants(table, case.data)
    ]
    return _compared(records, profile, rows)


def of_cells(records: Records, cells: Sequence[Cell]) -> list[Comparison]:
    """The given cells of one profile, their seeds together, row by row; a table may lack them."""
    keys = {cell.key for cell in cells}
    known = [record for record in adopted(records) if record.get("cell", {}).get("key") in keys]
    order = list(dict.fromkeys(cell.case for cell in cells))
    rows = dict.fromkeys((cell.case, cell.defense) for cell in cells)
    by_case = sorted(rows, key=lambda row: order.index(row[0]))
    return _compared(known, cells[0].profile, by_case) if cells else []


def _compared(records: Records, profile: str, rows: Iterable[tuple[Case, str]]) -> list[Comparison]:
    found, compared = current(records, profile), []
    for case, name in rows:
        label, column = CONTENDERS[name]
        runs = found.get(case, {}).get(name, {})
        talk = None if column is None else printed(column, **vars(case))
        compared.append(Comparison(case, label, tuple(runs[s] for s in sorted(runs)), talk))
    return compared


def markdown(compared: Iterable[Comparison]) -> str:
    """The cells that were run as a Markdown table."""
    head = ["row", "defence", "n", "ACC", "ASR", "the talk: ACC", "the talk: ASR", "agree", "wins"]
    rows = []
    for each in compared:
        if each.records:
            ours = [named(each.case), each.label, each.n, each.accuracy, success(each)]
            talk = each.talk.told() if each.talk else ["", ""]
            rows.append([*ours, *talk, mark(each.agrees), mark(each.wins)])
    return grid(pd.DataFrame(rows, columns=head), "llrrrrrcc")


def success(each: Comparison) -> str:
    """The ASR over seeds; × says that no trigger was found, in all runs or in so many of them."""
    crosses = "" if not each.missed else " ×" if each.missed == each.n else f" (× in {each.missed})"
    return f"{each.attack_success_rate}{crosses}"


def points(drop: float) -> str:
    """A change of accuracy in points, with one decimal."""
    return f"{round(100 * drop, 1) + 0.0:.1f}"  # never -0.0


def named(case: Case) -> str:
    """A row as a reader knows it: the rate and the clean set are said where they are unusual."""
    rate = "" if case.rate == 0.2 else f", {100 * case.rate:g} % poisoned"
    usual = 800 if case.data == "signs" else 5000
    clean = "" if case.clean == usual else f", {case.clean:,} clean"
    return f"{case.data} {case.attack}{rate}{clean}"


def counts(records: Records, profile: str) -> str:
    """How many cells of each table are done in a profile, with three seeds, as a Markdown table.

    A cell counts for each table it appears in. "agree" is out of the talk's cells that we have, too
    (other recipes of I-BAU do not count). "rows won" is out of those where the book's I-BAU was run
    and the talk has a row: of how many it is no worse than the talk's.
    """
    records, rows = adopted(records), []
    for table in TABLES:
        compared = compare(records, table, profile)
        agree = [each.agrees for each in compared if not each.repeats]
        won = [each.wins for each in compared if each.label == "I-BAU"]
        told = [share(answers) or "0 of 0" for answers in (agree, won)]
        rows.append([table, *settled(records, table, profile), *told])
    head = ["table", "planned", "done", "failed", "agree", "rows won"]
    return grid(pd.DataFrame(rows, columns=head))


def settled(records: Records, table: str, profile: str) -> tuple[int, int, int]:
    """How many cells of a table are planned with three seeds, how many are done, and failed."""
    keys = {cell.key for cell in plan([table], profile)}
    known = [record for record in adopted(records) if record.get("cell", {}).get("key") in keys]
    done = {record["cell"]["key"] for record in known if "error" not in record}
    failed = {record["cell"]["key"] for record in known} - done
    return len(keys), len(done), len(failed)


def origin(records: Records) -> str:
    """Where finished records come from: images, machines, versions, dates; a line each."""
    names = ("images", "hardware", "versions", "dates")
    found: dict[str, set[str]] = {name: set() for name in names}
    for record in records:
        if "cell" in record and "error" not in record:
            hardware, jobs = record["hardware"], record["jobs"]
            threads = f"{hardware['threads']} threads, {jobs} cells at a time"
            found["images"].add(record["source"])
            found["hardware"].add(f"{hardware['device']} ({threads})")
            found["versions"].add(", ".join(f"{k} {v}" for k, v in record["versions"].items()))
            found["dates"].add(record["date"][:10])
    return "\n".join(f"{name}: {'; '.join(sorted(values))}" for name, values in found.items())
