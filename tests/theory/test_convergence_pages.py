"""The pages of the theory: every statement proved, every name in the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import ibau_lite

THEORY = Path(__file__).resolve().parents[2] / "theory"
PAGES = [
    "convergence",
    "danskin",
    "second_order",
    "objectives",
    "neumann",
    "active_constraint",
]
ROOMS = ("theory", "hypergrad", "solvers", "minimax", "defenses")
STATEMENTS = ("theorem", "proposition", "lemma", "corollary")


def text(page: str) -> str:
    return (THEORY / f"{page}.md").read_text(encoding="utf-8")


def resolve(name: str) -> object:
    found: object = ibau_lite
    for part in name.split("."):
        fields = (
            {f.name for f in dataclasses.fields(found)}
            if isinstance(found, type) and (dataclasses.is_dataclass(found))
            else set()
        )
        found = part if part in fields else getattr(found, part)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_statement_is_followed_by_its_proof(page: str) -> None:
    blocks = re.findall(r"^```\{prf:(\w+)\}", text(page), flags=re.MULTILINE)
    blocks = [kind for kind in blocks if kind in (*STATEMENTS, "proof")]
    assert blocks
    for kind, following in zip(blocks, [*blocks[1:], "nothing"]):
        if kind != "proof":
            assert following == "proof", f"{page}.md: a {kind} is followed by {following}"


@pytest.mark.parametrize("page", [*PAGES, "index", "notation"])
def test_every_name_of_the_library_on_the_page_exists(page: str) -> None:
    rooms = "|".join(ROOMS)
    names = re.findall(rf"`(?:ibau_lite\.)?((?:{rooms})(?:\.\w+)+)", text(page))
    names += [f"theory.convergence.{name}" for name in re.findall(r"`(Constants\.\w+)", text(page))]
    for name in names:
        resolve(name)
    assert names or page == "objectives"


@pytest.mark.parametrize("page", ["generalisation_linear", "generalisation_networks"])
def test_every_name_in_the_tables_of_theorems_2_and_3_exists(page: str) -> None:
    table = text(page).split("## In the library")[1]
    assert "in `ibau_lite.theory`" in table
    found, module = 0, ""
    for name in re.findall(r"`(\w*(?:\.\w+)+)`", table.replace("`ibau_lite.theory`", "")):
        first, _, rest = name.partition(".")
        module = first or module  # `.of_matrix` stands for the module named before it
        resolve(f"theory.{module}.{rest}")
        found += 1
    assert found >= 9


def test_the_notation_has_an_entry_for_each_symbol_of_the_talk() -> None:
    entries = "".join(line for line in text("notation").splitlines() if line.startswith("$"))
    for symbol in (
        r"\nabla_1", r"\nabla_2", r"\hat\rho_1", r"\hat\rho_2", r"\eta_1", r"\eta_2", r"\mu_H",
        "L_H", r"\varrho_i", r"\chi", r"\xi", r"C_\delta", r"C_\theta", "s_i", "W", "n",
    ):  # fmt: skip
        assert re.search(rf"\$[^$]*{re.escape(symbol)}(?![A-Za-z_])", entries), symbol


def test_a_name_that_does_not_exist_is_found_out() -> None:
    for wrong in ("theory.convergense", "theory.convergence.Constants.rho_3", "hypergrad.sphere"):
        with pytest.raises(AttributeError):
            resolve(wrong)
    assert resolve("theory.convergence.Constants.rho_2") == "rho_2"
