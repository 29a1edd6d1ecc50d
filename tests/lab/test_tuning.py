"""The search for settings: what may be looked at, and what a table of it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ibau_lab import describe, read, tuning
from ibau_lab.contenders import contender
from ibau_lab.zoo import members
from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.streams import VERSION


def test_settings_are_searched_on_some_attacks_and_confirmed_on_the_others() -> None:
    names = {member.name for member in members("cifar10")}
    assert set(tuning.ATTACKS) < names and len(names - {*tuning.ATTACKS, "clean"}) >= 6


@pytest.mark.parametrize("data", ["cifar10", "gtsrb"])
def test_what_was_chosen_is_the_recipe_of_the_tables(data: str) -> None:
    chosen = describe(tuning.recipe(tuning.CHOSEN[data], data))
    assert describe(contender("ibau", "cpu", data).config) == chosen
    assert describe(contender("naive", "cpu", data).config) == chosen


def test_the_table_has_a_line_a_row_and_gathers_seeds() -> None:
    def record(attack: str, row: str, seed: int, acc: float, asr: float) -> dict:
        return {
            "settings": {"config": describe(tuning.recipe(row, "gtsrb")), "test": {"count": 1000}},
            "data": "gtsrb", "attack": attack, "defense": row, "seed": seed,
            "versions": {"streams": VERSION},
            "before": {"accuracy": 0.9}, "after": {"accuracy": acc, "attack_success_rate": asr},
        }  # fmt: skip

    text = tuning.table(
        [
            record("badnets", "start", 0, 0.88, 0.1),
            record("badnets", "start", 1, 0.90, 0.3),
            record("blend", "start", 0, 0.91, 0.0),
            record("badnets", "4 parts", 0, 0.9, 0.5),
            {**record("badnets", "start", 2, 0.0, 1.0), "data": "cifar10"},
            {**record("badnets", "4 parts", 1, 0.0, 1.0), "settings": {"config": {"lr": 7.0}}},
            {**record("blend", "start", 1, 0.0, 1.0), "defense": "a row of last week"},
        ],
        "gtsrb",
    )
    assert text.splitlines() == [
        "| row | images | badnets | blend |",
        "| --- | ---: | ---: | ---: |",
        "| start | 1,000 | -1.0 / 20.0 ± 14.1 % | +1.0 / 0.0 % |",
        "| 4 parts | 1,000 | +0.0 / 50.0 % |  |",
    ]


def test_a_row_is_found_again_when_the_search_has_a_new_setting() -> None:
    row = "E: D in several sets, 50 % stamped"
    config = describe(tuning.recipe(row, "cifar10"))
    del config["inner"]["near"], config["inner"]["keep_scouts"]
    record = {
        "settings": {"config": config, "test": {"count": 8000}}, "data": "cifar10",
        "attack": "blend", "defense": row, "seed": 0, "versions": {"streams": VERSION},
        "before": {"accuracy": 0.9}, "after": {"accuracy": 0.9, "attack_success_rate": 0.0},
    }  # fmt: skip
    assert len(tuning.table([record], "cifar10").splitlines()) == 3
    config["inner"]["near"] = 0.5
    assert len(tuning.table([record], "cifar10").splitlines()) == 2


@pytest.mark.parametrize("data", ["cifar10", "gtsrb"])
def test_what_the_book_has_on_record_is_in_its_table(data: str) -> None:
    """Records of older networks are known by their names, whatever a setting is called today."""
    records = read(Path(__file__).parents[2] / "book" / "results" / "tuning.jsonl")
    rows = {record["defense"] for record in records if record["data"] == data} & set(tuning.ROWS)
    assert rows and len(tuning.table(records, data).splitlines()) == 2 + len(rows)


def test_what_is_measured_on_is_of_no_table() -> None:
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> LabelledImages:
        return LabelledImages(
            torch.rand(count, 1, 2, 2, generator=generator), torch.arange(count) % 3
        )

    train, test = part(7_100), part(10)
    names = ("a", "b", "c")
    dataset = Dataset("toy", train, part(5), part(20), test, names, "drawn for a test")
    chosen = tuning.measured_on(dataset)
    assert len(chosen) == 7_020
    assert torch.equal(chosen.images[:20], dataset.validation.images)
    rest = {tuple(image.flatten().tolist()) for image in chosen.images[20:]}
    assert len(rest) == 7_000
    assert rest <= {tuple(image.flatten().tolist()) for image in train.images}
