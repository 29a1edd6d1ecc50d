from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ibau_lite.data import Dataset
from ibau_lite.defenses import REGISTRY, FineTuningConfig
from ibau_lite.experiments import Victim, describe, other_defences, read
from ibau_lite.experiments.first_run import PROFILES, Experiment, Row
from ibau_lite.experiments.other_defences import TALK, beside_the_talk, experiment, rows
from ibau_lite.experiments.published import one_trigger


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_runs_the_same_defences_and_can_describe_them(profile: str) -> None:
    assert [row.label for row in rows(profile)] == [row.label for row in rows("smoke")]
    assert all(row.defense in REGISTRY and describe(row.config) for row in rows(profile))
    assert all(row.config.flip for row in rows(profile, flip=True))


def test_all_that_the_talk_reports_on_has_a_row_or_trains_anew() -> None:
    printed = {entry.defense for data in ("cifar10", "gtsrb") for entry in one_trigger(data)}
    assert set(TALK.values()) == printed
    assert set(TALK) - {row.label for row in rows("cpu")} == {"no defence", "DP"}


def test_data_that_a_profile_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="cifar10 or gtsrb in profile 'cpu', got 'signs'"):
        experiment("cpu", "signs")


def record(label: str, seed: int, asr: float, found: bool | None = None) -> dict[str, Any]:
    return {
        "data": "gtsrb",
        "defense": label,
        "seed": seed,
        "before": {"accuracy": 0.97, "attack_success_rate": 0.99},
        "after": {"accuracy": 0.9, "attack_success_rate": asr},
        "cpu_seconds": 10.0 * (seed + 1),
        "found": found,
    }


def test_ours_stand_beside_the_talks_with_a_cross_where_no_trigger_was_found() -> None:
    records = [
        record("NAD", 0, 0.9),  # run again below
        record("NAD", 1, 0.3),
        record("NAD", 0, 0.1),
        record("TABOR", 0, 0.99, found=False),
        record("DeepInspect", 0, 0.99, found=False),
        record("DeepInspect", 1, 0.01, found=True),
        {**record("ANP", 0, 0.5), "data": "cifar10"},
    ]
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in beside_the_talk(records, "gtsrb").splitlines()
    }
    assert lines["no defence"] == ["97.0 %", "99.0 %", "", "97.69 %", "99.18 %"]
    assert lines["NAD"] == ["90.0 ± 0.0 %", "20.0 ± 14.1 %", "15", "15.19 %", "9.08 %"]
    assert lines["TABOR"] == ["90.0 %", "99.0 % ×", "10", "98.99 %", "4.16 %"]
    assert lines["DeepInspect"][1] == "50.0 ± 69.3 % (× 1 of 2)"
    assert lines["ANP"] == ["not run", "", "", "", ""]
    assert lines["DP"] == ["not run", "", "", "6.46 %", "100.00 %"]


def test_without_records_only_the_talk_speaks() -> None:
    page = beside_the_talk([], "cifar10")
    assert "| no defence | not run |  |  | 84.94 % | 98.28 % |" in page
    with pytest.raises(KeyError, match="signs"):
        beside_the_talk([], "signs")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, poisoned: Victim) -> None:
    """The command line on data that take a moment."""
    few = (
        Row("fine-tuning", "fine_tuning", FineTuningConfig(epochs=1, shift=0)),
        Row("longer, twice", "fine_tuning", FineTuningConfig(epochs=2, shift=0)),
    )
    shades = replace(experiment("smoke"), data="shades", rows=few, target=1)

    def only_shades(profile: str, data: str | None) -> Experiment:
        if data not in (None, "shades"):
            raise ValueError(f"data: shades, got {data!r}")
        return shades

    monkeypatch.setattr(other_defences, "experiment", only_shades)
    monkeypatch.setattr(Experiment, "load", lambda self: dataset)
    monkeypatch.setattr(Experiment, "victim", lambda self, data, progress: poisoned)


def test_the_command_records_each_cell_once(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "results.jsonl")
    command = ["--results", path, "--data", "shades", "--seeds", "2"]
    assert other_defences.main([*command, "--only", "longer, twice"]) == 0
    assert [(r["defense"], r["seed"]) for r in read(path)] == [
        ("longer, twice", 0),
        ("longer, twice", 1),
    ]
    assert other_defences.main(command) == 0
    assert len(read(path)) == 4
    assert capsys.readouterr().out.count("longer, twice") == 4


@pytest.mark.parametrize("wrong", [["--data", "imagenet"], ["--seeds", "0"]])
def test_wrong_choices_are_refused_before_anything_runs(
    small: None, tmp_path: Path, wrong: list[str]
) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(SystemExit):
        other_defences.main(["--results", str(path), *wrong])
    assert not path.exists()
