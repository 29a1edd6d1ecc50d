"""How code looks on the page: short and narrow, or folded under a label that says what it is."""

from __future__ import annotations

import chapters
import nbformat
import pytest

CHAPTERS = [pytest.param(path, id=path.stem) for path in chapters.find()]
WIDTH, LINES = 80, 15
LONG = {"07", "08", "12", "13", "14", "15", "16"}
"""Chapters whose visible cells do not keep to it yet."""


def shown(chapter):
    """(cell, whether it is folded) for each code cell that the page has."""
    for cell in nbformat.read(chapter, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "remove-cell" not in tags:
            yield cell, "hide-input" in tags


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_folded_cell_says_what_is_in_it(chapter):
    labels = [cell.metadata.get("mystnb", {}) for cell, folded in shown(chapter) if folded]
    prompts = [label.get("code_prompt_show", "") for label in labels]
    assert prompts, "no cell is folded: then this test holds nothing"
    for prompt in prompts:
        assert prompt.startswith("Show code: "), f"a folded cell without a label: {prompt!r}"
        assert 10 < len(prompt.removeprefix("Show code: ")) <= 70, prompt


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if c.id[:2] not in LONG])
def test_visible_code_is_short_and_fits_its_column(chapter):
    for cell, folded in shown(chapter):
        lines = cell.source.split("\n")
        if not folded:
            assert len(lines) < LINES, f"{cell.id}: {len(lines)} lines; fold it under a label"
            assert max(map(len, lines)) <= WIDTH, f"{cell.id}: a line is wider than {WIDTH}"
