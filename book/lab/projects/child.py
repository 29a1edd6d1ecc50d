"""The process in which a submission runs: `python -m ibau_lab.projects.child …`.

Started by `submission.run`, which says what lies in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from . import PROJECTS
from .submission import SubmissionError, limit_processor_time, load


def main(project: str, file: str, folder: str, limit: str) -> int:
    """Ask the submission, and write its answer or why there is none."""
    torch.set_num_threads(1)
    place, rules = Path(folder), PROJECTS[project]
    given = torch.load(place / "given.pt", weights_only=False)  # the grader's own file
    limit_processor_time(float(limit))
    try:
        module, function = load(Path(file), rules.FUNCTION)
        torch.save(rules.answer(module, function, given), place / "answer.pt")
    except SubmissionError as error:
        (place / "refused").write_text(str(error), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
