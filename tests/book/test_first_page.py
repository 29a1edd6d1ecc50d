"""The first page, the heads of all pages, and the file for paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from statistics import mean

import chapters
import found
import heads
import pdf
import pytest
import yaml
from docutils import nodes

TOC = yaml.safe_load((chapters.ROOT / "_toc.yml").read_text(encoding="utf-8"))
RECORDS = [
    json.loads(line)
    for line in (chapters.BOOK / "results" / "reproduce.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def rows():
    return found.rows(RECORDS)


def test_what_we_found_is_what_the_records_say(rows):
    """Counted again, from the raw lines: who of the drawn networks is left with at most 20 %."""
    drawn = {(row.data, row.attack): row for row in rows}
    assert len(drawn) == len(rows) > 0
    good = 0
    for (data, attack), row in drawn.items():
        name = "badnets_all_to_all" if attack == "all_to_all" else attack
        runs = [
            r for r in RECORDS
            if (r.get("defense"), r.get("data"), r.get("attack")) == ("I-BAU", data, name)
            and r["profile"] == row.profile and "after" in r
            and (r["cell"]["rate"], r["cell"]["clean"]) == (0.2, 5000)
        ]  # fmt: skip
        left = mean(r["after"]["attack_success_rate"] for r in runs)
        lost = mean(r["before"]["accuracy"] - r["after"]["accuracy"] for r in runs)
        assert row.ours.attack_success_rate.mean == pytest.approx(left)
        good += left <= 0.2 and lost <= 0.1
    assert f"the backdoor of {good} of {len(rows)} networks" in found.sentence(rows)


def test_the_sentence_names_each_network_on_which_it_failed(rows):
    text = found.sentence(rows)
    for row in rows:
        named = f"{found.NAMES[row.attack]} on {found.DATA[row.data]}" in text
        assert named == (not (row.ours.ours.removed and row.ours.ours.kept))


def test_the_figure_has_a_mark_for_every_number(rows):
    numbers = sum(1 + (row.tuned is not None) + (row.talk is not None) for row in rows)
    marks = [
        line
        for axes in found.draw(rows).axes
        for line in axes.lines
        if line.get_marker() not in ("", "None")
    ]
    assert len(marks) == numbers


def test_chapters_are_numbered_as_their_files_are():
    parts = [part for part in TOC["parts"] if "numbered" in part]
    numbered = [c["file"] for part in parts for c in part["chapters"]]
    assert [file[:7] for file in numbered] == [f"book/{k:02d}" for k in range(1, len(numbered) + 1)]
    assert len(numbered) == len(chapters.find())
    assert all(part["numbered"] == 1 for part in parts)


def test_theorems_one_to_three_are_those_of_the_talk():
    """Theorems of pages without a chapter number are counted on: T1 to T3 have to come first."""
    pages = [c["file"] for part in TOC["parts"] for c in part["chapters"]]
    theory = [page for page in pages if page.startswith("theory/")]
    assert {page.stem for page in (chapters.ROOT / "theory").glob("*.md")} == {
        page.removeprefix("theory/") for page in theory
    }
    titles = []
    for page in theory:
        text = (chapters.ROOT / f"{page}.md").read_text(encoding="utf-8")
        titles += [re.search("^# .*", text, re.M)[0]] * len(re.findall(r"\{prf:theorem\}", text))
    assert [title[:5] for title in titles[:3]] == ["# T1:", "# T2:", "# T3:"]


@pytest.mark.parametrize("chapter", chapters.find(), ids=lambda path: path.stem)
def test_a_chapter_has_what_the_first_page_says_of_it(chapter):
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown").lower()
    for word in ("you need", "predict", "quiz", "exercise", "solution", "minute"):
        assert word in text, f"the first page promises it, and the chapter has no {word!r}"


def test_a_description_is_the_first_long_paragraph_without_a_formula():
    page = nodes.document(None, None)
    page += nodes.paragraph("", "Too short.")
    formula = nodes.math("", "x")
    page += nodes.paragraph("", "Here is a formula, and so this one is not taken: ", formula)
    page += nodes.paragraph("", "This one says what\nthe page is about. " + "word " * 60)
    text = heads.description(page)
    assert text.startswith("This one says what the page is about. word") and text.endswith("word …")
    assert len(text) <= heads.LONGEST + 2
    assert heads.description(nodes.document(None, None)) == ""


def test_links_stay_right_when_all_pages_become_one():
    text = (
        '<h1 id="top"><a href="#top">1</a><a href="02.html#x">2</a><a href="../theory/t.html">3</a>'
        '<img src="../_images/a.png"><a href="https://x.org/#y">4</a><a href="03.html">5</a></h1>'
    )
    assert pdf.moved(text, "book/01", {"book/01", "book/02", "theory/t"}) == (
        '<h1 id="book/01:top"><a href="#book/01:top">1</a><a href="#book/02:x">2</a>'
        '<a href="#theory/t">3</a><img src="_images/a.png"><a href="https://x.org/#y">4</a>'
        '<a href="book/03.html">5</a></h1>'
    )


def test_without_a_browser_there_is_no_pdf_and_a_word_about_it(monkeypatch, capsys):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    assert pdf.main() == 0
    assert "apt install chromium" in capsys.readouterr().out


def test_make_pdf_prints_the_pages():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    command = [make, "-n", "-C", str(chapters.ROOT), "pdf"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "book/_press/pdf.py" in said.stdout
    assert "warning" not in said.stderr


def test_what_the_pages_load_is_there():
    config = yaml.safe_load((chapters.ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert (chapters.ROOT / config["logo"]).exists()
    assert (chapters.BOOK / heads.CARD).exists()
    assert "http" not in (chapters.BOOK / "_static" / "book.css").read_text()
