"""The zoo on data that take a moment: what is trained, what is kept, what is recorded."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ibau_lab import __main__ as command_line
from ibau_lab import first_run, read, victims, zoo
from ibau_lab.courses import course
from ibau_lab.undefended import UNDEFENDED
from ibau_lab.zoo import Zoo, members, table
from ibau_lite import zoo as shelf
from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.metrics import attack_success_rate
from ibau_lite.models import small_cnn
from ibau_lite.streams import VERSION
from ibau_lite.training import Recipe

# Networks this small may have silent neurons, and the Trojans say so.
pytestmark = pytest.mark.filterwarnings("ignore:trojan_:RuntimeWarning")

BUILD = functools.partial(small_cnn, 10, width=2)


def tens(count: int, seed: int) -> LabelledImages:
    """Noise whose brightness is its class, one of ten, as the talk's targets need."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    noise = torch.rand(count, 3, 8, 8, generator=generator)
    return LabelledImages(0.5 * noise + 0.05 * labels[:, None, None, None], labels)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The smoke profile on 60 tiny images; the list grows by one with every training."""
    parts = [tens(size, seed) for seed, size in enumerate((60, 10, 10, 20))]
    drawn = Dataset("tens", *parts, tuple("abcdefghij"), "tens (drawn)")
    recipe = Recipe(epochs=1, batch_size=20)
    experiment = replace(first_run.experiments("smoke")[0], build=BUILD, recipe=recipe)
    monkeypatch.setattr(first_run, "experiments", lambda profile: (experiment,))
    monkeypatch.setattr(first_run.Experiment, "load", lambda self: drawn)
    seen: list[int] = []
    real = victims.fit

    def counted(*args: object, **keywords: object) -> object:
        seen.append(1)
        return real(*args, **keywords)

    monkeypatch.setattr(victims, "fit", counted)
    return seen


def build(folder: Path, *more: str) -> list[dict]:
    arguments = ["zoo", "build", "--data", "signs", "--profile", "smoke"]
    arguments += ["--results", str(folder / "r.jsonl"), "--folder", str(folder / "zoo"), *more]
    assert command_line.main(arguments) == 0
    return read(folder / "r.jsonl")


def test_every_network_of_the_talk_is_a_member() -> None:
    for data in ("cifar10", "gtsrb"):
        names = [member.name for member in members(data)]
        assert names[0] == zoo.CLEAN and len(set(names)) == len(names)
        assert set(names[1:]) == {name for where, name in UNDEFENDED if where == data}
    rates = {member.name: member.rate for member in members("cifar10")}
    assert rates.pop("clean") == 0
    assert (rates.pop("trojan_wm_5"), rates.pop("trojan_wm_0.5")) == (0.05, 0.005)
    assert set(rates.values()) == {0.2}


def test_the_talks_rows_before_any_defence() -> None:
    assert UNDEFENDED["cifar10", "all_to_all"] == (86.38, 85.02)
    assert UNDEFENDED["cifar10", "trojan_wm"] == (84.92, 99.96)  # of Table 1, not of 4
    assert UNDEFENDED["cifar10", "trojan_wm_0.5"] == (86.42, 98.58)
    assert UNDEFENDED["gtsrb", "seven_to_seven"] == (97.18, 99.37)
    assert len(UNDEFENDED) == 20


def test_what_was_built_is_neither_trained_nor_recorded_again(
    small: list[int], tmp_path: Path
) -> None:
    chosen = ("--attacks", "badnets,trojan_sq")
    records = build(tmp_path, *chosen)
    assert [record["network"] for record in records] == ["clean", "badnets", "trojan_sq"]
    assert len(small) == 3
    assert build(tmp_path, *chosen) == records
    assert len(small) == 3
    more = build(tmp_path, "--attacks", "trojan_wm", "--seeds", "1")
    # The clean network of seed 1 and the Trojan's, whose trigger comes from it.
    assert len(small) == 5 and len(more) == 5
    triggers = {r["network"]: r["settings"]["network"]["attack"]["pairs"] for r in more[:3]}
    assert "provenance" in triggers["trojan_sq"][0]["trigger"]


def test_a_record_holds_what_was_measured(small: list[int], tmp_path: Path) -> None:
    records = build(tmp_path, "--attacks", "seven_to_seven,l0_inv")
    seven = next(record for record in records if record["network"] == "seven_to_seven")
    house = Zoo.open("signs", "smoke", tmp_path / "zoo")
    test, attack = house.dataset.test, house.attack("seven_to_seven")
    model = house.network(house.member("seven_to_seven")).model
    assert seven["report"]["attack_success_rate"] == attack_success_rate(model, test, attack)
    assert len(seven["by_pair"]) == 7
    shares = sum(seven["by_pair"].values()) / 7  # each target leaves out as many images
    assert shares == pytest.approx(seven["report"]["attack_success_rate"])
    clean = house.network(house.member("clean")).model
    assert seven["control"]["attack_success_rate"] == attack_success_rate(clean, test, attack)
    assert seven["rate"] == 0.2 and seven["seed"] == 0 and seven["profile"] == "smoke"
    # The l0 trigger of the seven is the one that is used alone.
    assert house.attack("l0_inv").pairs[0][0] in {trigger for trigger, _ in attack.pairs}
    assert len(list((tmp_path / "zoo" / "attacks").iterdir())) == 5


def test_copies_to_ship_are_complete(
    small: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, "--attacks", "blend", "--half")
    names = sorted(path.name for path in (tmp_path / "zoo" / "half").iterdir())
    assert names == [
        "SHA256SUMS",
        "signs-smoke-blend.attack.safetensors",
        "signs-smoke-blend.safetensors",
    ]
    assert re.search(r"blend\.safetensors: 0\.0\d MB, ACC", capsys.readouterr().out)


def test_a_shipped_network_is_received_and_not_trained(small: list[int], tmp_path: Path) -> None:
    half = tmp_path / "zoo" / "half"
    build(tmp_path, "--attacks", "trojan_sq", "--half")
    assert not Zoo.open("signs", "smoke", received=half).shipped  # no clean network is among them
    records = {record["network"]: record for record in build(tmp_path, "--half")}
    trained = len(small)
    house = Zoo.open("signs", "smoke", tmp_path / "elsewhere", received=half)
    got, first = house.network(house.member("trojan_sq")), records["trojan_sq"]
    assert len(small) == trained and got.seconds == first["seconds"]
    stated = hashlib.sha256((half / "signs-smoke-trojan_sq.safetensors").read_bytes()).hexdigest()
    assert got.settings == {**first["settings"]["network"], "weights": stated}
    trigger = house.attack("trojan_sq").pairs[0][0]
    assert trigger in {pair[0] for pair in house.attack("seven_to_seven").pairs}
    # Another seed, and all of them where that is asked for.
    house.network(house.member("trojan_sq"), seed=1)
    assert len(small) == trained + 2  # and the clean network of that seed: its trigger's source
    afresh = Zoo.open("signs", "smoke", tmp_path / "elsewhere", received=None)
    afresh.network(afresh.member("trojan_sq"))
    assert len(small) == trained + 4


def test_a_build_goes_on_from_the_networks_that_it_receives(
    small: list[int], tmp_path: Path
) -> None:
    build(tmp_path, "--attacks", "clean,blend", "--half")
    part = tmp_path / "part"
    (tmp_path / "zoo" / "half").rename(part)
    (tmp_path / "zoo").rename(tmp_path / "lost")
    trained = len(small)
    wanted = ("--attacks", "clean,blend,trojan_sq", "--received", str(part), "--half")
    records = build(tmp_path, *wanted)
    assert len(small) == trained + 1  # Trojan SQ, with a trigger from the clean network received
    weights = [record["settings"]["network"].get("weights") for record in records[-2:]]
    assert records[-2]["network"] == "blend" and weights[0] and weights[1] is None
    made = sorted(path.name for path in (tmp_path / "zoo" / "half").glob("*trojan_sq.safe*"))
    assert made == ["signs-smoke-trojan_sq.safetensors"]
    assert not list((tmp_path / "zoo" / "half").glob("*blend*"))


def test_the_shipped_networks_are_those_of_the_evidence() -> None:
    """Whole, small enough to be carried around, and of one version of the random streams.

    If it is the version that the code has now, they are made by the recipes that it has.
    """
    versions = set()
    names = shelf.names(shelf.FOLDER)
    for data in ("cifar10", "gtsrb"):
        (experiment,) = (e for e in first_run.experiments("cpu") if e.data == data)
        for member in members(data):
            name = f"{data}-cpu-{member.name}"
            assert name in names
            ours = shelf.load(data, member.name)
            settings = ours.metadata["settings"]
            versions.add(settings.get("streams", 1))
            if versions == {VERSION}:
                network = hashlib.sha256(repr(ours.model.train()).encode()).hexdigest()[:12]
                assert settings["network"] == network
                assert settings["recipe"] == asdict(course(experiment, "cpu", member.attack))
            assert (settings["rate"], settings["seed"]) == (member.rate, 0)
            assert settings["attack"] == shelf.load_attack(shelf.FOLDER, name).to_dict()
    assert len(versions) == 1


def test_the_table_gathers_seeds_beside_the_talk() -> None:
    def record(seed: int, acc: float, asr: float, clean: float) -> dict:
        return {
            "data": "gtsrb", "profile": "cpu", "network": "smooth", "seed": seed,
            "report": {"accuracy": acc, "attack_success_rate": asr},
            "control": {"accuracy": clean, "attack_success_rate": 0.01},
        }  # fmt: skip

    text = table(
        [record(0, 0.90, 0.98, 0.91), record(1, 0.92, 1.0, 0.92), record(1, 0.94, 1.0, 0.92)]
    )
    rows = text.splitlines()
    assert len(rows) == 3 and len(Counter(row.count("|") for row in rows)) == 1
    assert rows[2].split(" | ")[1:] == [
        "smooth", "2", "92.0 ± 2.8 %", "+0.5", "99.0 ± 1.4 %", "1.0 ± 0.0 %", "97.87 %", "99.89 % |"
    ]  # fmt: skip


def test_the_table_is_printed(
    small: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, "--attacks", "clean")
    capsys.readouterr()
    assert command_line.main(["zoo", "table", "--results", str(tmp_path / "r.jsonl")]) == 0
    assert "| tens (smoke) | clean | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "imagenet"],
        ["--attacks", "sunset"],
        ["--seeds", "one"],
        ["--jobs", "0"],
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_trained(
    small: list[int], tmp_path: Path, arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        build(tmp_path, *arguments)
    assert not small and not list(tmp_path.iterdir())


def test_commands_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([]) == command_line.main(["circus"]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("usage: python -m ibau_lab COMMAND")
    assert command_line.main(["--help"]) == command_line.main(["-h"]) == 0
    assert capsys.readouterr().out.count("reproduce  run the cells") == 2


def test_a_table_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").write_text('{"a": 1}\n')
    (tmp_path / "picture").write_bytes(b"\x00")
    for name, says in (("none", "there is no "), ("other", "holds no"), ("picture", "holds no")):
        with pytest.raises(SystemExit):
            command_line.main(["zoo", "table", "--results", str(tmp_path / name)])
        assert says in capsys.readouterr().err
