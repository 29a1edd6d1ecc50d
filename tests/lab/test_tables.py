from __future__ import annotations

import sys
from typing import Any

import pytest

from ibau_lab import __main__ as command_line
from ibau_lab.tables import NO_DEFENCE, gather, markdown, side_by_side


def record(label: str, seed: int, asr: float, data: str = "cifar10", **more: Any) -> dict[str, Any]:
    return {
        "data": data,
        "source": f"{data} (JPEG copy), sha256 0123456789ab",
        "profile": "cpu",
        "defense": label,
        "seed": seed,
        "before": {"accuracy": 0.8, "attack_success_rate": 0.98},
        "after": {"accuracy": 0.79, "attack_success_rate": asr},
        "seconds": 10.0 + seed,
        "cpu_seconds": 20.0 + seed,
        **more,
    }


RECORDS = [
    record("naive", 0, 0.10),
    record("I-BAU", 0, 0.02),
    record("naive", 1, 0.20),
    record("I-BAU", 0, 0.04, data="gtsrb"),
]


def test_seeds_are_gathered_into_a_line_and_the_network_before_comes_first() -> None:
    lines = list(gather(RECORDS).itertuples())
    assert [(line.data, line.label) for line in lines] == [
        ("cifar10", NO_DEFENCE),
        ("cifar10", "naive"),
        ("cifar10", "I-BAU"),
        ("gtsrb", NO_DEFENCE),
        ("gtsrb", "I-BAU"),
    ]
    none, naive = lines[:2]
    assert none.attack_success_rate.mean == pytest.approx(0.98)
    assert none.seconds is None
    assert naive.n == 2
    assert naive.attack_success_rate.mean == pytest.approx(0.15)
    assert naive.attack_success_rate.std == pytest.approx(0.005**0.5)
    assert naive.seconds == pytest.approx(10.5)


def test_the_later_of_two_records_of_a_seed_counts() -> None:
    (_, line) = gather([record("naive", 0, 0.9), record("naive", 0, 0.1)]).itertuples()
    assert (line.n, line.attack_success_rate.mean) == (1, pytest.approx(0.1))


def test_other_images_and_profiles_are_not_averaged() -> None:
    lines = gather(
        [
            record("naive", 0, 0.1),
            record("naive", 1, 0.1, profile="full"),
            record("naive", 2, 0.1, source="cifar10, sha256 ba9876543210"),
        ]
    )
    assert list(lines.loc[lines["label"] == "naive", "n"]) == [1, 1, 1]


def test_the_talk_stands_beside_its_own_rows_only() -> None:
    table = markdown(gather(RECORDS)).splitlines()
    assert len({row.count("|") for row in table}) == 1
    assert table[2].endswith("| 84.94 % | 98.28 % |")
    assert "naive" in table[3] and table[3].endswith("|  |  |")
    assert table[4].endswith("| 83.35 % | 12.30 % |")
    assert "the talk" not in markdown(gather(RECORDS), talk=False)


def test_data_that_the_talk_does_not_have_get_empty_columns() -> None:
    assert markdown(gather([record("I-BAU", 0, 0.1, data="signs")])).endswith("|  |  |")


def test_without_pandas_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "ibau_lab.report", raising=False)
    for name in ("compare", "overhead", "features", "layout"):
        monkeypatch.delitem(sys.modules, f"ibau_lab.{name}", raising=False)
    assert command_line.main(["tables", "all"]) == 2
    assert 'pip install "ibau_lite[lab]"' in capsys.readouterr().err


def test_no_records_give_no_lines() -> None:
    assert len(gather([])) == 0


def test_seconds_are_those_of_the_records_that_count() -> None:
    twice = [record("naive", 0, 0.9, cpu_seconds=100.0), record("naive", 0, 0.1, cpu_seconds=10.0)]
    assert gather(twice)["cpu_seconds"][1] == 10.0
    assert side_by_side(twice).splitlines()[-1].endswith("| 10.0 % | 10 |")


def test_data_sets_side_by_side_say_what_was_not_run_and_where_seeds_are_few() -> None:
    costs = [12.0, 99.0, 18.0, 7.0]
    table = side_by_side([{**r, "cpu_seconds": c} for r, c in zip(RECORDS, costs)]).splitlines()
    head, none, naive, ours = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in [table[0], *table[2:]]
    )
    assert head[:4] == ["row", "cifar10: ACC", "cifar10: ASR", "cifar10: CPU s"]
    assert none == [NO_DEFENCE, "80.0 %", "98.0 %", "", "80.0 %", "98.0 %", ""]
    assert naive[0] == "naive" and naive[2].startswith("15.0") and naive[3] == "15"
    assert naive[4:] == ["not run", "", ""]
    assert ours[1] == "79.0 % (n = 1)" and ours[3] == "99" and ours[6] == "7"
