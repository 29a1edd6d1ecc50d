"""The page for instructors: every chapter, with goals of its own, and figures that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import chapters
import pytest
import teaching

TEXT = (chapters.BOOK / "instructors.md").read_text(encoding="utf-8")
NUMBERED = [path for path in chapters.find() if path.name[0].isdigit()]
FIGURES = TEXT.partition("## Figures to show")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in re.findall(r"^\|.*\|$", text, re.M)
    ]


def figures(chapter: Path) -> set[str]:
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return {c["metadata"].get("mystnb", {}).get("figure", {}).get("name", "") for c in cells}


def test_every_chapter_has_its_section_with_the_time_and_the_goals_that_it_states() -> None:
    made = teaching.sections({}, chapters.BOOK)
    assert re.findall(r"^### (\d+) · \[.+\]\((.+)\)$", made, re.M) == [
        (str(int(path.name[:2])), path.name) for path in NUMBERED
    ]
    assert made.count("**Supposes:**") == made.count("**Goals:**") == len(NUMBERED)
    assert len(re.findall("^#", made, re.M)) == len(NUMBERED), "a heading of a chapter came along"
    for goals in re.findall(r"\*\*Goals:\*\*\n\n(.+?)\n\n", made + "\n", re.S):
        assert all(line.startswith("- ") for line in goals.split("\n")), goals
    assert made.count("minutes to read; not run in `smoke` by this build") == len(NUMBERED)


def test_the_machine_time_is_that_of_the_run(tmp_path: Path) -> None:
    kept = tmp_path / "kept.ipynb"
    kept.write_text(json.dumps({"metadata": {"papermill": {"duration": 41.4}}}))
    made = teaching.sections({NUMBERED[0].name: kept}, chapters.BOOK)
    assert made.count("41 seconds in `smoke`") == 1


def test_minutes_grow_with_words_formulas_and_cells(tmp_path: Path) -> None:
    def minutes(text: str, cells: int) -> int:
        path = tmp_path / "01_a.ipynb"
        code = {"cell_type": "code", "metadata": {}, "source": "x"}
        told = {"cell_type": "markdown", "metadata": {}, "source": text}
        path.write_text(json.dumps({"cells": [told] + cells * [code]}))
        return teaching.reading_minutes(path)

    assert minutes("word " * 1400, 0) == 10
    assert minutes("word " * 1400 + "\n$$\nx\n$$\n" * 5, 0) == 15
    assert minutes("word " * 1400, 10) == 15
    folded = (
        '<details class="solution"><summary>S</summary>\n\n' + "word " * 3000 + "\n\n</details>"
    )
    assert minutes("word " * 1400 + "\n" + folded, 0) == 10


@pytest.mark.parametrize("chapter", NUMBERED, ids=lambda path: path.stem)
def test_the_figures_to_show_are_figures_of_their_chapter(chapter: Path) -> None:
    (row,) = [row for row in rows(FIGURES) if row[0] == str(int(chapter.name[:2]))]
    named = re.findall(r"\]\((fig-[\w-]+)\)", row[1])
    assert named and set(named) <= figures(chapter)


@pytest.mark.parametrize(
    ("title", "numbers"), [("Three weeks", {1, 7}), ("Eight weeks", {*range(1, 13), 16})]
)
def test_a_plan_names_chapters_that_exist(title: str, numbers: set[int]) -> None:
    plan = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    named = re.findall(r"\{doc\}`(\d+) <([\w]+)>`", plan)
    files = {str(int(path.name[:2])): path.stem for path in NUMBERED}
    assert named
    for number, file in named:
        assert files[number] == file
    assert {int(number) for number, _ in named} >= numbers
