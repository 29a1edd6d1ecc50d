"""The heights of I-BAU's search in the records, and the rule that chooses by them."""

from __future__ import annotations

from typing import Any

from ibau_lab import aims
from ibau_lab.compare import Comparison, compare
from ibau_lab.plan import plan


def searched(attack: str, *climbs: list[float]) -> list[Comparison]:
    records: list[dict[str, Any]] = [
        {
            "cell": {"key": cell.key, **cell.told},
            "before": {"accuracy": 0.85, "attack_success_rate": 0.99},
            "after": {"accuracy": 0.85, "attack_success_rate": 0.04},
            "found": None,
            "climbs": seen,
        }
        for cell, seen in zip(
            plan(["table1"], "cpu", only=["ibau"], attacks=[attack], seeds=len(climbs)),
            climbs,
            strict=True,
        )
    ]
    return compare(records, "table1", "cpu")


def test_heights_name_the_target_among_the_highest() -> None:
    compared = searched("l0_inv", [9.0, 1, 1, 1, 2, 3, 1, 1, 1, 1], [1.0, 2, 3] + [1.0] * 6 + [5.0])
    assert aims.heights(compared).splitlines() == [
        "| network | seed 0 | seed 1 |",
        "| --- | --- | --- |",
        "| cifar10 l0_inv | **0: 9.0**, 5: 3.0, 4: 2.0 / 1.0 (4%) "
        "| 9: 5.0, 2: 3.0, 1: 2.0, **0: 1.0** / 1.0 (4%) |",
    ]
    # an attack without one target, and a search that did not aim
    assert len(aims.heights(searched("all_to_all", [1.0] * 10)).splitlines()) == 2
    assert len(aims.heights(searched("l0_inv", [])).splitlines()) == 2


def test_a_target_that_is_no_aim_is_named_by_the_rule_that_is_asked_for() -> None:
    # the rival stands out; the target (class 2) at 0.8 of it, and then at 0.7
    clear, low = ([1.0] * 10 for _ in range(2))
    clear[9], clear[2], low[9], low[2] = 2.4, 1.92, 2.4, 1.68
    compared = searched("trojan_sq", clear, low)
    assert aims.unaimed(compared) == ["cifar10 trojan_sq (seed 1)"]
    assert aims.unaimed(compared, near=1.0) == [f"cifar10 trojan_sq (seed {k})" for k in (0, 1)]
    assert aims.unaimed(compared, near=0.6) == []
