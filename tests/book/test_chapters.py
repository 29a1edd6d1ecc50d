"""Every chapter as a reader gets it: clean in the repository, and running from a fresh folder."""

from __future__ import annotations

import ast
import resource
from pathlib import Path

import chapters
import nbformat
import pytest
import yaml
from install_cell import install_cell

CHAPTERS = [pytest.param(path, id=path.stem) for path in chapters.find()]

# The book promises a minute of one thread on an idle machine, papermill and the imports (about 6 s)
# included, once a network is there: the first chapter that needs one trains it. On a busy machine
# even CPU seconds double.
SMOKE_CPU_SECONDS = 60
SLACK = 3


def read(chapter: Path) -> nbformat.NotebookNode:
    return nbformat.read(chapter, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_runs_in_smoke_and_warns_of_nothing(chapter: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    executed = read(chapters.run(chapter, "smoke"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = [
        output.text
        for cell in code_cells(executed)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not said, f"{chapter.name} writes to stderr, which the page would show:\n{said}"
    assert spent <= SLACK * SMOKE_CPU_SECONDS, (
        f"{chapter.name} took {spent:.0f} CPU seconds in smoke; the book promises "
        f"{SMOKE_CPU_SECONDS} on an idle machine"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_is_committed_without_outputs(chapter: Path) -> None:
    for cell in code_cells(read(chapter)):
        assert cell.outputs == [], f"an output is stored under: {cell.source[:60]!r}"
        assert cell.execution_count is None


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_is_a_valid_notebook_for_any_python_kernel(chapter: Path) -> None:
    notebook = read(chapter)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_first_code_cell_installs_on_colab_only(chapter: Path) -> None:
    first = code_cells(read(chapter))[0]
    assert first.source == install_cell(), "print the cell with: python book/_press/install_cell.py"
    assert "remove-cell" in tags(first)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_has_one_parameters_cell_that_stands_for_smoke(chapter: Path) -> None:
    """The page leaves out the cell that papermill injects, so this one must say the same."""
    marked = [cell for cell in code_cells(read(chapter)) if "parameters" in tags(cell)]
    assert len(marked) == 1, "exactly one code cell carries the tag 'parameters'"
    assigned = {
        target.id: ast.literal_eval(statement.value)
        for statement in ast.parse(marked[0].source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    assert assigned.get("profile") == "smoke"


def test_table_of_contents_lists_every_chapter_once() -> None:
    toc = yaml.safe_load((chapters.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]]
    listed += [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    pages = [*chapters.find(), *chapters.BOOK.glob("*.md")]
    present = sorted(f"book/{page.stem}" for page in pages)
    assert sorted(file for file in listed if file.startswith("book/")) == present
    for file in listed:
        assert any((chapters.ROOT / f"{file}{end}").exists() for end in (".md", ".ipynb")), file
