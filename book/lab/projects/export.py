"""A starter notebook as an assignment of Otter or of nbgrader, with a seed that students never see.

The cells of a starter notebook say by a tag what they are: the cell with "solution" is written by
the student, the one with "check" grades it on the public seed, the one with "report" is read by a
person. The instructor's notebook that is made here holds a solution and the hidden seed; `otter
assign` and `nbgrader generate_assignment` make the students' version of it, without both.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from .verdict import POINTS

Cell = dict[str, Any]
Notebook = dict[str, Any]

ROLES = ("solution", "check", "report")
REPORT = 100 - POINTS
"""The points for the report."""

STEPS = 12
"""Otter knows test cases that pass or fail: the points come in as many equal parts."""

_OTTER = """# ASSIGNMENT CONFIG
name: {name}
init_cell: true
export_cell:
  pdf: false
run_tests: false"""  # they pass for a solution with all points, which few have

_GRADED = re.compile(r'projects\.grade\("(\w+)", "([\w.]+)"\)')


def export(kind: str, notebook: Path, target: Path, *, seed: int, solution: Path) -> None:
    """Write the instructor's notebook for `kind`, "otter" or "nbgrader".

    `solution` is a file that is graded like a submission. Raises `ValueError` for another kind, a
    notebook that is no starter notebook, or a negative seed.
    """
    if kind not in FORMATS:
        raise ValueError(f"kind: {' or '.join(FORMATS)} is expected, got {kind!r}")
    if seed < 0:
        raise ValueError(f"seed: 0 or more is expected, got {seed}")
    starter = json.loads(notebook.read_text("utf-8"))
    name = _project(starter)
    made = copy.deepcopy(starter)
    made["cells"] = []
    for cell in starter["cells"]:
        made["cells"] += FORMATS[kind](cell, _role(cell), seed, solution.read_text("utf-8"))
    if kind == "otter":
        made["cells"].insert(0, _raw(_OTTER.format(name=name)))
    for number, cell in enumerate(made["cells"]):
        cell["id"] = f"cell-{number:02d}"
    text = json.dumps(made, indent=1, ensure_ascii=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n", "utf-8")


def _project(notebook: Notebook) -> str:
    """The project that the notebook's check names; `ValueError` unless each role is there once."""
    found = {role: [c for c in notebook["cells"] if _role(c) == role] for role in ROLES}
    if any(len(cells) != 1 for cells in found.values()):
        raise ValueError(f"one cell is expected for each of the tags {', '.join(ROLES)}")
    return _check(found["check"][0])[1]


def _check(cell: Cell) -> re.Match[str]:
    """What a check grades: (1) the project, (2) the file."""
    match = _GRADED.search("".join(cell["source"]))
    if match is None:
        raise ValueError('the check says projects.grade("PROJECT", "FILE.py")')
    return match


def _role(cell: Cell) -> str:
    tags = cell["metadata"].get("tags", [])
    return next((role for role in ROLES if role in tags), "")


def _hidden(cell: Cell, seed: int) -> str:
    """The expression that grades the file on the hidden seed."""
    return f'projects.grade("{_check(cell)[1]}", "{_check(cell)[2]}", seed={seed})'


def _solved(cell: Cell, solution: str, begin: str, end: str) -> Cell:
    """The student's cell, its stub followed by a solution that defines everything again."""
    stub = "".join(cell["source"])
    return {**cell, "source": _lines(f"{stub}\n\n\n{begin}\n{solution.strip()}\n{end}")}


def _nbgrader(cell: Cell, role: str, seed: int, solution: str) -> list[Cell]:
    if role == "report":  # what is asked for stays; the answer is a cell of its own
        return [*_nbgrader(cell, "", seed, solution), _answered()]
    made = copy.deepcopy(cell)
    if role == "solution":
        made = _solved(made, solution, "### BEGIN SOLUTION", "### END SOLUTION")
    made["metadata"]["nbgrader"] = {
        "schema_version": 3,
        "grade_id": role or f"read-only-{cell['id']}",
        "grade": False,
        "solution": role == "solution",
        "locked": role != "solution",
        "task": False,
    }
    if role != "check":
        return [made]
    source = f"""### BEGIN HIDDEN TESTS
hidden = {_hidden(cell, seed)}
print(hidden)
round(hidden.points, 1)
### END HIDDEN TESTS"""
    test = copy.deepcopy(made)
    test["source"] = _lines(source)
    test["metadata"]["nbgrader"] |= {"grade_id": "hidden", "grade": True, "points": POINTS}
    return [made, test]


def _answered() -> Cell:
    """nbgrader's cell for the report: a person reads it."""
    settings = {"schema_version": 3, "grade_id": "report", "grade": True, "solution": True}
    settings |= {"locked": False, "task": False, "points": REPORT}
    return _answer_cell() | {"metadata": {"nbgrader": settings}}


def _answer_cell() -> Cell:
    return {"cell_type": "markdown", "metadata": {}, "source": ["*The report.*"]}


def _otter(cell: Cell, role: str, seed: int, solution: str) -> list[Cell]:
    if role == "solution":
        end = [_raw("# END SOLUTION")]
        begin = [_raw(f"# BEGIN QUESTION\nname: file\npoints: {POINTS}"), _raw("# BEGIN SOLUTION")]
        solved = _solved(cell, solution, "# BEGIN SOLUTION NO PROMPT", "# END SOLUTION")
        return [*begin, solved, *end]
    if role == "check":
        tests = []
        for step in range(1, STEPS + 1):
            wanted = POINTS * step // STEPS
            settings = f"hidden: true\npoints: {POINTS // STEPS}"
            head = f'""" # BEGIN TEST CONFIG\n{settings}\n""" # END TEST CONFIG'
            test = copy.deepcopy(cell)
            line = f"assert verdict.points >= {wanted}, verdict.message"
            test["source"] = _lines(f"{head}\nverdict = {_hidden(cell, seed)}\n{line}")
            tests.append(test)
        return [_raw("# BEGIN TESTS"), *tests, _raw("# END TESTS"), _raw("# END QUESTION"), cell]
    if role == "report":
        begin = [_raw(f"# BEGIN QUESTION\nname: report\nmanual: true\npoints: {REPORT}")]
        begin += [cell, _raw("# BEGIN SOLUTION")]
        return [*begin, _answer_cell(), _raw("# END SOLUTION"), _raw("# END QUESTION")]
    return [copy.deepcopy(cell)]


FORMATS = {"otter": _otter, "nbgrader": _nbgrader}


def _raw(text: str) -> Cell:
    return {"cell_type": "raw", "metadata": {}, "source": _lines(text)}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
