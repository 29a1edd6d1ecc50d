"""The first code cell of every chapter: it fetches the book on Colab and does nothing elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]

TEMPLATE = """\
# On Colab: fetch the book and add its library, and only packages that are missing: the torch,
# torchvision and numpy of Colab stay. Anywhere else, this cell does nothing.
# Tested from Python {python[0]} with torch {torch[0]} to Python {python[1]} with torch {torch[1]}.
import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("ibau_lite") is None:
    !git clone -q --depth 1 --branch {branch} {url} the_book
    %run the_book/book/_press/colab.py
    %cd -q the_book/book
    importlib.invalidate_caches()"""


def install_cell() -> str:
    """The source of the cell: repository of `_config.yml`, versions of the files that CI uses."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return TEMPLATE.format(
        url=repository["url"],
        branch=repository["branch"],
        python=(
            _found("pyproject.toml", r'requires-python = ">=([\d.]+)"'),
            _found("Makefile", r"test-newest: OTHER +:= \$\(or \$\(PYTHON\),([\d.]+)\)"),
        ),
        torch=(
            _found("pyproject.toml", r'"torch>=([\d.]+)"'),
            _found("constraints.txt", r"^torch==(\d+\.\d+)"),
        ),
    )


def _found(file: str, pattern: str) -> str:
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{file} has no {pattern}"
    return found[1]


if __name__ == "__main__":
    print(install_cell())
