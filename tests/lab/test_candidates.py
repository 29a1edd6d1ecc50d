"""How the default settings were chosen: the rule, and the table that it is read from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ibau_lab import candidates, read
from ibau_lab.plan import TABLES, cases
from ibau_lite.ibau import IBAU


def record(name: str, attack: str, lost: float, left: float, seconds: float = 10.0) -> dict:
    return {
        "defense": name,
        "data": "cifar10",
        "attack": attack,
        "before": {"accuracy": 0.80, "attack_success_rate": 1.0},
        "after": {"accuracy": 0.80 - lost, "attack_success_rate": left},
        "cpu_seconds": seconds,
    }


@pytest.mark.parametrize(
    ("lost", "left", "expected"), [(0.0, 0.1, 10.0), (0.02, 0.1, 16.0), (-0.05, 0.1, 10.0)]
)
def test_a_point_of_accuracy_weighs_as_much_as_three_of_success(lost, left, expected):
    assert candidates.loss(record("base", "badnets", lost, left)) == pytest.approx(expected)


def test_the_table_begins_with_the_least_loss_and_ends_with_what_is_not_whole():
    told = candidates.table(
        [
            record("base", "badnets", 0.01, 0.05),
            record("base", "blend", 0.0, 0.20),
            record("no shift", "badnets", 0.0, 0.01),
            record("no shift", "blend", 0.0, 0.02),
            record("10 % stamped", "badnets", 0.0, 0.0),
        ]
    )
    head, _, *rows = told.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["no shift", "base", "10 % stamped"]
    assert "mean loss" in head and "14.0" in rows[1] and "-1.0 / 5.0" in rows[1]
    assert "0.0" not in rows[2].split("|")[4]


def test_each_candidate_changes_what_its_name_says():
    assert candidates.recipe("base") == candidates.BASE
    others = [candidates.recipe(name) for name in candidates.CANDIDATES]
    assert len(set(map(repr, others))) == len(others)


def test_the_default_is_base_with_the_cheaper_indirect_term():
    """Not by the rule: see the module's docstring."""
    assert replace(IBAU(), indirect=None) == candidates.BASE
    assert IBAU().indirect == candidates.recipe("indirect term, K = 2 on 25 images").indirect


def test_by_the_rule_the_records_choose_the_l2_ball_alone():
    """Every candidate that is cheap enough and may still be whole has more loss."""
    found: dict[str, dict[tuple[str, str], dict]] = {}
    for each in read(Path(candidates.__file__).parents[1] / "results" / "candidates.jsonl"):
        found.setdefault(each["defense"], {})[each["data"], each["attack"]] = each
    runs = found.pop("the l2 ball alone")
    assert len(runs) == 5
    least = sum(candidates.loss(run) for run in runs.values())
    for name, others in found.items():
        seconds = sum(run["cpu_seconds"] for run in others.values()) / len(others)
        plain = not name.startswith("indirect")
        assert not plain or seconds > 60 or sum(map(candidates.loss, others.values())) > least


def test_the_choice_looks_at_networks_that_are_there_and_leaves_most_of_them_alone():
    named = {(case.data, case.network) for table in TABLES for case in cases(table, "cpu")}
    seen = {(data, name) for data, names in candidates.NETWORKS.items() for name in names}
    assert seen < named and len(seen) == 5


def test_a_network_that_is_kept_for_the_tables_is_refused(capsys):
    with pytest.raises(SystemExit):
        candidates.main(["--networks", "trojan_wm"])
    assert "kept for the tables" in capsys.readouterr().err
