from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
from pathlib import Path

import pytest
import torch

import ibau_lite
from ibau_lab import append, provenance, read
from ibau_lab import records as records_room

RECORD = {"key": "a", "seed": 0, "before": {"accuracy": 0.5}, "history": [{"δ": 1.25}], "x": None}


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.jsonl"
    append(path, RECORD)
    append(path, {**RECORD, "key": "b"})
    assert read(path) == [RECORD, {**RECORD, "key": "b"}]


def test_a_file_that_is_not_there_holds_no_records(tmp_path: Path) -> None:
    assert read(tmp_path / "none.jsonl") == []


def test_text_that_only_looks_like_a_line_break_stays_in_its_record(tmp_path: Path) -> None:
    record = {"source": "one\u2028two\x85three\nfour"}
    append(tmp_path / "r.jsonl", record)
    append(tmp_path / "r.jsonl", {"next": 1})
    assert read(tmp_path / "r.jsonl") == [record, {"next": 1}]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor(1.0), {1, 2}])
def test_what_is_not_json_is_refused_before_the_file_is_touched(
    tmp_path: Path, bad: object
) -> None:
    path = tmp_path / "results.jsonl"
    append(path, RECORD)
    with pytest.raises(ValueError, match="JSON only"):
        append(path, {"value": bad})
    assert read(path) == [RECORD]


def test_a_line_that_was_cut_short_does_not_swallow_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"key": "who was stopped wh', encoding="utf-8")
    append(path, RECORD)
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1]) == RECORD
    with pytest.raises(ValueError, match="line 1: not JSON"):
        read(path)


def test_a_file_that_ends_anywhere_can_be_read_on(tmp_path: Path) -> None:
    """Whatever byte of a record was the last to be written, in files of other writers, too."""
    path = tmp_path / "results.jsonl"
    whole = (json.dumps(RECORD) + "\n").encode()
    for line in ('{"rule": "every class → 4"}\n'.encode(), whole):
        for end in range(1, len(line) - 1):
            path.write_bytes(whole + line[:end])
            with pytest.warns(UserWarning, match="line 2: was cut short"):
                assert read(path, cut=True) == [RECORD]
            append(path, RECORD)
            with pytest.warns(UserWarning, match="line 2: was cut short"):
                assert read(path, cut=True) == [RECORD, RECORD]


@pytest.mark.parametrize("line", ['{"cell": 0}', '{"cell": null}', "[1]", "3", "[" * 100_000])
def test_a_line_that_is_no_record_is_named_or_passed_over(line: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, RECORD)
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2: ") as refused:
        read(path)
    assert len(str(refused.value)) < 1000
    with pytest.warns(UserWarning, match="line 2: was cut short, or is no record"):
        assert read(path, cut=True) == [RECORD]


def test_any_text_can_be_recorded(tmp_path: Path) -> None:
    append(tmp_path / "r.jsonl", {"error": "a file named \udcff", "δ": "→"})
    assert read(tmp_path / "r.jsonl") == [{"error": "a file named \udcff", "δ": "→"}]


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n[1, 2]\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: an object"):
        read(path)


def _write_many(path: Path, writer: int, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    for number in range(100):
        append(path, {"writer": writer, "number": number, "long": str(writer) * 10_000})


def test_two_writers_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    writers = [context.Process(target=_write_many, args=(path, w, start)) for w in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = read(path)
    assert all(set(record["long"]) == {str(record["writer"])} for record in records)
    for writer in (1, 2):
        numbers = [r["number"] for r in records if r["writer"] == writer]
        assert numbers == list(range(100))


def test_provenance_says_when_with_what_and_where() -> None:
    known = provenance()
    assert known["versions"]["ibau_lite"] == ibau_lite.__version__
    assert known["versions"]["torch"] == torch.__version__
    assert re.fullmatch(
        r"(changed from )?commit [0-9a-f]{12}(, files [0-9a-f]{12})?|files [0-9a-f]{12}",
        known["versions"]["code"],
    )
    assert known["date"].endswith("+00:00")
    assert known["hardware"]["device"]
    assert known["hardware"]["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(known)) == known


def test_the_code_is_a_commit_only_where_no_file_differs_from_it(tmp_path, monkeypatch) -> None:
    project = tmp_path / "project"
    for module, name in ((ibau_lite, "ibau_lite"), (records_room, "lab")):
        (project / name).mkdir(parents=True)
        file = project / name / "__init__.py"
        file.write_text("one = 1\n")
        monkeypatch.setattr(module, "__file__", str(file))
    alone = records_room._code()
    assert re.fullmatch(r"files [0-9a-f]{12}", alone)

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        run = ["git", *who, *arguments]
        return subprocess.run(run, cwd=project, check=True, capture_output=True).stdout

    git("init")
    assert records_room._code() == alone  # not tracked: no commit has it
    git("add", ".")
    git("commit", "-m", "first")
    commit = f"commit {git('rev-parse', 'HEAD').decode()[:12]}"
    assert records_room._code() == commit
    file.write_text("one = 2\n")
    assert re.fullmatch(rf"changed from {commit}, files [0-9a-f]{{12}}", records_room._code())
    assert not records_room._code().endswith(alone)
