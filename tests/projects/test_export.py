"""What Otter and nbgrader ask of a notebook, without either of them.

Both tools were tried by hand on what is made here; these tests hold what they need.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import yaml

from ibau_lab.__main__ import main
from ibau_lab.projects.export import export

HERE = Path(__file__).parent
STARTERS = sorted((HERE.parents[1] / "book" / "projects").glob("*.ipynb"))
SEED = 987_654


def exported(kind: str, starter: Path, folder: Path) -> nbformat.NotebookNode:
    solution = HERE / "solutions" / f"my_{starter.stem.partition('_')[2]}.py"
    export(kind, starter, folder / "made" / starter.name, seed=SEED, solution=solution)
    notebook = nbformat.read(folder / "made" / starter.name, as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    return notebook


def file_of(cell: nbformat.NotebookNode) -> str:
    """The Python that a cell writes to a file."""
    head, _, code = cell.source.partition("\n")
    assert head.startswith("%%writefile my_")
    return code


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.stem)
def test_nbgrader(starter: Path, tmp_path: Path) -> None:
    notebook = exported("nbgrader", starter, tmp_path)
    settings = [cell.metadata.nbgrader for cell in notebook.cells]
    fields = {"schema_version", "grade_id", "grade", "solution", "locked", "task"}
    for each in settings:
        assert set(each) - {"points"} == fields and each.schema_version == 3
        assert ("points" in each) == each.grade
        assert re.fullmatch(r"[\w-]+", each.grade_id)
        assert each.locked != each.solution, "tests and texts are locked, answers are not"
    assert len({each.grade_id for each in settings}) == len(settings)
    assert {each.grade_id: each.points for each in settings if each.grade} == {
        "hidden": 60,
        "report": 40,
    }
    by_name = {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells}
    assert (
        by_name["report"].cell_type == "markdown" and by_name["report"].metadata.nbgrader.solution
    )
    test = by_name["hidden"]
    assert test.cell_type == "code" and f"seed={SEED}" in test.source
    lines = test.source.splitlines()
    assert lines[0] == "### BEGIN HIDDEN TESTS" and lines[-1] == "### END HIDDEN TESTS"
    # The last expression of a test is its partial credit.
    assert compile(test.source, "test", "exec") and lines[-2].startswith("round(")

    own = nbformat.read(starter, as_version=4)
    (stub,) = [c.source for c in own.cells if "solution" in c.metadata.get("tags", [])]
    compile(file_of(by_name["solution"]), "solution", "exec")
    for cell in notebook.cells:  # as nbgrader removes them
        for kind in ("SOLUTION", "HIDDEN TESTS"):
            region = rf"### BEGIN {kind}\n.*?### END {kind}"
            cell.source = re.sub(region, "", cell.source, flags=re.DOTALL)
    assert by_name["solution"].source.strip() == stub.strip()
    assert str(SEED) not in nbformat.writes(notebook)


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.stem)
def test_otter(starter: Path, tmp_path: Path) -> None:
    notebook = exported("otter", starter, tmp_path)
    assert notebook.cells[0].source.startswith("# ASSIGNMENT CONFIG\n")
    config = yaml.safe_load(notebook.cells[0].source)
    assert config["name"] == starter.stem.partition("_")[2] and config["run_tests"] is False
    opened: list[str] = []
    questions, inside = {}, []
    points = 0
    for cell in notebook.cells[1:]:
        if cell.cell_type == "raw":
            first = cell.source.partition("\n")[0]
            word, block = re.fullmatch("# (BEGIN|END) (QUESTION|SOLUTION|TESTS)", first).groups()
            if word == "BEGIN":
                assert not opened or opened == ["QUESTION"] != [block]
                opened.append(block)
            else:
                assert opened.pop() == block
            if first == "# BEGIN QUESTION":
                settings = yaml.safe_load(cell.source)
                questions[settings["name"]] = settings
        elif opened[-1:] == ["SOLUTION"]:
            inside.append(cell)
        elif opened[-1:] == ["TESTS"]:
            found = re.fullmatch(
                r'""" # BEGIN TEST CONFIG\n(.*)\n""" # END TEST CONFIG\n(.*)',
                cell.source,
                re.DOTALL,
            )
            settings = yaml.safe_load(found[1])
            points += settings["points"]
            assert settings["hidden"] and f"seed={SEED}" in found[2]
            assert found[2].endswith(f"\nassert verdict.points >= {points}, verdict.message")
            compile(cell.source, "test", "exec")
        else:
            assert str(SEED) not in cell.source
    assert not opened
    assert points == questions["file"]["points"] == 60
    assert questions["report"] == {"name": "report", "manual": True, "points": 40}
    code, report = inside
    assert report.cell_type == "markdown"
    assert code.source.count("# BEGIN SOLUTION NO PROMPT\n") == code.source.count(
        "\n# END SOLUTION"
    )
    compile(file_of(code), "solution", "exec")


def test_solution_stands_after_the_stub_and_wins(tmp_path: Path) -> None:
    """What the instructor's notebook writes is graded like the solution itself."""
    from ibau_lab.projects import grade

    (starter,) = [path for path in STARTERS if path.stem == "c_theorem"]
    for kind in ("otter", "nbgrader"):
        cells = exported(kind, starter, tmp_path).cells
        (cell,) = [c for c in cells if "solution" in c.metadata.get("tags", [])]
        (tmp_path / f"{kind}.py").write_text(file_of(cell))
        assert grade("theorem", tmp_path / f"{kind}.py").points == 60


def test_what_cannot_be_exported_is_refused(tmp_path: Path, capsys) -> None:
    chapter = HERE.parents[1] / "book" / "01_backdoor_in_five_minutes.ipynb"
    solution = HERE / "solutions" / "my_theorem.py"
    with pytest.raises(ValueError, match="one cell is expected for each of the tags"):
        export("otter", chapter, tmp_path / "x.ipynb", seed=1, solution=solution)
    with pytest.raises(ValueError, match="otter or nbgrader"):
        export("moodle", STARTERS[0], tmp_path / "x.ipynb", seed=1, solution=solution)
    with pytest.raises(ValueError, match="seed: 0 or more"):
        export("otter", STARTERS[0], tmp_path / "x.ipynb", seed=-1, solution=solution)
    assert not list(tmp_path.iterdir())
    call = ["projects", "export", "otter", str(STARTERS[2]), str(tmp_path / "y.ipynb")]
    assert main([*call, "--seed", "5", "--solution", str(solution)]) == 0
    assert "not for students" in capsys.readouterr().out
