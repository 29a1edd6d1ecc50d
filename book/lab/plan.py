"""What a table consists of: cells, each with a stable key, in the order of their value.

A cell is a data set × attack × poisoning rate × number of clean images × defence × seed × profile.
Planning reads no data and trains nothing, so that a list or an estimate costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from typing import Any

from ibau_lite.attacks.named import COMPUTED, ONE_TARGET
from ibau_lite.streams import VERSION
from ibau_lite.zoo import FOLDER, digest

from . import first_run
from .cells import describe
from .contenders import CONTENDERS, contender
from .courses import course
from .first_run import PROFILES
from .records import key_of

TABLES = ("table1", "table2", "table3", "table4", "table5", "table6")

_CHEAP = ("ibau", "ft", "naive", "fp", "nad")
_SUCCESSORS = ("anp", "ft_sam", "sau")


@dataclass(frozen=True)
class Case:
    """What a defence meets: a poisoned network, and how many clean images there are."""

    data: str
    attack: str
    rate: float
    clean: int

    @property
    def network(self) -> str:
        """The name that `zoo.members` gives this network."""
        return self.attack if self.rate == 0.2 else f"{self.attack}_{100 * self.rate:g}"


@dataclass(frozen=True)
class Cell:
    """One defence of one case: `defense` is a name of `CONTENDERS`.

    `seed` is the defence's, `network_seed` that of the network's weights, training and poison.
    """

    case: Case
    defense: str
    seed: int
    profile: str
    network_seed: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Cell:
        """The cell that a record tells of; `KeyError` for what it lacks."""
        case = Case(told["data"], told["attack"], told["rate"], told["clean"])
        return cls(case, told["defense"], told["seed"], told["profile"], told["network_seed"])

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits: SHA-256 of the cell, its settings and its network's recipe.

        The same in every process and on every machine; other settings are another cell, and so is a
        network that comes with the package. What the images are is not part of it: a record says
        that.
        """
        case = self.case
        told = {**self.told, **settings(self.defense, self.profile, case.data, case.attack)}
        if self.shipped is not None:
            told["weights"] = self.shipped
        return key_of(told)

    @property
    def told(self) -> dict[str, Any]:
        """The cell as a record tells it."""
        own = {"defense": self.defense, "seed": self.seed, "network_seed": self.network_seed}
        return {**asdict(self.case), **own, "profile": self.profile, "streams": VERSION}

    @property
    def shipped(self) -> str | None:
        """The SHA-256 of the network's weights if it comes with the package."""
        name = f"{self.case.data}-{self.profile}-{self.case.network}"
        return digest(FOLDER, name) if self.network_seed == 0 else None

    @property
    def needs(self) -> frozenset[tuple[str, str, int]]:
        """(data, what, seed) that must be made before: networks, and triggers that are computed.

        Triggers are computed from the clean network of the same seed. Nothing is made for a network
        that comes with the package.
        """
        if self.shipped is not None:
            return frozenset()
        data, attack = self.case.data, self.case.attack
        all_seven = attack == "seven_to_seven"
        triggers = [name for name in COMPUTED if all_seven or name == attack]
        made = {(data, f"trigger {name}", self.network_seed) for name in triggers}
        if triggers:
            made.add((data, "clean", self.network_seed))
        return frozenset(made | {(data, self.case.network, self.network_seed)})

    def __str__(self) -> str:
        case = self.case
        return (
            f"{case.data} {case.network} clean={case.clean} {self.defense} seed={self.seed}"
            + (f" network={self.network_seed}" if self.network_seed else "")
            + f" ({self.profile})"
        )


@cache
def settings(defense: str, profile: str, data: str, attack: str) -> dict[str, Any]:
    """What a cell's result depends on besides the cell: the defence's settings, the training."""
    chosen = contender(defense, profile, data)
    (trained,) = (each for each in first_run.experiments(profile) if each.data == data)
    return {
        "registry": chosen.defense,
        "config": describe(chosen.config),
        "network": [describe(trained.build), describe(course(trained, profile, attack))],
    }


def cases(table: str, profile: str) -> tuple[Case, ...]:
    """The rows of a table; in `smoke` a miniature of it on drawn signs.

    Raises `ValueError` for a table or a profile that is not there.
    """
    if table not in TABLES:
        raise ValueError(f"table: one of {', '.join(TABLES)} is expected, got {table!r}")
    if profile not in PROFILES:
        raise ValueError(f"profile: one of {', '.join(PROFILES)} is expected, got {profile!r}")
    return (_MINIATURE if profile == "smoke" else _WHOLE)[table]


