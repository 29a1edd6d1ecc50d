"""Where records and the talk, or the seeds of one cell, give different answers."""

from __future__ import annotations

from typing import Any

from ibau_lab import agreement
from ibau_lab.compare import compare
from ibau_lab.plan import Cell, plan


def record(cell: Cell, drop: float, asr: float) -> dict[str, Any]:
    return {
        "cell": {"key": cell.key, **cell.told},
        "before": {"accuracy": 0.85, "attack_success_rate": 0.99},
        "after": {"accuracy": 0.85 - drop, "attack_success_rate": asr},
        "found": None,
    }


def cells(table: str, name: str, attack: str = "badnets", seeds: int = 1) -> list[Cell]:
    return plan([table], "cpu", only=[name], attacks=[attack], seeds=seeds)


def test_disagreements_are_listed_with_what_they_differ_in() -> None:
    assert "No cell is recorded" in agreement.disagreements([])
    good = [record(cell, 0.01, 0.1) for cell in cells("table1", "ibau", seeds=2)]
    assert (
        agreement.disagreements(good) == "None: all 1 cells that both have give the same answers."
    )
    bad = [
        record(*cells("table2", "nad", "blend"), 0.0, 0.1),  # the talk's loses 50 points
        record(*cells("table1", "tabor", "all_to_all"), 0.3, 0.0),  # × there
    ]
    text = agreement.disagreements(good + bad)
    assert text.startswith("2 of the 3 cells that both have (profile cpu):")
    assert text.splitlines()[-2:] == [
        "| 1 | cifar10 all_to_all | TABOR | 1 | 30.0 | 0.0 % | 0.0 | 85.0 % | ours | the talk |",
        "| 2 | gtsrb blend | NAD | 1 | 0.0 | 10.0 % | 49.7 | 18.5 % |  | ours |",
    ]
    assert "gtsrb" not in agreement.disagreements(good + bad, ["table1"])
    (full,) = plan(["table3"], "full", only=["nad"], data=["gtsrb"], seeds=1)
    text = agreement.disagreements([*bad, record(full, 0.0, 0.1)])
    assert text.startswith("3 of the 3 cells that both have (profile cpu and full):")
    assert "| 1 (cpu) | cifar10" in text and "| 3 (full) | gtsrb" in text


def test_the_talks_ibau_counts_once_whatever_recipes_stand_beside_it() -> None:
    done = [
        record(*cells("table1", "ibau"), 0.01, 0.1),
        record(*cells("table1", "released"), 0.01, 0.9),
        record(*cells("table1", "exact"), 0.01, 0.9),
        record(*cells("table1", "fp"), 0.01, 0.9),  # fails in the talk, too
        record(*cells("table1", "tabor"), 0.3, 0.9),  # does both there
    ]
    assert agreement.disagreements(done).startswith(
        "1 of the 3 cells that both have (profile cpu):"
    )
    lines = agreement.tally(done).splitlines()
    assert "| I-BAU | 1 of 1 | 1 of 1 |  |" in lines
    assert "| I-BAU released | 0 of 1 | 0 of 1 |  |" in lines
    assert "| Fine-Pruning | 1 of 1 |  | 1 of 1 |" in lines
    assert "| **each of the talk's cells once** | 2 of 3 | 1 of 2 | 1 of 1 |" in lines
    assert lines[-1] == "What differs: removed: the talk only, kept: the talk only: 1."
    assert agreement.tally([]).startswith("No cell is recorded")


def test_seeds_that_a_mean_hides_are_named() -> None:
    done = [
        record(cell, 0.0, asr)
        for cell, asr in zip(cells("table1", "ibau", seeds=3), (0.1, 0.9, 0.05), strict=True)
    ]
    done += [record(cell, 0.0, 0.9) for cell in cells("table1", "ft", seeds=3)]
    assert agreement.divided(compare(done, "table1", "cpu")) == (
        "- I-BAU, cifar10 badnets: 10.0, 90.0, 5.0 %"
    )
    assert agreement.divided(compare(done[3:], "table1", "cpu")) == "- none that is recorded"
