"""Committed chapters show well in any notebook, and the press makes the page's MyST of them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import chapters
import colab
import portable
import pytest
import status

CHAPTERS = [pytest.param(path, id=path.stem) for path in chapters.find()]


def load(chapter: Path) -> dict:
    return json.loads(chapter.read_text(encoding="utf-8"))


def written(notebook: dict) -> list[str]:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    return ["".join(cell["source"]) for cell in cells]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_committed_chapter_holds_no_myst_and_the_press_understands_it(chapter: Path) -> None:
    notebook = load(chapter)
    for text in written(notebook):
        assert not re.search(r":::|\{[a-z:-]+\}`|```\{", text), text[:200]
    page = portable.page(notebook)
    assert len({cell["id"] for cell in page["cells"]}) == len(page["cells"])
    rest = "\n".join(written(page))
    assert "<details" not in rest and "<div" not in rest and "bibliography.md#" not in rest


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_run_all_runs_no_solution_and_the_page_runs_each(chapter: Path) -> None:
    notebook = load(chapter)
    solutions = [
        code
        for text in written(notebook)
        for body in re.findall(r'<details class="solution">.*?\n</details>', text, re.DOTALL)
        for code in re.findall(r"^```python\n(.*?)\n```$", body, re.DOTALL | re.MULTILINE)
    ]
    assert solutions
    before = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    after = ["".join(c["source"]) for c in portable.page(notebook)["cells"] if "outputs" in c]
    assert sorted(after) == sorted([*before, *solutions])
    assert not set(before) & set(solutions)


def names(code: str) -> tuple[set[str], set[str]]:
    """The names that a cell sets and those that it reads; lines for IPython are left out."""
    tree = ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", code, flags=re.MULTILINE))
    sets, reads = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (sets if isinstance(node.ctx, ast.Store) else reads).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            sets.add(node.name)
        elif isinstance(node, ast.alias):
            sets.add((node.asname or node.name).split(".")[0])
    return sets, reads


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_cell_reads_a_name_that_only_a_solution_sets(chapter: Path) -> None:
    known: set[str] = set()
    solved: set[str] = set()
    for cell in load(chapter)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            sets, reads = names(text)
            assert not (reads & solved) - known - sets, text
            known |= sets
        else:
            for code in re.findall(r"^```python\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE):
                solved |= names(code)[0]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_links_lead_to_files_and_numbers_of_formulas_agree(chapter: Path) -> None:
    text = "\n".join(written(load(chapter)))
    tags = re.findall(r'<a id="(eq-[\w-]+)"></a>\n\n\$\$\n[^$]*\\tag\{(\d+)\}\n\$\$', text)
    assert [int(number) for _, number in tags] == list(range(1, len(tags) + 1))
    for number, label in re.findall(r"\[\((\d+)\)\]\(#(eq-[\w-]+)\)", text):
        assert dict(tags)[label] == number
    for file in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))", text):
        assert (chapter.parent / file).exists(), file


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_question_has_a_right_and_a_wrong_answer(chapter: Path) -> None:
    text = "\n".join(written(load(chapter)))
    quiz = text.partition("## Quiz")[2].partition("\n## ")[0]
    questions = re.split(r"^\*\*\d\. ", quiz, flags=re.MULTILINE)[1:]
    assert questions
    for question in questions:
        assert question.count('<details class="quiz right">') >= 1, question[:80]
        assert question.count('<details class="quiz">') >= 1, question[:80]


@pytest.mark.parametrize(
    ("committed", "printed"),
    [
        ("see [I-BAU](07_ibau.ipynb)", "see [I-BAU](07_ibau.ipynb)"),
        ("[the end](07_ibau.ipynb#sec-x)", "[the end](sec-x)"),
        ("by [theorem “A $x$”](#thm-x)", "by {prf:ref}`thm-x`"),
        ("by [T1](../theory/convergence.md#thm-x)", "by {prf:ref}`T1 <thm-x>`"),
        ("by [(2)](#eq-x)", "by {eq}`eq-x`"),
        ("[Gu et al. (2019)](bibliography.md#gu2019badnets)", "{cite:t}`gu2019badnets`"),
        ("([Gu et al., 2019](bibliography.md#gu2019badnets)).", "{cite:p}`gu2019badnets`."),
        ('<a id="sec-x"></a>\n\n## X', "(sec-x)=\n## X"),
        ('<a id="eq-x"></a>\n\n$$\nx=1 . \\tag{1}\n$$', "$$\nx=1 .\n$$ (eq-x)"),
        (
            "> **Make a prediction**\n>\n> How?",
            ":::{admonition} Make a prediction\n:class: tip\n\nHow?\n:::",
        ),
        (
            '<div class="theorem" id="thm-x">\n\n**Theorem: A**\n\nSo.\n\n</div>',
            ":::{prf:theorem} A\n:label: thm-x\n\nSo.\n:::",
        ),
        (
            '<details class="quiz right"><summary><code>a</code> &lt; 1</summary>'
            "\n\nYes.\n\n</details>",
            ":::{dropdown} `a` < 1\n:class-container: quiz right\n\nYes.\n:::",
        ),
        (
            '<details class="hint"><summary>Hint</summary>\n\nLook at $n$.\n\n</details>',
            ":::{dropdown} Hint\n:class-container: hint\n\nLook at $n$.\n:::",
        ),
        ('```python\n<details class="x">\n```', '```python\n<details class="x">\n```'),
    ],
)
def test_a_text_becomes_myst(committed: str, printed: str) -> None:
    assert portable.markdown(committed) == printed


def test_a_solution_becomes_cells_inside_its_dropdown() -> None:
    fold = '<details class="solution"><summary>Solution</summary>'
    text = f"Go.\n\n{fold}\n\nSo:\n\n```python\nx = 1\n\n\ny = 2\n```\n\nEnd.\n\n</details>"
    task = '**Exercise: E** <a id="ex-e"></a>'
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": task},
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "...", "outputs": []},
        {"cell_type": "markdown", "id": "c", "metadata": {}, "source": text},
    ]
    made = portable.page({"cells": cells, "metadata": {}})["cells"]
    assert [cell["id"] for cell in made] == ["a", "b", "c", "c-1", "c-2"]
    assert made[0]["source"] == "```{exercise-start} E\n:label: ex-e\n```"
    assert "```{exercise-end}\n```\n\n```{solution-start} ex-e" in made[2]["source"]
    assert made[3]["cell_type"] == "code" and made[3]["source"] == "x = 1\n\n\ny = 2"
    assert made[4]["source"].startswith("End.") and "{solution-end}" in made[4]["source"]
    with pytest.raises(portable.PortableError, match="has no solution"):
        portable.page({"cells": cells[:2], "metadata": {}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (":::{note}\n:::", "MyST in a committed chapter"),
        ("see {doc}`x`", "MyST in a committed chapter"),
        ('<div class="theorem" id="thm-x">\n\n**Theorem: A**\n', "no </div> follows"),
        ('<div class="other">\n\n**Title**\n\n</div>', "not understood"),
        ("<details>\n<summary>a</summary>\n\n</details>", "HTML that the press"),
        ("> **A title of mine**\n>\n> a", "no box is called"),
        ("> **Make a prediction**\n>\n> $a\n> b$", "a formula over lines"),
        ("[Gu (2019)](bibliography.md#gu2019badnets)", r"say \[Gu et al. \(2019\)\]"),
        ("[Gu](bibliography.md#nobody)", "has no 'nobody'"),
        ("[a](#what-x)", "unknown kind"),
        ('<a id="eq-x"></a>\n\n$$\nx\n$$', "no formula with one"),
        ('<details class="solution"><summary>Solution</summary>\n\na\n\n</details>', "without an"),
        ("$$\nx", "does not end"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(portable.PortableError, match=message):
        portable.markdown(text)


def test_colab_gets_what_is_missing_and_keeps_what_it_has() -> None:
    wanted = ["torch>=2.6", "scikit-learn>=1.4", "safetensors>=0.4.5", 'pytest>=8; extra == "test"']
    has = {"torch": "2.6.0+cu124", "scikit_learn": "1.3.2"}
    missing, old = colab.compare(wanted, has)
    assert missing == ["safetensors>=0.4.5"]
    assert old == ["scikit-learn is 1.3.2; the book asks for 1.4 or newer"]
    with pytest.raises(ValueError, match="not of the form"):
        colab.compare(["torch==2"], has)


def test_colab_is_never_given_a_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(colab.subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.setattr(colab, "distributions", lambda: [])
    monkeypatch.setattr(colab, "requires", lambda name: ["safetensors>=0.4.5"])
    colab.install(Path("the_book"))
    assert [command[-1] for command in called] == ["the_book", "safetensors>=0.4.5"]
    assert all("--no-deps" in command for command in called)


def test_the_status_table_tells_seconds_of_a_run_and_what_was_not_run(tmp_path: Path) -> None:
    papermill = {"duration": 31.6, "start_time": "2026-02-03T04:05:06"}
    run = {"papermill": papermill, "run": status.here()}
    kept = tmp_path / "kept.ipynb"
    kept.write_text(json.dumps({"cells": [], "metadata": run}))
    table = status.table({"01_a.ipynb": {"smoke": kept, "cpu": None}})
    assert "| [01](01_a.ipynb) | 32 | not run | 2026-02-03 |" in table
    assert f"Chapters 01: {status.here()['system']}; Python" in table
