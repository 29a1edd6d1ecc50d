"""A recorded cell is run again and agrees; one that was tampered with does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibau_lab import __main__ as command_line
from ibau_lab import append, read, rerun
from ibau_lab.plan import plan
from ibau_lab.runner import sweep
from ibau_lite.streams import VERSION

pytestmark = pytest.mark.filterwarnings("ignore:the model reads:UserWarning")


@pytest.fixture
def recorded(tiny: Path, tmp_path: Path) -> Path:
    """One finished smoke cell, whose network is kept in the same folder, and one that failed."""
    cells = plan(["table1"], "smoke", seeds=1, only=["ft", "fp"], attacks=["badnets"])
    sweep(cells, tmp_path / "r.jsonl", folder=tmp_path)
    return tmp_path / "r.jsonl"


def again(path: Path, which: str, *more: str) -> int:
    return command_line.main(["rerun", str(path), which, "--folder", str(path.parent), *more])


def tampered(path: Path, how: Callable[[dict[str, Any]], None]) -> Path:
    record = copy.deepcopy(read(path)[0])
    how(record)
    other = path.with_name("tampered.jsonl")
    other.unlink(missing_ok=True)
    append(other, record)
    return other


def test_a_record_agrees_with_its_rerun_and_a_tampered_one_does_not(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = recorded.read_bytes()
    assert again(recorded, "1") == 0
    out = capsys.readouterr().out
    assert "signs badnets clean=800 ft seed=0 (smoke) agrees: 6 rates compared, tolerance 0" in out
    assert "warning" not in out and recorded.read_bytes() == whole, "it records nothing"

    def better(record: dict[str, Any]) -> None:
        record["after"]["attack_success_rate"] += 1 / 27  # one stamped image of 27

    assert again(tampered(recorded, better), "1") == 1
    out = capsys.readouterr().out
    assert "differs: after, attack_success_rate: " in out and "does not agree" in out


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda r: r["history"][0].update(accuracy=2.0), "round 1, accuracy: 2.0000 then"),
        (lambda r: r["history"].clear(), "round 1, accuracy: only in one of the two"),
        (lambda r: r["before"].update(accuracy=float("1e-3")), "before, accuracy: 0.0010 then"),
        (lambda r: r.update(by_pair={"all → 1": 0.5}), "ASR of all → 1: only in one"),
        (lambda r: r.update(found=False), "found: False then, None now"),
        (lambda r: r["after"].update(accuracy=None), "after, accuracy: none then"),
        (
            lambda r: r["answers"]["clean"].update(bits="AAAAAA=="),
            "answers, clean: ",
        ),
    ],
)
def test_whatever_is_compared_is_seen(
    recorded: Path, how: Callable[[dict[str, Any]], None], told: str
) -> None:
    record = read(recorded)[0]
    other = copy.deepcopy(record)
    how(other)
    assert rerun.differences(record, record, 0.0)[1] == []
    (line,) = [d for d in rerun.differences(other, record, 0.0)[1] if told in d]
    assert line


def test_other_versions_are_warned_of_and_get_a_tolerance(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def older(record: dict[str, Any]) -> None:
        record["versions"]["torch"] = "1.0"
        record["after"]["accuracy"] += 0.01

    path = tampered(recorded, older)
    key = read(path)[0]["cell"]["key"]
    assert again(path, key) == 0
    out = capsys.readouterr().out
    assert "warning: torch: 1.0 then, " in out and "agrees: 6 rates compared, tolerance 0.02" in out
    assert again(path, key, "--tolerance", "0.005") == 1


def test_what_cannot_be_run_again_is_refused_with_the_reason(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path, which: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            again(path, which)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "its cell failed (TypeError: config must be" in refused(recorded, "2")
    assert "has no record in line 4" in refused(recorded, "4")
    assert "has no record in line 0" in refused(recorded, "0")
    assert "has no cell 'prayer'" in refused(recorded, "prayer")
    older = tampered(recorded, lambda r: r["cell"].update(streams=VERSION - 1))
    text = refused(older, "signs badnets clean=800 ft seed=0 (smoke)")
    assert (
        f"version {VERSION - 1} of the random streams, this library has version {VERSION}" in text
    )
    other = tampered(recorded, lambda r: r["cell"].update(key="0" * 16))
    assert "its settings are not those of signs badnets" in refused(other, "0" * 16)
    unknown = tampered(recorded, lambda r: r["cell"].update(defense="prayer"))
    assert "there is no defence 'prayer'" in refused(unknown, "1")
    study = tampered(recorded, lambda r: r.pop("cell"))
    assert "only the records of `reproduce`" in refused(study, "1")
    cut = tampered(recorded, lambda r: r.pop("answers"))
    assert "it lacks answers" in refused(cut, "1")
    half = tampered(recorded, lambda r: r["cell"].pop("rate"))
    assert "its cell lacks 'rate'" in refused(half, "1")
    assert "has no cell 'prayer'" in refused(half, "prayer")
    older.write_text(json.dumps([1]) + "\n", encoding="utf-8")
    assert "line 1: an object is expected" in refused(older, "1")
