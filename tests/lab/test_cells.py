from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from ibau_lab import Victim, describe, read, run
from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset
from ibau_lite.defenses import IBAU, REGISTRY, FineTuningConfig, Indirect
from ibau_lite.metrics import evaluate
from ibau_lite.solvers import FixedPoint

CONFIG = FineTuningConfig(epochs=1, shift=0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds with which a defence was run."""
    seen: list[int] = []
    real = REGISTRY["fine_tuning"]

    def counted(*args: object, seed: int, **keywords: object) -> object:
        seen.append(seed)
        return real(*args, seed=seed, **keywords)

    monkeypatch.setitem(REGISTRY, "fine_tuning", counted)
    return seen


def test_a_finished_cell_is_not_run_again(
    dataset: Dataset, attack: Attack, poisoned: Victim, tmp_path: Path, calls: list[int]
) -> None:
    path = tmp_path / "results.jsonl"
    first = run(dataset, attack, poisoned, "fine_tuning", CONFIG, results=path)
    again = run(dataset, attack, poisoned, "fine_tuning", CONFIG, results=path)
    assert calls == [0]
    assert again == json.loads(json.dumps(first))
    assert len(read(path)) == 1


def test_another_seed_config_or_clean_set_is_another_cell(
    dataset: Dataset, attack: Attack, poisoned: Victim, tmp_path: Path, calls: list[int]
) -> None:
    def cell(data: Dataset = dataset, config: FineTuningConfig = CONFIG, seed: int = 0) -> None:
        path = tmp_path / "results.jsonl"
        run(data, attack, poisoned, "fine_tuning", config, seed=seed, results=path)

    cell()
    cell(seed=1)
    cell(config=replace(CONFIG, lr=1e-4))
    cell(data=replace(dataset, clean=dataset.clean[:8]))
    cell(data=replace(dataset, clean=dataset.clean[torch.arange(15, -1, -1)]))  # as many, others
    cell(data=replace(dataset, test=dataset.test[:10]))
    assert len(calls) == 6
    assert len(read(tmp_path / "results.jsonl")) == 6


def test_another_trigger_that_is_measured_is_another_cell(
    dataset: Dataset, attack: Attack, poisoned: Victim, tmp_path: Path, calls: list[int]
) -> None:
    path = tmp_path / "results.jsonl"
    trigger, rule = attack.pairs[0]
    other = Attack(attack.name, ((lambda images: 1 - trigger(images), rule),))
    records = [
        run(dataset, shown, poisoned, "fine_tuning", CONFIG, results=path)
        for shown in (attack, other, attack, other)
    ]
    assert calls == [0, 0] and records[0] == records[2] and records[1] == records[3]
    assert "measured" not in records[0]["settings"] and "measured" in records[1]["settings"]


def test_a_record_tells_the_settings_and_the_outcome(
    dataset: Dataset, attack: Attack, poisoned: Victim
) -> None:
    record = run(
        dataset, attack, poisoned, "fine_tuning", CONFIG, label="FT", seed=3, profile="cpu"
    )
    assert (record["defense"], record["seed"], record["profile"]) == ("FT", 3, "cpu")
    assert record["source"] == dataset.source
    assert record["before"]["accuracy"] == poisoned.report.accuracy
    again = REGISTRY["fine_tuning"](poisoned.model, dataset.clean, config=CONFIG, seed=3)
    after = evaluate(again.model, dataset.test, attack)
    assert record["after"]["attack_success_rate"] == after.attack_success_rate
    assert record["after"]["accuracy"] == after.accuracy
    assert record["history"][-1]["accuracy"] == after.accuracy
    assert record["settings"]["config"]["epochs"] == 1
    assert json.loads(json.dumps(record)) == record


def test_rounds_may_be_watched_on_fewer_images_and_the_end_never_is(
    dataset: Dataset, attack: Attack, poisoned: Victim
) -> None:
    whole = run(dataset, attack, poisoned, "fine_tuning", CONFIG)
    part = run(dataset, attack, poisoned, "fine_tuning", CONFIG, watched=8)
    again = REGISTRY["fine_tuning"](poisoned.model, dataset.clean, config=CONFIG)
    seen = evaluate(again.model, dataset.test[:8], attack)
    assert part["history"][-1]["accuracy"] == seen.accuracy
    assert part["after"] == whole["after"] and part["key"] == whole["key"]
    assert (part["watched"], whole["watched"]) == (8, len(dataset.test))


def test_the_victim_is_left_as_it_was(dataset: Dataset, attack: Attack, poisoned: Victim) -> None:
    before = {name: value.clone() for name, value in poisoned.model.state_dict().items()}
    run(dataset, attack, poisoned, "naive", IBAU(rounds=1, shift=0))
    for name, value in poisoned.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_unknown_defence_is_refused(dataset: Dataset, attack: Attack, poisoned: Victim) -> None:
    with pytest.raises(KeyError, match="prayer"):
        run(dataset, attack, poisoned, "prayer", None)


def test_a_solver_is_described_by_its_name_and_settings() -> None:
    described = describe(IBAU(indirect=Indirect(FixedPoint(step=0.1, max_iter=5))))
    assert described["kind"] == "IBAU"
    assert described["sets"][0] == {"kind": "L2Ball", "radius": 4.0, "tolerance": 1e-4}
    assert described["indirect"]["solver"] == {
        "kind": "FixedPoint", "step": 0.1, "max_iter": 5, "tol": None, "damping": 0.0,
        "compute_residual": True,
    }  # fmt: skip
    assert json.loads(json.dumps(described)) == described


@dataclass(frozen=True)
class Holder:
    values: object

    def told(self) -> object:
        return self.values


def test_a_description_holds_what_differs_and_no_address() -> None:
    class Solver:
        pass

    assert describe(functools.partial(pow, 1)) != describe(functools.partial(pow, 2))
    assert describe(Holder((1, 2))) == {"kind": "Holder", "values": [1, 2]}
    with pytest.raises(TypeError, match="cannot be described"):
        describe(Holder(Solver()))


def test_functions_that_share_a_name_are_not_described() -> None:
    def damped(damping: float) -> Callable[[float], float]:
        def solver(b: float) -> float:
            return b / damping

        return solver

    for one in (damped(1.0), damped(2.0), lambda b: b, Holder((1,)).told):
        with pytest.raises(TypeError, match="functions that a module names"):
            describe(one)
