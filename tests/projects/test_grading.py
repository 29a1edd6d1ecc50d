"""A submission in its own process, the leaderboard, the command line, the starter notebooks."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from install_cell import install_cell

import ibau_lab.projects
from ibau_lab.__main__ import main
from ibau_lab.projects import POINTS, PROJECTS, Verdict, board, defence, grade, submission
from ibau_lab.projects.submission import SubmissionError, load
from ibau_lite.testing import tiny_images, tiny_network

HERE = Path(__file__).parent
STARTERS = sorted((HERE.parents[1] / "book" / "projects").glob("*.ipynb"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks that are hardly trained; here it does not matter how well they read."""
    made = (defence._dataset, defence._networks)
    for each in made:
        each.cache_clear()
    monkeypatch.setattr(defence, "IMAGES", 240)
    monkeypatch.setattr(defence, "EPOCHS", 1)
    yield
    for each in made:
        each.cache_clear()


def source_of(path: Path, tag: str) -> str:
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return cell.source


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def counterexample(k: return k", "cannot be imported: SyntaxError"),
        ("x = 1", "f.py does not define a function counterexample"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit", "cannot be imported: SystemExit"),
    ],
)
def test_what_cannot_be_graded_gets_a_message(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "f.py").write_text(code)
    with pytest.raises(SubmissionError, match=message):
        load(tmp_path / "f.py", "counterexample")


def test_a_process_that_ends_without_an_answer(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("import os, sys; print('bye', flush=True); os._exit(3)")
    verdict = grade("theorem", tmp_path / "f.py")
    assert verdict.points == 0
    assert verdict.message == "the process ended with status 3 and without an answer: bye"


def test_a_submission_is_stopped_with_what_it_has_started(tmp_path: Path) -> None:
    """Its own child holds on, too: grading must not wait for it."""
    (tmp_path / "f.py").write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    verdict = grade("theorem", tmp_path / "f.py", limit=1.0)
    assert verdict.message == "stopped after 5 s on the clock, 5 times the limit"
    assert time.monotonic() - started < 30


@pytest.mark.skipif(os.name != "posix", reason="the clock alone stops a submission there")
def test_processor_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "PATIENCE", 300)
    (tmp_path / "f.py").write_text("while True: pass")
    verdict = grade("theorem", tmp_path / "f.py", limit=1.0)
    assert verdict.points == 0
    assert verdict.message.startswith("stopped after 1 s of processor time, the limit: do less")


def test_an_answer_that_our_code_would_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission can write the file of answers itself; the leaderboard must not end with it."""
    (tmp_path / "f.py").write_text("x = 1")
    monkeypatch.setattr(ibau_lab.projects, "run", lambda *arguments: {"dropped": 9})
    assert "cannot be judged: KeyError" in grade("theorem", tmp_path / "f.py", limit=7.0).message


def test_a_file_that_is_not_there_and_a_project_that_is_not_there() -> None:
    assert "there is no such file" in grade("theorem", "nowhere.py").message
    with pytest.raises(ValueError, match=r"defence, trigger, theorem are known, got 'poem'"):
        grade("poem", "nowhere.py")


def test_leaderboard_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(HERE / "wrong" / "my_theorem.py", tmp_path / "ann.py")
    (tmp_path / "bob").mkdir()
    shutil.copy(HERE / "solutions" / "my_theorem.py", tmp_path / "bob")
    table = board("theorem", tmp_path)
    assert table["submission"].tolist() == ["bob", "ann"] and table.index.tolist() == [1, 2]
    assert table["points"].tolist() == [60.0, 0.0]
    assert "assumption 1" in table["message"][2]

    written = tmp_path / "table.csv"
    assert main(["projects", "board", "theorem", str(tmp_path), "--csv", str(written)]) == 0
    said = capsys.readouterr().out
    assert said.index("bob") < said.index("ann") and written.read_text().count("\n") == 3

    shutil.copy(HERE / "solutions" / "my_theorem.py", tmp_path / "bob" / "second.py")
    with pytest.raises(ValueError, match="bob: one .py file is expected"):
        board("theorem", tmp_path)
    with pytest.raises(ValueError, match="no submission"):
        (tmp_path / "empty").mkdir()
        board("theorem", tmp_path / "empty")


def test_a_line_of_the_leaderboard_holds_mean_rates() -> None:
    rows = [{"ACC": 0.9, "ASR": 0.1, "time": 1.0}, {"ACC": 0.8, "ASR": 0.3, "time": 2.0}]
    line = Verdict(31.26, "first\nsecond", rows, 2.04).line()
    assert line == {"points": 31.3, "ACC": 0.85, "ASR": 0.2, "seconds": 2.0, "message": "first"}
    assert str(Verdict(31.26, "first", rows, 2.04)).splitlines()[-1].split() == ["0.8", "0.3", "2"]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["projects", "grade", "theorem", str(HERE / "solutions" / "my_theorem.py")]) == 0
    assert capsys.readouterr().out.startswith(f"60.0 of {POINTS} points")
    with pytest.raises(SystemExit) as stopped:
        main(["projects", "board", "theorem", str(HERE / "nowhere")])
    assert stopped.value.code == 2 and "a folder of submissions" in capsys.readouterr().err


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)
def test_starter_notebook(path: Path) -> None:
    """Valid, without outputs, each role once, the same install cell as a chapter."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[0].source == install_cell()
    for role in ("solution", "check", "report"):
        source_of(path, role)
    width = max(len(line) for cell in code[1:] for line in cell.source.splitlines())
    assert width <= 80


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)
def test_starter_says_that_it_is_not_written_yet(path: Path, tmp_path: Path) -> None:
    project = path.stem.partition("_")[2]
    name, _, code = source_of(path, "solution").partition("\n")
    file = tmp_path / name.removeprefix("%%writefile ")
    file.write_text(code)
    assert f'grade("{project}", "{file.name}")' in source_of(path, "check")
    rules = PROJECTS[project]
    given = {
        "models": [tiny_network()], "clean": (tiny_images().images, tiny_images().labels)
    } if project == "defence" else {}  # fmt: skip
    with pytest.raises(SubmissionError, match=r"not written yet \(write your|are broken"):
        rules.answer(*load(file, rules.FUNCTION), given)


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:the model reads")  # hardly trained
def test_code_around_the_task_runs(path: Path, tmp_path, monkeypatch, quick) -> None:
    """Every cell but the install cell, with the reference solution in place of the stub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    project = path.stem.partition("_")[2]
    shown: list[object] = []
    variables = {"display": shown.append}
    for cell in nbformat.read(path, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "remove-cell" in tags or "check" in tags:
            continue
        if "solution" in tags:
            shutil.copy(HERE / "solutions" / f"my_{project}.py", tmp_path)
        else:
            exec(compile(cell.source, str(path), "exec"), variables)
    assert shown == [], "without a folder `submissions` there is no leaderboard"


def test_there_is_a_starter_for_each_project() -> None:
    assert {path.stem.partition("_")[2] for path in STARTERS} == set(PROJECTS)
