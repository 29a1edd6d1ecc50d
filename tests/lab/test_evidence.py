"""What a page says about records: none, a few, and all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ibau_lab import evidence
from ibau_lab.compare import compare, of_cells
from ibau_lab.contenders import CONTENDERS
from ibau_lab.plan import Cell, plan


def record(cell: Cell, drop: float, asr: float, **more: Any) -> dict[str, Any]:
    return {
        "cell": {"key": cell.key, **cell.told},
        "before": {"accuracy": 0.85, "attack_success_rate": 0.99},
        "after": {"accuracy": 0.85 - drop, "attack_success_rate": asr},
        "found": None,
        **more,
    }


def cells(
    table: str, name: str, attack: str = "badnets", seeds: int = 1, **more: Any
) -> list[Cell]:
    return plan([table], more.pop("profile", "cpu"), only=[name], attacks=[attack], seeds=seeds)


def lines_with(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_page_shows_full_where_there_is_any_and_cpu_otherwise() -> None:
    (cpu,) = cells("table1", "ibau")
    (full,) = cells("table1", "ibau", profile="full")
    assert evidence.shown([], "table1")[0] == "cpu"
    assert evidence.shown([record(cpu, 0, 0)], "table1")[0] == "cpu"
    profile, compared = evidence.shown([record(cpu, 0, 0), record(full, 0, 0.1)], "table1")
    assert profile == "full"
    assert [each.attack_success_rate.mean for each in compared if each.n] == [0.1]
    assert evidence.shown([record(full, 0, 0.1)], "table2")[0] == "cpu"


def test_progress_counts_done_failed_and_other_settings() -> None:
    first, second, third = cells("table1", "ft", seeds=3)
    done = record(first, 0, 0.5)
    failed = {"cell": {"key": second.key, **second.told}, "error": "no"}
    old = record(third, 0, 0.5)
    old["cell"]["key"] = "0" * 16
    planned = {table: len(plan([table], "cpu")) for table in ("table1", "table3")}
    text = evidence.progress(
        [done, failed, old, {"key": "of another engine"}], ["table1", "table3"]
    )
    assert lines_with(text, "| table1 | cpu") == [
        f"| table1 | cpu | {planned['table1']} | 1 | 1 | 1 |"
    ]
    assert lines_with(text, "| table3 | cpu") == [
        f"| table3 | cpu | {planned['table3']} | 0 | 0 | 0 |"
    ]
    assert "reproduce table1 table3 --profile cpu" in text and "Nothing is recorded" not in text
    assert "Nothing is recorded" in evidence.progress([failed], ["table1"])
    other = {**record(second, 0, 0.5), "source": "other images"}
    text = evidence.progress([done, record(third, 0, 0.5), other], ["table1"])
    assert lines_with(text, "| table1 | cpu") == [
        f"| table1 | cpu | {planned['table1']} | 3 | 0 | 1 |"
    ]


def test_verdicts_start_with_the_network_and_answer_both_questions() -> None:
    (ft,), (nad,) = cells("table1", "ft"), cells("table1", "nad")
    done = [record(ft, 0.02, 0.9), record(nad, 0.3, 0.1, found=False)]
    text = evidence.verdicts(of_cells(done, [nad, ft]))
    assert text.splitlines()[2:] == [
        "| cifar10 badnets | no defence |  | 85.0 % |  | 99.0 % |  |  |",
        "| cifar10 badnets | NAD | 1 | 55.0 % | 30.0 | 10.0 % × | ✓ | ✗ |",
        "| cifar10 badnets | fine-tuning | 1 | 83.0 % | 2.0 | 90.0 % | ✗ | ✓ |",
    ]
    assert evidence.verdicts(of_cells([], [nad])).count("\n") == 1


def test_costs_have_a_line_a_defence_and_start_with_the_network() -> None:
    (nad,), (blend,) = cells("table2", "nad"), cells("table2", "nad", "blend")
    first, second = cells("table2", "tabor", seeds=2)
    (anp,) = cells("table2", "anp")
    abacus, loom = ({"device": name, "threads": 1} for name in ("abacus", "loom"))
    done = [
        record(nad, 0.1, 0.2, seconds=9.6, hardware=abacus),
        record(blend, 0.2, 0.1, seconds=10.6, hardware=abacus),
        record(first, 0, 0.98, found=False, seconds=10.0, hardware=abacus),
        record(second, 0, 0.02, found=False, seconds=200.0, hardware=loom),
        record(anp, 0, 0.5, seconds=33.0, hardware=loom),
    ]
    text = evidence.costs(of_cells(done, [nad, blend, first, second, anp]))
    assert text.splitlines()[0] == "| defence | n | badnets | blend | s (abacus) |"
    assert text.splitlines()[2:] == [
        "| no defence |  | 85.0 / 99.0<br>(97.7 / 99.2) | 85.0 / 99.0<br>(97.4 / 99.9) |  |",
        "| NAD | 1 | 75.0 / 20.0<br>(15.2 / 9.1) | 65.0 / 10.0<br>(47.7 / 18.5) | 10.1 |",
        "| TABOR | 2 | 85.0 / 50.0<br>×<br>(99.0 / 4.2) |  | 10.0 |",
        "| ANP | 1 | 85.0 / 50.0 |  | 33.0 (loom) |",
    ]


def test_cells_that_no_table_has_are_gathered_over_their_seeds() -> None:
    both = [
        dataclasses.replace(cell, case=dataclasses.replace(cell.case, clean=25))
        for cell in cells("table1", "ft", seeds=2)
    ]
    (row,) = of_cells([record(cell, 0, 0.5) for cell in both], both)
    assert (row.n, row.case.clean, row.talk, row.agrees) == (2, 25, None, None)


def test_summary_counts_rows_of_either_side() -> None:
    done = [
        record(*cells("table1", "fp", "smooth"), 0.0, 0.1),  # removed in the talk, too
        record(*cells("table1", "fp", "blend"), 0.0, 0.1),  # not removed there
        record(*cells("table1", "fp", "badnets"), 0.2, 0.9),
    ]
    text = evidence.summary(compare(done, "table1", "cpu"))
    assert lines_with(text, "| Fine-Pruning") == [
        "| Fine-Pruning | 3 | 2 | 2 | 2 | 2 | 1 of 8 | 1 of 3 |"
    ]
    assert lines_with(text, "| TABOR") == ["| TABOR | 0 | not run |  |  |  | 4 of 8 |  |"]
    assert lines_with(text, "| naive") == ["| naive | 0 | not run |  |  |  |  |  |"]


def test_rows_won_are_named_for_each_recipe() -> None:
    done = [
        record(*cells("table1", "ibau", "smooth"), 0.0, 0.1),
        record(*cells("table1", "ibau", "blend"), 0.0, 0.2),
        record(*cells("table1", "released", "blend"), 0.0, 0.2),
    ]
    assert evidence.rows_won(compare(done, "table1", "cpu")).splitlines() == [
        "- **I-BAU** matches or beats the talk's I-BAU on 1 of 2 rows: cifar10 smooth.",
        "- **I-BAU released** matches or beats the talk's I-BAU on 0 of 1 rows.",
    ]
    assert "not recorded" in evidence.rows_won(compare([], "table1", "cpu"))


def test_fine_tuning_is_beaten_by_less_asr_at_no_more_cost() -> None:
    def beats(drop: float, asr: float) -> str:
        done = [
            record(*cells("table1", "ft"), 0.01, 0.5),
            record(*cells("table1", "ibau"), drop, asr),
        ]
        return evidence.better_than_fine_tuning(compare(done, "table1", "cpu"))

    # where fine-tuning has one seed more, that one is left out
    (first, second) = cells("table1", "ft", seeds=2)
    done = [
        record(first, 0.0, 0.5),
        record(second, 0.0, 0.1),
        record(*cells("table1", "ibau"), 0, 0.4),
    ]
    assert "1 of 1" in evidence.better_than_fine_tuning(compare(done, "table1", "cpu"))
    assert beats(0.05, 0.4) == "- I-BAU: 1 of 1 rows"
    assert beats(0.05, 0.46) == beats(0.07, 0.4) == "- I-BAU: 0 of 1 rows"
    assert "No row" in evidence.better_than_fine_tuning(compare([], "table1", "cpu"))


def test_figures_get_ours_and_the_talks_and_no_recipe_twice() -> None:
    (cell,) = cells("table4", "ibau", "trojan_wm_5")
    compared = compare([record(cell, 0.01, 0.1)], "table4", "cpu")
    ours, theirs = evidence.prices(compared)["I-BAU"][0]
    assert ours == pytest.approx((0.01, 0.1)) and theirs == pytest.approx((0.0182, 0.0978))
    assert evidence.prices(compared)["I-BAU"][1][0] is None
    assert not {"I-BAU released", "I-BAU exact", "naive"} & set(evidence.prices(compared))
    by_rate = evidence.by_setting(compared, "rate")["I-BAU"]
    assert by_rate["ours"] == {0.05: [0.1]}
    assert by_rate["the talk"] == {0.05: [pytest.approx(0.0978)], 0.005: [pytest.approx(0.1308)]}
    lost = evidence.by_setting(compared, "rate", lost=True)["I-BAU"]
    assert lost["ours"] == {0.05: [pytest.approx(0.01)]}
    released = record(*cells("table4", "released", "trojan_wm_5"), 0.0, 0.5)
    assert "I-BAU released" in evidence.prices(compare([released], "table4", "cpu"))


def test_training_says_when_the_poison_enters_and_how_many_rounds_there_are() -> None:
    cpu, full = evidence.training("cifar10").splitlines()
    assert cpu.startswith("- `cpu`: ") and "a cycle of clean images, then 4 epochs" in cpu
    assert full.startswith("- `full`: 50 epochs with the poison (all_to_all 100)")
    assert "I-BAU released 100" in evidence.training("gtsrb").splitlines()[1]


@pytest.mark.parametrize("data", ["cifar10", "gtsrb"])
def test_every_defence_stands_on_the_networks_that_are_asked_for(data: str) -> None:
    (cell,) = plan(
        ["table1", "table2"], "cpu", only=["nad"], attacks=["blend"], data=[data], seeds=1
    )
    profile, compared = evidence.on_networks([record(cell, 0, 0.5)], data, ["blend", "badnets"])
    assert profile == "cpu"
    assert {each.case.attack for each in compared} == {"badnets", "blend"}
    for attack in ("badnets", "blend"):
        labels = [each.label for each in compared if each.case.attack == attack]
        assert labels == [label for label, _ in CONTENDERS.values()]
    assert [(each.label, each.case.attack) for each in compared if each.n] == [("NAD", "blend")]
