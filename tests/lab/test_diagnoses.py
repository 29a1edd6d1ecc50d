"""What the records of diagnoses are counted as."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ibau_lab import diagnoses, read, zoo
from ibau_lab.zoo import Member
from ibau_lite.attacks import Attack, badnets, badnets_all_to_all, blend
from ibau_lite.data import Dataset, LabelledImages


def record(network: str, targets: list[int], *scores: float) -> dict:
    return {
        "data": "gtsrb", "network": network, "seed": 0, "targets": targets, "scores": list(scores),
        "threshold": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "scores", "outcome"),
    [
        ([1], (1.0, 2.0, 0.5), "found"),
        ([1, 0], (3.0, 2.9, 0.5), "found"),
        ([1], (2.1, 2.0, 0.5), "wrong"),
        ([1], (1.0, 1.9, 0.5), "missed"),
        ([], (1.0, 1.9, 0.5), "nothing"),
        ([], (1.0, 1.0, 2.5), "false alarm"),
    ],
)
def test_an_outcome_is_right_only_for_a_target_that_stands_out(
    targets: list[int], scores: tuple[float, ...], outcome: str
) -> None:
    (row,) = diagnoses.outcomes([record("blend", targets, *scores)]).to_dict("records")
    assert row["outcome"] == outcome and row["score"] == max(scores)


def test_the_targets_of_an_attack_are_where_it_leads_every_class() -> None:
    assert diagnoses.targets(badnets(3), 10) == [3]
    assert diagnoses.targets(badnets_all_to_all(10), 10) == []
    several = Attack("two", (badnets(5).pairs[0], blend(2).pairs[0]))
    assert diagnoses.targets(several, 10) == [2, 5]


def test_the_networks_that_are_there_are_diagnosed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = LabelledImages(torch.rand(10, 3, 32, 32), torch.arange(10))
    drawn = Dataset("gtsrb", *[noise] * 4, tuple("abcdefghij"), "noise")
    monkeypatch.setattr(zoo.first_run.Experiment, "load", lambda self: drawn)
    monkeypatch.setattr(diagnoses, "members", lambda data: (Member("clean", "clean", 0.0),))
    monkeypatch.setattr(diagnoses, "diagnose", lambda model, clean, seed: Drawn())

    class Drawn:
        scores, heights, threshold = torch.tensor([1.0, 4.0]), torch.ones(2, 2), 2.0

    command = ["--data", "gtsrb", "--seeds", "2", "--results", str(tmp_path / "r.jsonl")]
    assert diagnoses.main(command) == diagnoses.main(command) == 0
    records = read(tmp_path / "r.jsonl")
    assert [each["seed"] for each in records] == [0, 1]
    assert all(each["targets"] == [] for each in records)
    assert capsys.readouterr().out.count("class  1 at 4.00  false alarm") == 4
