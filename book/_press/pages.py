"""Build the book: run what has changed, stage the executed chapters, let jupyter-book print them.

python book/_press/pages.py [--profile smoke|cpu|full] [--fresh]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chapters
import found
import portable
import reference
import status
import teaching
from tqdm.auto import tqdm

from ibau_lab import candidates, read

BUILD = chapters.ROOT / "_build"
STAGE = BUILD / "stage"
HTML = BUILD / "html"
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(profile: str, fresh: bool) -> dict[str, Path]:
    """Results of every chapter by file name: kept ones where still valid, else run now.

    Two chapters run at a time in `smoke`, where each has one thread; one at a time otherwise.
    All chapters are tried before the first ChapterError is raised.
    """
    results: dict[str, Path] = {}
    waiting = []
    for chapter in chapters.find():
        result = None if fresh else chapters.kept(chapter, profile)
        if result is None:
            waiting.append(chapter)
        else:
            results[chapter.name] = result
            print(f"kept    {chapter.name} (nothing that it depends on has changed)", flush=True)
    if waiting:
        with ThreadPoolExecutor(max_workers=2 if profile == "smoke" else 1) as pool:
            started = [
                (chapter, pool.submit(_run_with_bar, chapter, profile, place))
                for place, chapter in enumerate(waiting)
            ]
        for chapter, future in started:
            results[chapter.name] = future.result()
    return results


def _run_with_bar(chapter: Path, profile: str, place: int) -> Path:
    """Run one chapter under a bar that counts its cells; in a log, one line when it ends."""
    page = portable.page(json.loads(chapter.read_text(encoding="utf-8")))
    cells = len(page["cells"]) + 1  # and the injected one
    shown = sys.stderr.isatty()
    if not shown:
        print(f"running {chapter.name}: {cells} cells", flush=True)
    started = time.monotonic()
    with tqdm(
        total=cells, desc=chapter.stem, unit="cell", position=place, disable=not shown
    ) as bar:
        result = chapters.run(
            chapter, profile, lambda finished: bar.update(max(0, finished - bar.n))
        )
    if not shown:
        print(f"ran     {chapter.name} in {time.monotonic() - started:.0f} s", flush=True)
    return result


def printable(notebook: dict) -> dict:
    """The executed notebook as the page shows it: without what papermill and tqdm leave in it.

    A chapter's own parameters cell holds the values of `smoke` (a test sees to it), so the cell
    that papermill adds would only repeat it. A finished progress bar tells the reader of a page
    nothing, and its widget would make the page load scripts from a network. Names of the library in
    tables become links to the reference.
    """
    notebook = copy.deepcopy(notebook)
    notebook["cells"] = [
        cell
        for cell in notebook["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    outputs = []
    for cell in notebook["cells"]:
        if cell.get("cell_type") == "markdown":
            cell["source"] = reference.linked("".join(cell["source"]))
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if not _is_bar(output)]
            for output in cell["outputs"]:
                if "text/html" in output.get("data", {}):  # an instrument: the page needs no widget
                    output["data"].pop(WIDGET, None)
            outputs += cell["outputs"]
    for item in [notebook, *notebook["cells"]]:
        item["metadata"].pop("papermill", None)
    notebook["metadata"].pop("run", None)
    if not any(WIDGET in output.get("data", {}) for output in outputs):
        notebook["metadata"].pop("widgets", None)
    return notebook


def _is_bar(output: dict) -> bool:
    """Whether an output is a widget of tqdm: its text ends in [elapsed<remaining, rate]."""
    data = output.get("data", {})
    text = "".join(data.get("text/plain", ""))
    return WIDGET in data and re.search(r"\[\d\d:\d\d.*\]$", text) is not None


def stage(results: dict[str, Path], profile: str) -> None:
    """Lay out the sources of the pages in STAGE, the executed chapters in place of the others.

    The status page tells of the results of `profile` and of those kept of `smoke` and `cpu`.
    """
    shutil.rmtree(STAGE, ignore_errors=True)
    unwanted = shutil.ignore_patterns("_press", "lab", "*.ipynb", "__pycache__", ".*", "_build")
    shutil.copytree(chapters.BOOK, STAGE / "book", ignore=unwanted)
    for starter in (chapters.BOOK / "projects").glob("*.ipynb"):  # downloads, not pages
        (STAGE / "book" / "projects").mkdir(exist_ok=True)
        shutil.copy(starter, STAGE / "book" / "projects")
    for page in sorted((chapters.ROOT / "theory").glob("*.md")):
        (STAGE / "theory").mkdir(exist_ok=True)
        shutil.copy(page, STAGE / "theory")
    for name in ("_config.yml", "_toc.yml", "CHANGELOG.md"):
        shutil.copy(chapters.ROOT / name, STAGE)
    found.write(STAGE)
    for name, result in results.items():
        notebook = printable(json.loads(result.read_text(encoding="utf-8")))
        (STAGE / "book" / name).write_text(json.dumps(notebook), encoding="utf-8")
    runs = {
        name: {
            other: result if other == profile else chapters.kept(chapters.BOOK / name, other)
            for other in dict.fromkeys(["smoke", "cpu", profile])
        }
        for name, result in results.items()
    }
    _fill("status", status.MARK, status.table(runs))
    records = read(chapters.BOOK / "results" / "candidates.jsonl")
    _fill("settings", status.MARK, candidates.table(records))
    smoke = {name: kept["smoke"] for name, kept in runs.items()}
    _fill("instructors", teaching.MARK, teaching.sections(smoke, chapters.BOOK))
    for name in reference.PAGES:
        _fill(name, reference.MARK, reference.text(name))
    glossary = STAGE / "book" / "glossary.md"
    text = reference.linked(glossary.read_text(encoding="utf-8"), everywhere=True)
    glossary.write_text(text, encoding="utf-8")


def _fill(name: str, mark: str, text: str) -> None:
    """Put what is computed into the staged page `name`, where its mark stands."""
    page = STAGE / "book" / f"{name}.md"
    written = page.read_text(encoding="utf-8")
    assert mark in written, f"{page.name} has no place for what the press computes"
    page.write_text(written.replace(mark, text), encoding="utf-8")


def offer_notebooks() -> None:
    """Behind each page's download button lies the committed chapter, not the staged one."""
    for chapter in chapters.find():
        offered = HTML / "_sources" / "book" / chapter.name
        assert offered.exists(), f"the page of {chapter.name} offers no notebook"
        shutil.copyfile(chapter, offered)


