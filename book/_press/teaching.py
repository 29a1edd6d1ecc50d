"""The table of the page for instructors: what each chapter asks of a student, from the chapter."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import portable

MARK = "<!-- the press puts the chapters here -->"
WORDS_A_MINUTE = 150
MINUTES_A_FORMULA = 1.0
MINUTES_A_CELL = 0.5


def texts(chapter: Path) -> list[str]:
    """The Markdown cells of a committed chapter."""
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]


def reading_minutes(chapter: Path) -> int:
    """Words, displayed formulas and visible cells at the rates above, to the next five minutes.

    Solutions are left out: a student reads them after the work.
    """
    text = re.sub(
        r'<details class="solution">.*?\n</details>', "", "\n".join(texts(chapter)), flags=re.S
    )
    cells = [
        cell
        for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
        and not {"hide-input", "remove-cell", "parameters"} & {*cell["metadata"].get("tags", [])}
    ]
    minutes = len(text.split()) / WORDS_A_MINUTE
    minutes += MINUTES_A_FORMULA * (text.count("$$") // 2) + MINUTES_A_CELL * len(cells)
    return 5 * math.ceil(minutes / 5)


def asked(chapter: Path) -> tuple[str, str]:
    """(what a chapter supposes, what it teaches) in the chapter's own words.

    AssertionError for a chapter that does not say so.
    """
    text = "\n\n".join(re.sub(r"^> ?", "", told, flags=re.MULTILINE) for told in texts(chapter))
    _, need, after = text.partition("**You need**")
    supposed = after.strip().partition("\n\n")[0].replace("\n", " ")
    _, learn, after = text.partition("**You will learn**")
    goals = after.strip().partition("\n\n")[0]
    assert need and learn, f"{chapter.name} does not say what it needs and teaches"
    if not goals.startswith("- "):
        goals = "- " + goals.replace("\n", " ").replace("; ", ";\n- ")
    return supposed, goals


def sections(results: dict[str, Path | None], folder: Path) -> str:
    """MyST for every chapter of `folder`: prerequisites, goals, time for reading and machine.

    `results` are the kept runs of `smoke`, by name of the chapter.
    """
    made = []
    for chapter in sorted(folder.glob("[0-9]*.ipynb")):
        title = texts(chapter)[0].partition("\n")[0].removeprefix("# ")
        need, goals = asked(chapter)
        exercises = "\n".join(texts(chapter)).count("**Exercise: ")
        result = results.get(chapter.name)
        machine = "not run in `smoke` by this build"
        if result is not None:
            run = json.loads(result.read_text(encoding="utf-8"))["metadata"]["papermill"]
            machine = f"{run['duration']:.0f} seconds in `smoke`"
        body = portable.markdown(f"**Supposes:** {need}\n\n**Goals:**\n\n{goals}")
        made += [
            f"### {chapter.stem[:2].lstrip('0')} · [{title}]({chapter.name})",
            "",
            f"**Time:** {reading_minutes(chapter)} minutes to read; {machine}; {exercises} "
            f"exercise{'s' if exercises != 1 else ''}.",
            "",
            body,
            "",
        ]
    return "\n".join(made)
