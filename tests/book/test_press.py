"""The press itself, on notebooks of two cells."""

from __future__ import annotations

from pathlib import Path

import chapters
import nbformat
import pages
import pytest
from install_cell import install_cell


@pytest.fixture
def press(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book folder of its own, with one recorded result, inside a repository of its own."""
    book = tmp_path / "repository" / "book"
    (book / "results").mkdir(parents=True)
    (book / "results" / "table.jsonl").write_text("{}\n")
    (book / "lab").mkdir()
    (book / "lab" / "plan.py").write_text("seeds = 3\n")
    (book.parent / "ibau_lite").mkdir()
    (book.parent / "ibau_lite" / "models.py").write_text("width = 32\n")
    monkeypatch.setattr(chapters, "BOOK", book)
    monkeypatch.setattr(chapters, "ROOT", book.parent)
    monkeypatch.setattr(chapters, "KEPT", tmp_path / "kept")
    return book


def write_chapter(book: Path, code: str) -> Path:
    parameters = nbformat.v4.new_code_cell('profile = "none"', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    chapter = book / "01_tiny.ipynb"
    nbformat.write(notebook, chapter)
    return chapter


def test_a_chapter_runs_in_a_fresh_folder_with_the_records_and_the_profile(
    press: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IBAU_DATA", "/somewhere")
    code = (
        "import os, pathlib\n"
        "print(profile, sorted(p.name for p in pathlib.Path().iterdir()),\n"
        "      os.environ.get('IBAU_DATA'), os.environ['OMP_NUM_THREADS'])\n"
        "pathlib.Path('left').touch()"
    )
    chapter = write_chapter(press, code)
    finished: list[int] = []
    for _ in range(2):  # what the first run leaves behind is not there in the second
        executed = nbformat.read(chapters.run(chapter, "smoke", finished.append), as_version=4)
        assert executed.cells[-1].outputs[0].text == "smoke ['results'] None 1\n"
    assert max(finished) == 3
    assert sorted(p.name for p in press.iterdir()) == ["01_tiny.ipynb", "lab", "results"]
    assert len(list(chapters.KEPT.iterdir())) == 1


def test_a_failing_chapter_is_reported_and_not_kept(press: Path) -> None:
    chapter = write_chapter(press, "raise ArithmeticError('the trigger survived')")
    with pytest.raises(chapters.ChapterError, match=r"01_tiny.*\n[\s\S]*the trigger survived"):
        chapters.run(chapter, "smoke")
    assert chapters.kept(chapter, "smoke") is None


def test_a_chapter_that_does_not_end_is_stopped(
    press: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chapters.TIMEOUT, "smoke", 0.0)
    with pytest.raises(chapters.ChapterError, match="ran for more than 0 s"):
        chapters.run(write_chapter(press, "import time; time.sleep(100)"), "smoke")


def test_an_unknown_profile_is_refused(press: Path) -> None:
    with pytest.raises(ValueError, match="'fast', expected one of smoke, cpu, full"):
        chapters.run(write_chapter(press, "1"), "fast")


@pytest.mark.parametrize(
    "changed",
    [
        "book/01_tiny.ipynb",
        "book/lab/plan.py",
        "book/results/table.jsonl",
        "ibau_lite/models.py",
    ],
)
def test_a_kept_result_ends_with_any_change_to_what_it_depends_on(
    press: Path, changed: str
) -> None:
    chapter = write_chapter(press, "1")
    chapters.KEPT.mkdir()
    chapters._kept_path(chapter, "smoke").touch()
    assert chapters.kept(chapter, "smoke") is not None
    assert chapters.kept(chapter, "cpu") is None
    path = press.parent / changed
    path.write_text(path.read_text() + "\n")
    assert chapters.kept(chapter, "smoke") is None


def test_the_page_shows_no_progress_bar_but_every_other_widget() -> None:
    def widget(text: str) -> dict:
        return {"data": {pages.WIDGET: {"model_id": text}, "text/plain": [text]}}

    bars = [widget("  0%|          | 0/3 [00:00<?, ?it/s]"), widget("round: 0it [00:00, ?it/s]")]
    printed = {"output_type": "stream", "text": "ASR 4 %"}
    cell = {"metadata": {}, "outputs": [*bars, printed]}
    notebook = {"cells": [cell, {"metadata": {}}], "metadata": {"widgets": {}}}
    assert pages.printable(notebook) == {
        "cells": [{"metadata": {}, "outputs": [printed]}, {"metadata": {}}],
        "metadata": {},
    }
    cell["outputs"].append(widget("FloatSlider(value=0.0)"))
    shown = pages.printable(notebook)
    assert shown["cells"][0]["outputs"] == [printed, widget("FloatSlider(value=0.0)")]
    assert "widgets" in shown["metadata"]


def test_the_page_shows_no_trace_of_papermill() -> None:
    def cell(source: str, *tags: str) -> dict:
        return {"source": source, "metadata": {"tags": list(tags), "papermill": {"status": "ok"}}}

    notebook = {
        "cells": [cell("a", "parameters"), cell("b", "injected-parameters"), cell("c")],
        "metadata": {"papermill": {}, "kernelspec": {}},
    }
    assert pages.printable(notebook) == {
        "cells": [
            {"source": "a", "metadata": {"tags": ["parameters"]}},
            {"source": "c", "metadata": {"tags": []}},
        ],
        "metadata": {"kernelspec": {}},
    }


def test_the_install_cell_names_the_repository_of_the_config() -> None:
    import yaml

    config = yaml.safe_load((chapters.ROOT / "_config.yml").read_text(encoding="utf-8"))
    repository = config["repository"]
    assert f"--branch {repository['branch']} {repository['url']} " in install_cell()
