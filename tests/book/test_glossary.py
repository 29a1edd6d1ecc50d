"""The glossary names what the library has, and defines each word once."""

from __future__ import annotations

import dataclasses
import re

import chapters
import pytest
import reference

import ibau_lite

TEXT = (chapters.BOOK / "glossary.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`ib\.([\w.]+)`", TEXT)))
ENTRIES = TEXT.partition("```{glossary}")[2].partition("\n```")[0]
TERMS = [
    term.strip() for line in re.findall(r"^(?! |:)\S.*$", ENTRIES, re.M) for term in line.split(",")
]


def has(name: str) -> bool:
    """Whether the library has `name`: by attributes, and by fields of dataclasses."""
    value: object = ibau_lite
    for part in name.split("."):
        fields = (
            [f.name for f in dataclasses.fields(value)]
            if isinstance(value, type) and (dataclasses.is_dataclass(value))
            else []
        )
        if not hasattr(value, part):
            return part in fields
        value = getattr(value, part)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_glossary_exists_and_leads_to_the_reference(name: str) -> None:
    assert has(name), f"the glossary names ib.{name}"
    assert reference.resolve(f"ib.{name}"), f"the reference has no ib.{name}"


def test_every_name_in_backticks_that_has_a_dot_is_checked_above() -> None:
    spans = re.findall(r"(?<!\})`([^`\n]+)`", TEXT)
    assert {span for span in spans if "." in span} == {f"ib.{name}" for name in NAMES}


def test_words_that_every_chapter_uses_are_defined_once() -> None:
    assert len(TERMS) == len({term.lower() for term in TERMS})
    wanted = """ACC; ASR; trigger; target class; poisoning rate; profile; clean set; inner problem;
    outer problem; response Jacobian; hypergradient; direct term; indirect term; inverse-HVP; LMO;
    dual norm; distillation weight; targeted perturbation; universal perturbation; round"""
    assert not {term.strip() for term in wanted.split(";")} - set(TERMS)


def test_the_table_of_symbols_has_four_full_columns() -> None:
    rows = re.findall(r"^\|(.+)\|$", TEXT.partition("## Symbols")[2], re.M)
    assert len(rows) > 20
    for row in rows:
        assert len([cell for cell in row.split("|") if cell.strip()]) == 4, row
