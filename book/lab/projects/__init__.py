"""Three graded projects: write a defence, write a trigger, break a theorem.

    python -m ibau_lab projects grade defence my_defence.py --seed 0
    python -m ibau_lab projects board defence submissions --seed 4711

A submission is a Python file that defines one function. It runs in a process of its own with a time
limit (`submission`); what it gives back is judged here, and it never sees the attacks, the hidden
seeds or the test labels. A process of its own is no cage: see the page *Projects* of the book.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import defence, theorem, trigger
from .submission import SubmissionError, run
from .verdict import POINTS, Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["POINTS", "PROJECTS", "Verdict", "board", "grade"]

PROJECTS: dict[str, ModuleType] = {"defence": defence, "trigger": trigger, "theorem": theorem}
"""Each project by name. Its module has FUNCTION, the name of the function that a submission
defines, `given` (what the submission may see), `answer` (what it is asked, in its own process) and
`judge` (the points for the answer)."""


def grade(
    project: str, file: str | Path, *, seed: int = 0, limit: float = 90.0, **options: str
) -> Verdict:
    """The automatic points of a submission, 0 to `POINTS`, and what they are for.

    `seed` decides what is hidden from the student (nothing in "theorem"). `limit` is the processor
    time in seconds that the submission may take. `options` are those of the project's `given`:
    "defence" takes data="gtsrb" or "cifar10", the shipped networks instead of those that are
    trained on drawn signs. A submission that fails gets a verdict with a message, not an exception.
    Raises `ValueError` for an unknown project.
    """
    if project not in PROJECTS:
        raise ValueError(f"project: {', '.join(PROJECTS)} are known, got {project!r}")
    path = Path(file)
    code = path.read_bytes() if path.is_file() else b""
    return _graded(project, path.resolve(), code, seed, limit, tuple(sorted(options.items())))


@lru_cache(maxsize=64)  # Otter asks once for each of its test cases
def _graded(
    project: str, file: Path, code: bytes, seed: int, limit: float, options: tuple[Any, ...]
) -> Verdict:
    rules, more = PROJECTS[project], dict(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader takes all points away for a word on stderr
        given = rules.given(seed, **more)
        started = time.perf_counter()
        try:
            answer = run(project, file, given, limit)
            spent = time.perf_counter() - started
            verdict: Verdict = rules.judge(seed, answer, limit, **more)
        except SubmissionError as error:
            return Verdict(0.0, str(error), seconds=time.perf_counter() - started)
        except Exception as error:  # an answer that our own code would not give: the board goes on
            said = f"the answer cannot be judged: {type(error).__name__}: {error}"
            return Verdict(0.0, said, seconds=time.perf_counter() - started)
    return replace(verdict, seconds=verdict.seconds or spent)


def board(
    project: str, folder: str | Path, *, seed: int = 0, limit: float = 90.0, **options: str
) -> pd.DataFrame:
    """A line for each submission in a folder, the best first.

    A submission is a file `NAME.py`, or the one .py file of a folder NAME. Raises `ValueError` for
    a folder without submissions, or with a sub-folder that holds several files.
    """
    import pandas as pd

    lines = []
    for name, file in _submissions(Path(folder)).items():
        verdict = grade(project, file, seed=seed, limit=limit, **options)
        lines.append({"submission": name, **verdict.line()})
    table = pd.DataFrame(lines).sort_values(["points", "seconds"], ascending=[False, True])
    return table.reset_index(drop=True).set_axis(range(1, len(table) + 1))


def _submissions(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: a folder of submissions is expected")
    found = {file.stem: file for file in folder.glob("*.py")}
    for student in filter(Path.is_dir, folder.iterdir()):
        files = sorted(student.glob("*.py"))
        if len(files) > 1:
            raise ValueError(f"{student}: one .py file is expected, got {[f.name for f in files]}")
        if files:
            found[student.name] = files[0]
    if not found:
        raise ValueError(f"{folder}: no submission (NAME.py, or NAME/anything.py) was found")
    return dict(sorted(found.items()))
