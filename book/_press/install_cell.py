"""The first code cell of every chapter: it fetches the book on Colab and does nothing elsewhere."""

from __future__ import annotations

from pathlib import Path

import yaml

CONFIG = Path(__file__).resolve().parents[2] / "_config.yml"

TEMPLATE = """\
# On Colab: fetch the book and install its library. Anywhere else, this cell does nothing.
import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("ibau_lite") is None:
    !git clone -q --depth 1 --branch {branch} {url} the_book
    %pip install -q ./the_book
    %cd the_book/book"""


def install_cell() -> str:
    """The source of the cell, for the repository and branch that `_config.yml` names."""
    repository = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repository"]
    return TEMPLATE.format(url=repository["url"], branch=repository["branch"])


if __name__ == "__main__":
    print(install_cell())
