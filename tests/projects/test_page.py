"""The page of the projects and the starters say what the graders do."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pages
import pytest

from ibau_lab.projects import POINTS, defence, export, theorem, trigger

BOOK = Path(pages.__file__).parents[1]
PAGE = (BOOK / "projects.md").read_text("utf-8")
STARTERS = {path.stem: path for path in (BOOK / "projects").glob("*.ipynb")}


def rows(text: str) -> list[int]:
    """The first column of each table of points."""
    return [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]


def test_points_of_the_page_and_the_starters() -> None:
    named = {
        "a_defence": [defence.PROMISES, defence.REMOVAL, defence.SPEED],
        "b_trigger": [trigger.WORKS, trigger.SURVIVES],
        "c_theorem": [theorem.HOLDS, *sorted(set(theorem.WORTH.values()), reverse=True)],
    }
    assert sum(named["a_defence"]) == sum(named["b_trigger"]) == max(named["c_theorem"]) == POINTS
    assert rows(PAGE) == [points for each in named.values() for points in each]
    for name, path in STARTERS.items():
        cells = nbformat.read(path, as_version=4).cells
        stated = rows(cells[0].source)
        expected = [p for p in named[name] if name != "c_theorem" or p != 45]
        assert stated == [*expected, export.REPORT]
        (report,) = [c.source for c in cells if "report" in c.metadata.get("tags", [])]
        assert sum(map(int, re.findall(r"\((\d+)(?: points)?\)", report))) == export.REPORT
    assert set(STARTERS) == set(named)


def test_numbers_in_the_sentences() -> None:
    assert f"change an image by {trigger.BUDGET:g} on average" in PAGE
    assert trigger.SEEDS == 3 and "over three hidden seeds" in PAGE
    assert export.STEPS == 12 and POINTS / export.STEPS == 5 and "twelve parts of five" in PAGE
    assert (defence.FREE, defence.LOST) == (0.03, 0.10)
    assert "Up to 3 points of accuracy" in PAGE and "with 10 lost" in PAGE


def test_the_starters_are_staged_for_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "STAGE", tmp_path / "stage")
    pages.stage({}, "smoke")
    offered = re.findall(r"\{download\}`[^<]*<(projects/[\w.]+)>`", PAGE)
    assert sorted(offered) == sorted(f"projects/{path.name}" for path in STARTERS.values())
    for name in offered:
        assert (tmp_path / "stage" / "book" / name).read_bytes() == (BOOK / name).read_bytes()