_ONE = {
    data: tuple(Case(data, attack, 0.2, 5000) for attack in (*ONE_TARGET, "all_to_all"))
    for data in ("cifar10", "gtsrb")
}
_WHOLE = {
    "table1": _ONE["cifar10"],
    "table2": _ONE["gtsrb"],
    "table3": tuple(Case(data, "seven_to_seven", 0.2, 5000) for data in _ONE),
    "table4": tuple(Case("cifar10", "trojan_wm", rate, 5000) for rate in (0.05, 0.005)),
    "table5": tuple(Case("cifar10", "trojan_wm", 0.2, size) for size in (2500, 500, 100)),
    "table6": (*_ONE["cifar10"][:-1], *_ONE["gtsrb"][:-1]),
}
_USUAL = Case("signs", "badnets", 0.2, 800)
_MINIATURE = {
    "table1": (_USUAL, replace(_USUAL, attack="blend")),
    "table2": (_USUAL, replace(_USUAL, attack="all_to_all")),
    "table3": (replace(_USUAL, attack="seven_to_seven"),),
    "table4": tuple(replace(_USUAL, rate=rate) for rate in (0.05, 0.02)),
    "table5": tuple(replace(_USUAL, clean=size) for size in (400, 100)),
    "table6": (_USUAL,),
}


def contestants(table: str, data: str) -> tuple[str, ...]:
    """Who appears in a table: the talk's columns, fine-tuning, naive, and I-BAU's three recipes.

    The successors of I-BAU appear where the network has one trigger.
    """
    absent = {
        "table1": (),
        "table2": ("nc", "di"),  # the talk shows TABOR alone of the three
        "table5": (*_SUCCESSORS, "dp"),  # private training uses no clean images
        "table6": (*_SUCCESSORS, "dp", "exact"),
    }.get(table, _SUCCESSORS)
    return tuple(name for name in CONTENDERS if name not in absent)


def plan(
    tables: Iterable[str],
    profile: str = "smoke",
    *,
    seeds: int = 3,
    networks: int = 1,
    only: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
    data: Sequence[str] | None = None,
) -> list[Cell]:
    """The cells of these tables, each once, the most valuable first.

    The defence with seed s meets the network of seed s mod `networks`. `only`, `attacks` and `data`
    keep the cells of these defences, networks and data sets. Raises `ValueError` for what is not
    there, or for less than one seed or network.
    """
    if seeds < 1 or networks < 1:
        raise ValueError(f"seeds, networks: at least 1 is expected, got {seeds} and {networks}")
    _check("defence", only, list(CONTENDERS))
    places: dict[Cell, tuple[int, ...]] = {}
    rows = [(table, case) for table in tables for case in cases(table, profile)]
    _check("attack", attacks, sorted({case.network for _, case in rows}))
    _check("data", data, sorted({case.data for _, case in rows}))
    for number, (table, case) in enumerate(rows):
        if (attacks and case.network not in attacks) or (data and case.data not in data):
            continue
        for rank, name in enumerate(contestants(table, case.data)):
            if only and name not in only:
                continue
            for seed in range(seeds):
                cell = Cell(case, name, seed, profile, seed % networks)
                place = (_stage(table, case, name), seed, number, rank)
                places[cell] = min(place, places.get(cell, place))
    return sorted(places, key=places.__getitem__)


def _stage(table: str, case: Case, name: str) -> int:
    """When a cell's turn comes: what says most for its cost goes first.

    Table 1's cheap rows, Neural Cleanse on CIFAR-10, GTSRB, seven triggers, rates and clean sizes;
    then the published recipe, the costly inversions, the exact recipe, the successors, and private
    training.
    """
    late = {"released": 6, "tabor": 7, "di": 7, "exact": 8, "dp": 9} | dict.fromkeys(_SUCCESSORS, 8)
    if name in late:
        return late[name]
    if name == "nc" and case.data == "gtsrb":
        return 7  # 43 classes to invert
    number = int(table[-1])
    return number if number > 1 or name not in _CHEAP else 0


def _check(what: str, asked: Sequence[str] | None, known: Sequence[str]) -> None:
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise ValueError(f"{what}: among {', '.join(known)} is expected, got {', '.join(unknown)}")