def build() -> int:
    """Print STAGE as HTML with warnings as errors; return jupyter-book's exit status.

    The last build is removed first: Sphinx repeats no warning about a page that it has read before,
    so a build over an old one could pass where a fresh one fails.
    """
    for old in (HTML, BUILD / ".doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", str(STAGE)]
    command += ["--path-output", str(BUILD.parent), "-W", "-n", "--keep-going", "-q"]
    press = str(Path(__file__).parent)  # where jupyter-book finds our Sphinx extension
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": press}
    return subprocess.run(command, env=environment).returncode


def main() -> int:
    """Run, stage and build; say which file to open. Status 1 if a chapter or the build fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke", choices=list(chapters.TIMEOUT))
    parser.add_argument("--fresh", action="store_true", help="run every chapter, keep nothing")
    choice = parser.parse_args()
    started = time.monotonic()
    try:
        results = execute(choice.profile, choice.fresh)
    except chapters.ChapterError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    stage(results, choice.profile)
    print("building the pages", flush=True)
    if build() != 0:
        print("\nThe pages were not built: see the messages above.", file=sys.stderr)
        return 1
    offer_notebooks()
    print(f"\nThe book is ready after {time.monotonic() - started:.0f} s. Open in a browser:")
    print(f"  {(HTML / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
