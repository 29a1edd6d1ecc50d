"""Ours beside the talk's: agreement, rows won, the derived matrix, times and counts."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ibau_lab import __main__ as command_line
from ibau_lab import append, compare, features, layout, overhead
from ibau_lab.compare import Outcome
from ibau_lab.contenders import CONTENDERS
from ibau_lab.plan import TABLES, Cell, contestants, plan
from ibau_lab.published import FEATURES, PUBLISHED
from ibau_lite.attacks.named import SEVEN_TARGETS


def record(cell: Cell, drop: float, asr: float, **more: Any) -> dict[str, Any]:
    report = {"accuracy": 0.85 - drop, "attack_success_rate": asr}
    return {
        "cell": {"key": cell.key, **cell.told},
        "profile": cell.profile,
        "before": {"accuracy": 0.85, "attack_success_rate": 0.99},
        "after": report,
        "found": None,
        "by_pair": {f"every class → {target}": asr for target in SEVEN_TARGETS.values()},
        "history": [{"attack_success_rate": 0.9, "elapsed": 1.0}, {**report, "elapsed": 3.0}],
        "seconds": 5.0,
        "cpu_seconds": 9.0,
        "jobs": 1,
        "source": "noise",
        "hardware": {"device": "abacus", "threads": 1},
        "versions": {"torch": "2"},
        "date": "2026-01-02T03:04:05",
        **more,
    }


def records(tables: list[str], only: list[str], drop: float, asr: float, **more: Any) -> list[Any]:
    keywords = {name: more.pop(name, None) for name in ("attacks", "data")}
    keywords["seeds"] = more.pop("seeds", 2)
    return [record(c, drop, asr, **more) for c in plan(tables, "cpu", only=only, **keywords)]


def find(compared: list[compare.Comparison], label: str, attack: str) -> compare.Comparison:
    return next(c for c in compared if (c.label, c.case.attack) == (label, attack))


def test_a_cell_gathers_its_seeds_beside_what_is_printed() -> None:
    (first, second) = plan(["table1"], "cpu", only=["nad"], attacks=["smooth"], seeds=2)
    done = [record(second, 0.03, 0.2), record(first, 0.01, 0.1), record(first, 0.02, 0.1)]
    nad = find(compare.compare(done, "table1", "cpu"), "NAD", "smooth")
    assert nad.n == 2 and [r["cell"]["seed"] for r in nad.records] == [0, 1]
    assert nad.ours is not None and nad.ours.drop == pytest.approx(0.025)  # the later record counts
    assert nad.attack_success_rate.std == pytest.approx(0.1 / 2**0.5)
    assert nad.talk is not None and nad.talk.attack_success_rate == 54.38
    assert nad.agrees is False  # the talk's NAD fails on Smooth
    text = compare.markdown([nad])
    assert (
        "| cifar10 smooth | NAD | 2 | 82.5 ± 0.7 % | 15.0 ± 7.1 % | 77.22 % | 54.38 % | ✗ |" in text
    )


def test_agreement_is_the_same_two_answers() -> None:
    def agrees(name: str, attack: str, drop: float, asr: float) -> bool | None:
        done = records(["table1"], [name], drop, asr, attacks=[attack])
        compared = compare.compare(done, "table1", "cpu")
        return find(compared, CONTENDERS[name][0], attack).agrees

    assert agrees("ibau", "badnets", 0.10, 0.20) is True  # the talk: 1.59 points, 12.30 %
    assert agrees("ibau", "badnets", 0.11, 0.20) is False
    assert agrees("ibau", "badnets", 0.0, 0.21) is False
    assert agrees("fp", "badnets", 0.02, 0.30) is True  # 96.66 % there
    assert agrees("tabor", "all_to_all", 0.0, 0.85) is True  # × there: the network as it was
    assert agrees("ft", "badnets", 0.0, 0.9) is None  # the talk has no such column


def test_a_row_is_won_by_what_is_no_worse_than_the_talks_ibau() -> None:
    def wins(drop: float, asr: float) -> bool | None:
        done = records(["table1"], ["ibau"], drop, asr, attacks=["trojan_wm"])
        return find(compare.compare(done, "table1", "cpu"), "I-BAU", "trojan_wm").wins

    assert wins(0.0134, 0.0342) is True  # 84.92 - 83.58 and 3.42 as printed
    assert wins(0.0136, 0.0342) is False
    assert wins(0.0134, 0.0344) is False
    assert find(compare.compare([], "table1", "cpu"), "I-BAU", "trojan_wm").wins is None


def test_records_with_other_settings_profiles_or_errors_do_not_count() -> None:
    (cell,) = plan(["table1"], "cpu", only=["ft"], attacks=["blend"], seeds=1)
    good = record(cell, 0.0, 0.5)
    other = {**good, "cell": {**good["cell"], "key": "0" * 16}}
    unknown = {**good, "cell": {**good["cell"], "defense": "prayer"}}
    failed = {"cell": good["cell"], "error": "no"}
    assert compare.current([other, failed, unknown, {"key": "of another engine"}], "cpu") == {}
    assert compare.current([good], "full") == {}
    assert len(compare.current([good], "cpu")) == 1


def test_records_of_older_streams_stand_until_the_cells_are_made_anew() -> None:
    (cell,) = plan(["table1"], "cpu", only=["ft"], attacks=["blend"], seeds=1)
    told = {name: value for name, value in cell.told.items() if name != "streams"}
    old = {**record(cell, 0.0, 0.5), "cell": {"key": "0" * 16, **told}}
    new = record(cell, 0.0, 0.4)
    for order in ([old], [old, new]):
        (shown,) = compare.current(order, "cpu")[cell.case]["ft"].values()
        assert shown["after"] == order[-1]["after"] and shown["cell"]["key"] == cell.key
    assert old["cell"]["key"] == "0" * 16  # the runner reads the file: there the cell is not done


def test_what_found_no_trigger_is_marked() -> None:
    cells = plan(["table1"], "cpu", only=["nc"], attacks=["badnets"], seeds=2)
    done = [record(cell, 0.0, 0.98, found=False) for cell in cells]
    assert "98.0 ± 0.0 % ×" in compare.markdown(compare.compare(done, "table1", "cpu"))
    assert "| 85.0 / 98.0<br>×<br>(" in layout.matrix(compare.compare(done, "table1", "cpu"))
    done[1]["found"] = True
    assert "| 85.0 / 98.0<br>×1/2<br>(" in layout.matrix(compare.compare(done, "table1", "cpu"))
    assert "98.0 ± 0.0 % (× in 1)" in compare.markdown(compare.compare(done, "table1", "cpu"))
    tabor = records(["table4"], ["tabor"], 0.0, 0.9)
    assert "| × | × |" in compare.markdown(compare.compare(tabor, "table4", "cpu"))


def test_the_matrix_has_a_line_a_defence_and_a_column_a_row_of_the_talk() -> None:
    done = records(["table4"], ["ibau"], 0.01, 0.05, seeds=2) + records(
        ["table4"], ["ft"], 0.0, 0.9, seeds=1
    )
    head, _, *lines = layout.matrix(compare.compare(done, "table4", "cpu")).splitlines()
    rates = "trojan_wm, 5 % poisoned | trojan_wm, 0.5 % poisoned"
    assert head == f"| defence | n | {rates} |"
    labels = [CONTENDERS[name][0] for name in contestants("table4", "cifar10")]
    assert [line.split(" | ")[0] for line in lines] == [f"| {x}" for x in ("no defence", *labels)]
    assert (
        lines[0]
        == "| no defence |  | 85.0 / 99.0<br>(86.6 / 99.9) | 85.0 / 99.0<br>(86.4 / 98.6) |"
    )
    told = {line.split(" | ")[0][2:]: line.strip("| ").split(" | ")[1:] for line in lines}
    assert told["I-BAU"] == ["2", "84.0 / 5.0<br>(84.8 / 9.8)", "84.0 / 5.0<br>(83.2 / 13.1)"]
    assert told["fine-tuning"] == ["1", "85.0 / 90.0", "85.0 / 90.0"]
    assert told["TABOR"][2] == "—<br>(× / ×)" and told["naive"] == ["0", "—", "—"]


def test_each_of_the_seven_triggers_has_a_column() -> None:
    done = records(["table3"], ["ibau"], 0.0, 0.25, data=["gtsrb"])
    head, _, line = layout.seven(done, "cpu").splitlines()
    assert head == f"| data | defence | n | {' | '.join(SEVEN_TARGETS)} |"
    assert line.startswith("| gtsrb | I-BAU | 2 | 25.0 ± 0.0<br>(1.8) | 25.0 ± 0.0<br>(")
    assert layout.seven([], "cpu").count("\n") == 1


def test_the_rules_give_the_talks_own_marks_from_its_own_numbers() -> None:
    assert features.of_the_talk() == FEATURES


def test_the_derived_matrix_says_yes_no_and_not_yet() -> None:
    tables = ["table1", "table2", "table3", "table4", "table5"]
    done = records(tables, ["ibau"], 0.02, 0.05, seeds=1)
    derived = features.derive(done, "cpu")
    assert derived == {"I-BAU": dict.fromkeys(features.RULES, True)}
    some = [r for r in done if r["cell"]["attack"] != "smooth"]
    answers = features.derive(some, "cpu")["I-BAU"]
    assert answers["one-trigger-one-target"] is None and answers["data-set-agnostic"] is None
    assert answers["multi-target"] is True
    bad = next(r for r in some if r["cell"]["rate"] == 0.005)
    bad["after"]["attack_success_rate"] = 0.5
    assert features.derive(some, "cpu")["I-BAU"]["poisoning-rate-insensitive"] is False
    costly = records(["table2"], ["nad"], 0.5, 0.0, seeds=1) + records(
        ["table1"], ["nad"], 0.0, 0.0, seeds=1
    )
    answers = features.derive(costly, "cpu")["NAD"]
    assert answers["data-set-agnostic"] is False and answers["one-trigger-one-target"] is False
    assert answers["low-clean-access"] is None
    head, _, line = features.markdown(costly, "cpu").splitlines()
    assert head == f"| defence | {' | '.join(features.RULES)} | seeds |"
    assert line == "| NAD | ✗ (✗) | … (✓) | … (✗) | ✗ (✗) | … (✗) | 1 |"


def test_time_until_effective_is_the_first_round_that_stays_below_the_threshold() -> None:
    (cell,) = plan(["table6"], "cpu", only=["ibau"], attacks=["blend"], data=["gtsrb"], seeds=1)
    assert overhead.effective(record(cell, 0.0, 0.2)) == 3.0
    assert overhead.effective(record(cell, 0.0, 0.21)) is None
    wavering = record(cell, 0.0, 0.1)
    rates = enumerate((0.05, 0.5, 0.2, 0.1), start=1)  # the first is a dip
    wavering["history"] = [{"attack_success_rate": r, "elapsed": float(k)} for k, r in rates]
    assert overhead.effective(wavering) == 3.0
    wavering["after"]["attack_success_rate"] = 0.9
    assert overhead.effective(wavering) is None
    rows = records(["table6"], ["ibau"], 0.0, 0.1, seeds=1)
    slow = records(["table6"], ["nc"], 0.0, 0.1, seeds=1)
    for run in slow:
        run["history"][-1]["elapsed"] = 30.0
    slow[0]["jobs"] = 2  # shared the machine: left out, since others did not
    slow[1]["history"] = []
    text = overhead.markdown(rows + slow, "cpu")
    assert "| gtsrb | Neural Cleanse | 7 of 7 | 30.0 | 10.0 | 30.0 | 1864.96 | 237.9 |" in text
    assert "| cifar10 | Neural Cleanse | 5 of 6 | 30.0 |" in text
    for run in rows:
        run["jobs"] = 2
    text = overhead.markdown(rows + slow, "cpu")
    assert "| gtsrb | I-BAU | 7 of 7 | 3.0* | 1.0* | 3.0* |" in text
    # of these some had the machine to themselves: no ratio to what had not
    assert "| gtsrb | Neural Cleanse | 7 of 7 | 30.0 |  |" in text
    for run in slow:
        run["jobs"] = 2
    text = overhead.markdown(rows + slow, "cpu")
    assert "| gtsrb | Neural Cleanse | 7 of 7 | 30.0* | 10.0* | 30.0* |" in text


def test_a_ratio_of_times_is_over_the_networks_on_which_both_became_effective() -> None:
    rows = records(["table6"], ["ibau"], 0.0, 0.1, seeds=1, attacks=["blend", "smooth"])
    others = records(["table6"], ["tabor"], 0.0, 0.1, seeds=1, attacks=["blend", "smooth"])
    for run in (*rows, *others):
        run["history"][-1]["elapsed"] = 3.0 if run["cell"]["attack"] == "blend" else 27.0
    for run in others:  # as fast as I-BAU where it works at all
        run["after"]["attack_success_rate"] = 0.1 if run["cell"]["attack"] == "blend" else 0.9
    text = overhead.markdown(rows + others, "cpu")
    assert "| gtsrb | TABOR | 1 of 2 | 3.0 | 1.0 |" in text
    assert "| gtsrb | I-BAU | 2 of 2 | 15.0 | 1.0 |" in text


def test_seconds_of_two_machines_have_no_mean_and_no_ratio() -> None:
    rows = records(["table6"], ["ibau", "ft"], 0.0, 0.1, seeds=3, data=["gtsrb"])
    strange = records(["table6"], ["nc"], 0.0, 0.1, seeds=1, data=["gtsrb"])
    strange += [run for run in rows if run["cell"]["defense"] == "ft" and run["cell"]["seed"] == 0]
    for run in strange:
        run["hardware"] = {"device": "fast abacus", "threads": 1}
        run["history"][-1]["elapsed"] = 0.1
    text = overhead.markdown(rows + strange, "cpu")
    assert "Neural Cleanse" not in text
    assert "| gtsrb | fine-tuning | 14 of 14 | 3.0 | 1.0 |" in text


def test_other_images_are_no_other_seed() -> None:
    cells = plan(["table1"], "cpu", only=["nad"], attacks=["smooth"], seeds=3)
    done = [record(cell, 0.0, 0.1) for cell in cells]
    done[1]["source"] = "photographs of the noise"
    nad = find(compare.compare(done, "table1", "cpu"), "NAD", "smooth")
    assert sorted(nad.seeds) == [0, 2]
    assert compare.strange(done, "cpu") == [done[1]]


def test_a_seed_counts_once_whatever_networks_it_has_met() -> None:
    alone = plan(["table1"], "cpu", only=["nad"], attacks=["smooth"], seeds=3)
    three = plan(["table1"], "cpu", only=["nad"], attacks=["smooth"], seeds=3, networks=3)
    rates = dict.fromkeys(alone, 0.5) | dict.fromkeys(three, 0.1)
    for order in (list(rates), list(reversed(rates))):
        done = [record(cell, 0.0, rates[cell]) for cell in order]
        nad = find(compare.compare(done, "table1", "cpu"), "NAD", "smooth")
        assert nad.n == 3 and nad.attack_success_rate.mean == pytest.approx(0.1)


def test_outcomes_of_the_talk() -> None:
    by = {(e.table, e.data, e.defense, e.attack): e for e in PUBLISHED}
    nc = compare.published(by["Table 3", "cifar10", "NC", "seven_to_seven"])
    assert nc == Outcome(0.0, pytest.approx(0.9837))
    ours = compare.published(by["Table 1", "cifar10", "I-BAU", "all_to_all"])
    assert (ours.drop, ours.attack_success_rate) == (pytest.approx(0.0604), pytest.approx(0.1046))


def test_cells_are_counted_for_each_table() -> None:
    done = records(["table1"], ["ibau"], 0.0, 0.01, seeds=3)
    failed = {"cell": records(["table2"], ["dp"], 0, 0, seeds=1)[0]["cell"], "error": "no"}
    lines = compare.counts([*done, failed], "cpu").splitlines()
    planned = {table: len(plan([table], "cpu")) for table in ("table1", "table2", "table6")}
    assert lines[2] == f"| table1 | {planned['table1']} | 24 | 0 | 8 of 8 | 8 of 8 |"
    assert lines[3] == f"| table2 | {planned['table2']} | 0 | 1 | 0 of 0 | 0 of 0 |"
    assert lines[7].startswith(f"| table6 | {planned['table6']} | 21 | 0 |")


def test_every_view_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in records(list(TABLES), ["ibau", "ft"], 0.01, 0.1, seeds=2):
        append(tmp_path / "r.jsonl", each)
    command = ["tables", "all", "--profile", "cpu", "--results", str(tmp_path / "r.jsonl")]
    assert command_line.main(command) == 0
    out = capsys.readouterr().out
    assert "| gtsrb | I-BAU | 2 | 10.0 ± 0.0<br>(1.8) |" in out
    assert "| cifar10 trojan_wm, 0.5 % poisoned | I-BAU | 2 |" in out
    assert "| cifar10 trojan_wm, 100 clean | fine-tuning | 2 |" in out
    assert "hardware: abacus (1 threads, 1 cells at a time)" in out
    (tmp_path / "pictures").write_bytes(b"\x00\x01")
    for wrong in (["table9"], ["table1", "--results", str(tmp_path / "pictures")]):
        with pytest.raises(SystemExit), pytest.warns() if wrong[1:] else nullcontext():
            command_line.main(["tables", *wrong])
    assert "holds no record" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command_line.main(["tables", "table9"])
