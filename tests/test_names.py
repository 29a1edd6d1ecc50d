"""One name, one thing: no function of a room hides a file of the same name."""

from __future__ import annotations

import importlib
import pkgutil

import ibau_lite


def test_no_public_name_hides_the_file_that_defines_it() -> None:
    rooms = [name for _, name, folder in pkgutil.iter_modules(ibau_lite.__path__) if folder]
    assert "defenses" in rooms and "attacks" in rooms
    hidden = set()
    for room in rooms:
        module = importlib.import_module(f"ibau_lite.{room}")
        files = {name for _, name, _ in pkgutil.iter_modules(module.__path__)}
        hidden |= {f"{module.__name__}.{name}" for name in files & set(module.__all__)}
    assert not hidden
