"""The lines that docstrings of the library show give what stands below them.

(`pytest --doctest-modules` would import every file of `tests/` as well, programs among them.)
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import ibau_lite

# The theory lies beside the library; its pages are tested with their theorems.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ibau_lite.__path__, "ibau_lite.")
    if not module.name.startswith("ibau_lite.theory")
)


@pytest.mark.parametrize("name", MODULES)
def test_lines_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    cases = [case for case in doctest.DocTestFinder().find(module) if case.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for case in cases:
        runner.run(case, out=report.append)
    assert not runner.failures, "".join(report)
