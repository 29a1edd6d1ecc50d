"""What the tables consist of, in which order, and that a cell is found again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ibau_lab import contenders, published
from ibau_lab import plan as plans
from ibau_lab.contenders import CONTENDERS, contender
from ibau_lab.plan import TABLES, Case, Cell, cases, contestants, plan, settings
from ibau_lab.shipping import ship
from ibau_lab.zoo import members
from ibau_lite.attacks import badnets
from ibau_lite.defenses import IBAU
from ibau_lite.models import small_cnn

CELL = Cell(Case("cifar10", "trojan_wm", 0.05, 5000), "ibau", 1, "cpu")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_table_has_the_rows_and_columns_of_the_talk(number: int) -> None:
    printed = published.table(f"Table {number}")
    rows = cases(f"table{number}", "full")
    assert {(c.data, c.attack, c.rate, c.clean) for c in rows} == {
        (entry.data, entry.attack, entry.rate, entry.clean) for entry in printed
    }
    columns = {entry.defense for entry in printed} - {"no defence"}
    for case in rows:
        ours = {CONTENDERS[name][1] for name in contestants(f"table{number}", case.data)}
        assert ours - {None} == columns


def test_every_network_of_a_plan_is_in_the_zoo() -> None:
    for data in ("cifar10", "gtsrb"):
        known = {(m.name, m.attack, m.rate) for m in members(data)}
        asked = {(c.case.network, c.case.attack, c.case.rate) for c in plan(TABLES, "full")
                 if c.case.data == data}  # fmt: skip
        assert asked == known - {("clean", "clean", 0.0)}


def test_cells_are_counted_once_and_the_valuable_come_first() -> None:
    cells = plan(TABLES, "cpu", seeds=3)
    keys = Counter(cell.key for cell in cells)
    assert len(keys) == len(cells) == 888
    first = cells[: 3 * 8 * 5]
    assert {cell.case.data for cell in first} == {"cifar10"}
    assert {cell.defense for cell in first} == {"ibau", "ft", "naive", "fp", "nad"}
    assert [cell.seed for cell in first] == [0] * 40 + [1] * 40 + [2] * 40
    assert {cell.defense for cell in cells[120:144]} == {"nc"}
    assert {cell.case.data for cell in cells[144:264]} == {"gtsrb"}
    assert {cell.defense for cell in cells[-40:]} == {"dp"}


def test_a_plan_is_narrowed_by_defence_network_and_data() -> None:
    chosen = plan(
        ["table1", "table2"], "cpu", seeds=2, only=["ibau"], attacks=["blend"], data=["gtsrb"]
    )
    assert [(c.case.data, c.case.network, c.defense, c.seed) for c in chosen] == [
        ("gtsrb", "blend", "ibau", 0), ("gtsrb", "blend", "ibau", 1)
    ]  # fmt: skip


def test_a_network_that_comes_with_the_package_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "FOLDER", tmp_path)
    made = replace(CELL).key
    ship(small_cnn(10, width=2), badnets(), tmp_path, "cifar10-cpu-trojan_wm_5")
    assert replace(CELL).needs == frozenset() and replace(CELL, network_seed=1).needs
    received = replace(CELL).key
    ship(small_cnn(10, width=2, seed=1), badnets(), tmp_path, "cifar10-cpu-trojan_wm_5")
    assert len({made, received, replace(CELL).key}) == 3  # other weights are another cell


def test_seeds_share_the_networks_in_turn() -> None:
    cells = plan(["table4"], "cpu", seeds=4, networks=2, only=["ft"], attacks=["trojan_wm_5"])
    assert [(c.seed, c.network_seed) for c in cells] == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_whatever_a_cell_depends_on_changes_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        CELL,
        replace(CELL, seed=0),
        replace(CELL, network_seed=1),
        replace(CELL, profile="full"),
        replace(CELL, defense="naive"),
        replace(CELL, case=replace(CELL.case, rate=0.005)),
        replace(CELL, case=replace(CELL.case, clean=100)),
        replace(CELL, case=replace(CELL.case, attack="trojan_sq")),
        replace(CELL, case=replace(CELL.case, data="gtsrb")),
    ]
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(cells) and all(len(key) == 16 and int(key, 16) for key in keys)
    real = contenders.rows

    def other(profile: str, data: str) -> object:
        return [
            replace(row, config=replace(row.config, epochs=7)) if row.label == "NAD" else row
            for row in real(profile, data)
        ]

    nad = replace(CELL, defense="nad").key
    monkeypatch.setattr(contenders, "rows", other)
    settings.cache_clear()
    assert replace(CELL, defense="nad").key != nad  # other settings
    assert replace(CELL).key == keys[0]  # of another defence
    monkeypatch.undo()
    settings.cache_clear()


def test_a_cell_of_other_random_streams_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CELL.key
    monkeypatch.setattr(plans, "VERSION", plans.VERSION + 1)
    assert replace(CELL).key != before


def test_what_must_be_made_before_a_cell() -> None:
    full = replace(CELL, profile="full")
    assert replace(full, case=Case("gtsrb", "blend", 0.2, 5000)).needs == {("gtsrb", "blend", 0)}
    assert replace(CELL, network_seed=2).needs == {
        ("cifar10", "trojan_wm_5", 2), ("cifar10", "trigger trojan_wm", 2),
        ("cifar10", "clean", 2),
    }  # fmt: skip
    seven = replace(full, case=Case("gtsrb", "seven_to_seven", 0.2, 5000)).needs
    assert len(seven) == 7 and ("gtsrb", "trigger l0_inv", 0) in seven


@pytest.mark.parametrize("profile", ["smoke", "cpu", "full"])
def test_every_contender_has_settings_and_three_of_them_are_ibau(profile: str) -> None:
    for data in ("signs",) if profile == "smoke" else ("cifar10", "gtsrb"):
        all_of_them = {name: contender(name, profile, data) for name in CONTENDERS}
        recipes = [c.config for c in all_of_them.values() if isinstance(c.config, IBAU)]
        assert len(recipes) == 4
        assert all_of_them["naive"].config == all_of_them["ibau"].config
        assert all_of_them["released"].config.inner.labels == "predicted"
        assert all_of_them["released"].config.inner.clamp == (data == "gtsrb")
        assert all_of_them["exact"].config.stamped == 1.0


def test_what_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match="table: one of table1, .* got 'table7'"):
        plan(["table7"])
    with pytest.raises(ValueError, match="profile: one of smoke, cpu, full .* got 'huge'"):
        plan(["table1"], "huge")
    with pytest.raises(ValueError, match="defence: among ibau, .* got prayer"):
        plan(["table1"], only=["ibau", "prayer"])
    with pytest.raises(ValueError, match="attack: among .* got sunset"):
        plan(["table1"], attacks=["sunset"])
    with pytest.raises(ValueError, match="data: among signs .* got cifar10"):
        plan(["table1"], "smoke", data=["cifar10"])
    with pytest.raises(ValueError, match="at least 1 is expected, got 0 and 1"):
        plan(["table1"], seeds=0)
    with pytest.raises(ValueError, match="defence: one of ibau"):
        contender("prayer", "cpu", "gtsrb")
