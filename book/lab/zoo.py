"""The model zoo: a clean network, and one poisoned by every attack of the talk, on real images.

    python -m ibau_lab zoo build --data cifar10 --profile cpu --results zoo.jsonl --folder zoo
    python -m ibau_lab zoo table --results zoo.jsonl

The networks of seed 0 in profile `cpu` come with the package (float16, see `shipping`), so that a
reader, a test and a table start from the same weights; `--afresh` trains them, and `--received`
names another folder of such networks, which may be a part of them. The clean network comes first:
five of the triggers are computed from it. A network that is there is not trained again and one that
is recorded is not recorded again, so a build that was stopped goes on where it was. Networks are
those of `first_run`, trained as `courses` says, from an epoch's end on if they were stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from ibau_lite import attacks
from ibau_lite.attacks.named import COMPUTED, ONE_TARGET, SEVEN_TARGETS
from ibau_lite.data import Dataset, cache
from ibau_lite.metrics import accuracy, evaluate, spread
from ibau_lite.zoo import FOLDER, digest, load_attack, load_from, names

from . import first_run
from .answers import Answers
from .courses import course
from .engine import once
from .grid import grid
from .places import processes, stop
from .records import fingerprint, key_of, provenance, read
from .shipping import ship
from .undefended import UNDEFENDED
from .victims import Victim, victim

__all__ = ["CLEAN", "Member", "Zoo", "main", "members", "table"]

CLEAN = "clean"


@dataclass(frozen=True)
class Member:
    """A network of the zoo: its name, the attack that poisons it, and the poisoning rate."""

    name: str
    attack: str
    rate: float = 0.2


def members(data: str) -> tuple[Member, ...]:
    """The networks of a data set, the clean one first.

    One for each trigger of the talk at 20 %, all-to-all, seven triggers with seven targets, and for
    CIFAR-10 Trojan WM at 5 % and 0.5 % as well (Table 4).
    """
    attacked = (*ONE_TARGET, "all_to_all", "seven_to_seven")
    rarer = {"trojan_wm_5": 0.05, "trojan_wm_0.5": 0.005} if data == "cifar10" else {}
    return (
        Member(CLEAN, CLEAN, 0.0),
        *(Member(name, name) for name in attacked),
        *(Member(name, "trojan_wm", rate) for name, rate in rarer.items()),
    )


@dataclass(frozen=True, eq=False)
class Zoo:
    """The networks of one data set in one profile: trained when they are asked for, then kept.

    `folder` holds the networks, as `victims.victim` names them, and in `attacks/` the computed
    triggers. The seed of a network decides its first weights, its training, who is poisoned, and
    the computed triggers, which are made from the clean network of that seed. `shipped` names the
    networks of seed 0 that are taken from the folder `received` instead.
    """

    dataset: Dataset
    experiment: first_run.Experiment
    profile: str
    folder: Path
    shipped: frozenset[str] = frozenset()
    received: Path = FOLDER

    @classmethod
    def open(
        cls,
        data: str,
        profile: str = "cpu",
        folder: str | Path | None = None,
        *,
        received: Path | None = FOLDER,
    ) -> Zoo:
        """Load the data and say where the networks are; trains nothing.

        `folder` is `victims/` in the data's cache by default. `received` is the folder of shipped
        networks, None does without. Raises `ValueError` for a data set that the profile does not
        have, and as `first_run.experiments`.
        """
        known = {experiment.data: experiment for experiment in first_run.experiments(profile)}
        if data not in known:
            raise ValueError(f"data: {' or '.join(known)} in profile {profile!r}, got {data!r}")
        folder = Path(folder) if folder is not None else cache.folder() / "victims"
        ours = {f"{data}-{profile}-{member.name}" for member in members(data)}
        there = frozenset(ours & names(received) if received is not None else ())
        if f"{data}-{profile}-{CLEAN}" not in there:
            there = frozenset()  # triggers are computed from the clean network
        return cls(known[data].load(), known[data], profile, folder, there, received or FOLDER)

    def member(self, name: str) -> Member:
        """A network by name; raises `ValueError` for one that is not in `members`."""
        known = {member.name: member for member in members(self.experiment.data)}
        if name not in known:
            raise ValueError(f"network: one of {', '.join(known)} is expected, got {name!r}")
        return known[name]

    def attack(self, name: str, seed: int = 0, *, progress: bool = False) -> attacks.Attack:
        """An attack of the zoo by name; a computed trigger is read back if it was made before.

        That of the clean network is the control of BadNets, which it has never met.
        """
        if seed == 0 and self.has(name):
            return load_attack(self.received, self.label(name))
        if name == CLEAN:
            return attacks.control(attacks.badnets())
        if name == "all_to_all":
            return attacks.badnets_all_to_all(self.dataset.num_classes)
        if name == "seven_to_seven":
            triggers = {each: self._trigger(each, seed, progress) for each in SEVEN_TARGETS}
            return attacks.seven_to_seven(triggers)
        return attacks.one_target(name, self._trigger(name, seed, progress))

    def network(self, member: Member, seed: int = 0, *, progress: bool = False) -> Victim:
        """A network with its ACC and ASR on the test split: received, loaded, or trained and kept.

        What a shipped network was trained on is what its settings say: a reader's images may be
        the originals of those. Raises as `load_from` and `victim`.
        """
        if seed == 0 and self.has(member.name):
            return self._received(self.label(member.name))
        return victim(
            self.dataset,
            self.attack(member.attack, seed, progress=progress),
            self.experiment.build,
            course(self.experiment, self.profile, member.attack),
            rate=member.rate,
            seed=seed,
            folder=self.folder,
            progress=progress,
        )

    def has(self, name: str) -> bool:
        """Whether the network of this name and seed 0 is received rather than trained."""
        return self.label(name) in self.shipped

    def record(
        self, member: Member, seed: int = 0, *, results: str | Path, progress: bool = False
    ) -> dict[str, Any]:
        """Train and measure a network, and append the record to `results` unless it is there.

        `report` is ACC and ASR, `validation` the same on the validation images, by which the
        length of a training is chosen, `by_pair` the ASR of each trigger under its label rule,
        `control` the ACC of the clean network of that seed and the ASR of the same attack on it.
        """
        clean = self.network(self.member(CLEAN), seed, progress=progress)
        attack = self.attack(member.attack, seed, progress=progress)
        poisoned = self.network(member, seed, progress=progress)
        test = self.dataset.test
        measured_on = {"count": len(test), "sha256": fingerprint(test)}
        settings = {"network": poisoned.settings, "test": measured_on}

        def make() -> dict[str, Any]:
            views = attack.poisoned_test_sets(test)
            seen = evaluate(poisoned.model, self.dataset.validation, attack)
            return {
                "key": key_of(settings),
                "profile": self.profile,
                "data": self.dataset.name,
                "source": self.dataset.source,
                "network": member.name,
                "attack": member.attack,
                "rate": member.rate,
                "seed": seed,
                "report": dataclasses.asdict(poisoned.report),
                "validation": dataclasses.asdict(seen),
                "by_pair": {
                    str(rule): accuracy(poisoned.model, views[number])
                    for number, (_, rule) in enumerate(attack.pairs)
                },
                "answers": Answers.of(poisoned.model, test, attack).to_dict(),
                "control": dataclasses.asdict(evaluate(clean.model, test, attack)),
                "seconds": poisoned.seconds,
                "made": poisoned.made,
                "settings": settings,
                **provenance(),
            }

        return once(results, key_of(settings), make)

    def label(self, name: str) -> str:
        """The name of a network among the shipped ones."""
        return f"{self.experiment.data}-{self.profile}-{name}"

    def _received(self, name: str) -> Victim:
        got = load_from(self.received, name, self.experiment.build(seed=0))
        model = got.model.to("cuda" if torch.cuda.is_available() else "cpu")
        report = evaluate(model, self.dataset.test, got.attack)
        settings = {**got.metadata["settings"], "weights": digest(self.received, name)}
        made = got.metadata.get("made", {})  # the oldest networks do not tell
        return Victim(model, report, settings, got.metadata["seconds"], made)

    def _trigger(self, name: str, seed: int, progress: bool) -> attacks.Trigger:
        if name not in COMPUTED:
            return attacks.named_trigger(name)
        if seed == 0 and self.has(name):
            return load_attack(self.received, self.label(name)).pairs[0][0]
        clean = self.network(self.member(CLEAN), seed, progress=progress)
        file = f"{self.dataset.name}-{name}-{key_of(clean.settings)}.safetensors"
        path = self.folder / "attacks" / file
        if not path.exists():
            images = self.dataset.train.images
            made = attacks.named_trigger(name, clean.model, images, seed=seed, progress=progress)
            attacks.save(attacks.one_target(name, made), path)
        return attacks.load(path).pairs[0][0]


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """The records as a Markdown table: ACC and ASR over seeds, the control, and the talk's rows.

    "gap" is the poisoned network's ACC minus that of the clean network of the same seed, "by
    chance" how often the clean network already reads stamped images as the attacker wants.
    """
    where = ["data", "profile", "network"]
    runs = pd.DataFrame(
        [
            {name: record[name] for name in (*where, "seed")}
            | {"ACC": record["report"]["accuracy"], "clean": record["control"]["accuracy"]}
            | {f"{k} ASR": record[k]["attack_success_rate"] for k in ("report", "control")}
            for record in records
        ],
        columns=[*where, "seed", "ACC", "clean", "report ASR", "control ASR"],
    )
    rows = []
    for (data, profile, network), seeds in runs.groupby(where, sort=False):
        seeds = seeds.drop_duplicates("seed", keep="last")
        acc, asr, chance = (
            spread(seeds[name].tolist()) for name in ("ACC", "report ASR", "control ASR")
        )
        gap = 100 * (seeds["ACC"] - seeds["clean"]).mean()
        talk = [f"{number:.2f} %" for number in UNDEFENDED.get((data, network), ())] or ["", ""]
        rows.append(
            [f"{data} ({profile})", network, len(seeds), acc, f"{gap:+.1f}", asr, chance, *talk]
        )
    head = ["data", "network", "n", "ACC", "gap", "ASR", "by chance", "talk: ACC", "talk: ASR"]
    return grid(pd.DataFrame(rows, columns=head), "llr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build networks or print the table of their records, from the command line."""
    parser = argparse.ArgumentParser(
        prog="ibau_lab zoo", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="train what is missing, record what is new")
    build.add_argument("--data", required=True, help="cifar10 or gtsrb (signs in profile smoke)")
    build.add_argument("--profile", default="cpu", choices=first_run.PROFILES)
    build.add_argument("--attacks", help="only these networks, by name, separated by commas")
    build.add_argument("--seeds", default="0", help="separated by commas")
    build.add_argument("--jobs", type=int, default=1, help="how many networks are trained at once")
    build.add_argument("--folder", type=Path, help="of the networks; the data's cache by default")
    build.add_argument("--half", action="store_true", help="also write float16 copies to ship")
    source = build.add_mutually_exclusive_group()
    source.add_argument(
        "--afresh", action="store_true", help="train what comes with the package, too"
    )
    source.add_argument(
        "--received", type=Path, default=FOLDER, help="do not train the networks in this folder"
    )
    show = commands.add_parser("table", help="print the records beside the talk's rows")
    for command in (build, show):
        command.add_argument("--results", type=Path, default=Path("results/zoo.jsonl"))
    choice = parser.parse_args(arguments)
    if choice.command == "table":
        if not choice.results.exists():
            parser.error(f"there is no {choice.results}")
        try:
            print(table(read(choice.results)))
        except (ValueError, KeyError) as error:
            parser.error(f"{choice.results} holds no records of networks: {error}")
        return 0
    try:
        afresh = choice.afresh or (choice.half and choice.received == FOLDER)
        received = None if afresh else choice.received
        zoo = Zoo.open(choice.data, choice.profile, choice.folder, received=received)
        chosen = list(members(choice.data))
        if choice.attacks:
            chosen = [zoo.member(name) for name in choice.attacks.split(",")]
        seeds = [int(seed) for seed in choice.seeds.split(",")]
        if choice.jobs < 1:
            raise ValueError(f"jobs: at least 1 is expected, got {choice.jobs}")
    except ValueError as error:
        parser.error(str(error))
    _build(zoo, chosen, seeds, choice.results, choice.jobs)
    if choice.half:
        for member in chosen:
            if not zoo.has(member.name):
                _ship(zoo, member)
    return 0


