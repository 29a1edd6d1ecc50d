"""The API reference has every public name once, and the tables of the chapters lead to it."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re

import chapters
import pytest
import reference

import ibau_lite

TEXTS = {page: reference.text(page) for page in reference.PAGES}
DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|data):: (\S+)$", re.MULTILINE)


def test_every_room_and_every_theorem_has_a_section() -> None:
    theory_folder = ibau_lite.theory.__path__
    rooms = {
        f"ibau_lite.{name}"
        for name in ibau_lite.__all__
        if inspect.ismodule(getattr(ibau_lite, name))
        if name != "theory"
    }
    theory = {f"ibau_lite.theory.{m.name}" for m in pkgutil.iter_modules(theory_folder)}
    listed = [room for rooms in reference.PAGES.values() for room in rooms]
    assert sorted(listed) == sorted({"ibau_lite"} | rooms | theory)


@pytest.mark.parametrize("page", list(reference.PAGES))
def test_every_public_name_stands_on_its_page(page: str) -> None:
    for room in reference.PAGES[page]:
        module = importlib.import_module(room)
        section = TEXTS[page].split(f"automodule:: {room}\n")[-1].partition("\n## ")[0]
        for name in getattr(module, "__all__", []):
            if not inspect.ismodule(getattr(module, name)):
                assert re.search(rf"(?:auto\w+:: |`)\S*\.{name}[\n`]", section), f"{room}.{name}"


def test_no_name_is_described_twice_and_each_can_be_imported() -> None:
    told = [name for text in TEXTS.values() for name in DIRECTIVE.findall(text)]
    assert len(told) == len(set(told))
    for name in told:
        room, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(room), last), name


def test_a_docstring_becomes_restructured_text() -> None:
    given = ["`x` of [*shape] and |g|, f_ *this* stays:", "", "    a | b", "", ".. math:: a*b|c"]
    assert reference.rst(given) == [
        r"`x` of [\*shape] and \|g\|, f\_ *this* stays:",
        *["", "::", "", "    a | b", "", ".. math:: a*b|c"],
    ]


@pytest.mark.parametrize(
    ("row", "made"),
    [
        ("| `ib.ibau(model)` |", "| {py:obj}`ib.ibau(model) <ibau_lite.ibau>` |"),
        (
            "| `margins.margin_error` |",
            "| {py:obj}`margins.margin_error <ibau_lite.theory.margins.margin_error>` |",
        ),
        (
            "| `ib.IBAU.distillation_weight` |",
            "| {py:obj}`ib.IBAU.distillation_weight <ibau_lite.IBAU>` |",
        ),
        ("| `ib.nothing(x)`, `model(x)` |", "| `ib.nothing(x)`, `model(x)` |"),
        ("outside a table `ib.ibau(model)`", "outside a table `ib.ibau(model)`"),
    ],
)
def test_names_in_tables_become_links(row: str, made: str) -> None:
    assert reference.linked(row) == made


def test_tables_of_the_chapters_lead_to_the_reference() -> None:
    """Chapters with a table of calls have links, and every link has a place that it leads to."""
    told = {name for text in TEXTS.values() for name in DIRECTIVE.findall(text)}
    with_links = set()
    for chapter in chapters.find():
        for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                text = reference.linked("".join(cell["source"]))
                for target in re.findall(r"\{py:obj\}`[^`]+ <([\w.]+)>`", text):
                    assert target in told, target
                    with_links.add(chapter.stem[:2])
    assert with_links >= {"01", "07", "09", "10", "11"}
