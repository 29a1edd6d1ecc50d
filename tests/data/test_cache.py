"""The cache folder follows the environment."""

from __future__ import annotations

from pathlib import Path

from ibau_lite.data import cache


def test_the_most_specific_variable_wins(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("IBAU_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == Path("/home/someone/.cache/ibau_lite")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.folder() == Path("/x/ibau_lite")
    monkeypatch.setenv("IBAU_CACHE", "~/mine")
    assert cache.folder() == Path("/home/someone/mine")