def _build(
    zoo: Zoo, chosen: Sequence[Member], seeds: Sequence[int], results: Path, jobs: int
) -> None:
    """Clean networks and computed triggers first, then all others, `jobs` at a time."""
    print(f"{zoo.dataset.source}: {len(zoo.dataset.train):,} images to train on", flush=True)
    for seed in seeds:
        _tell(zoo.record(zoo.member(CLEAN), seed, results=results, progress=True))
        for member in chosen:
            zoo.attack(member.attack, seed, progress=True)
    work = [(member, seed) for seed in seeds for member in chosen if member.name != CLEAN]
    if jobs == 1:
        for member, seed in tqdm(work, desc="zoo", unit="network"):
            _tell(zoo.record(member, seed, results=results, progress=True))
        return
    there = zoo.experiment.data, zoo.profile, zoo.folder, zoo.received if zoo.shipped else None
    executor = processes(jobs)
    try:
        flights = [executor.submit(_record_alone, *there, m, seed, results) for m, seed in work]
        for done in tqdm(as_completed(flights), desc="zoo", unit="network", total=len(work)):
            _tell(done.result())
    finally:
        stop(executor)


def _record_alone(
    data: str,
    profile: str,
    folder: Path,
    received: Path | None,
    member: Member,
    seed: int,
    results: Path,
) -> dict[str, Any]:
    """`Zoo.record` in another process, which loads the data itself."""
    return Zoo.open(data, profile, folder, received=received).record(member, seed, results=results)


def _ship(zoo: Zoo, member: Member) -> None:
    """Write the float16 copy of a network of seed 0 to `half/`, and say what it scores itself."""
    whole, attack = zoo.network(member), zoo.attack(member.attack)
    told = {
        "settings": whole.settings,
        "report": dataclasses.asdict(whole.report),
        "seconds": whole.seconds,
        "made": whole.made,
    }
    name = zoo.label(member.name)
    path, _ = ship(whole.model, attack, zoo.folder / "half", name, told)
    received = load_from(path.parent, name, zoo.experiment.build())
    report = evaluate(received.model, zoo.dataset.test, attack)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {report}", flush=True)


def _tell(record: Mapping[str, Any]) -> None:
    report, control = record["report"], record["control"]
    print(
        f"{record['network']:<15} seed {record['seed']}  ACC {report['accuracy']:6.1%}"
        f"  ASR {report['attack_success_rate']:6.1%}"
        f"  (clean network: {control['accuracy']:6.1%}, {control['attack_success_rate']:6.1%})"
        f"  {record['seconds']:6.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
