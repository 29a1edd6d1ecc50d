"""Claims: who works on which cell, agreed between all runners of one results file.

A claim is a lock that the system gives back when its process ends, however it ends, so that none
is ever stale. On a shared folder it holds between machines where the file system's locks do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .records import append, read

__all__ = ["Claims"]


class Claims:
    """The cells of one results file that this runner has taken, and what is recorded already.

    `retry` looks at failed cells as if they had never been run; those that fail from now on count.
    """

    def __init__(self, results: str | Path, *, retry: bool = False) -> None:
        self.results = Path(results)
        self._folder = self.results.with_name(f".{self.results.name}.claims")
        self._gate = FileLock(self.results.with_name(f".{self.results.name}.lock"))
        self._held: dict[str, FileLock] = {}
        self._size = -1
        self._records: list[dict[str, Any]] = []
        self._forgiven = len(self.records()) if retry else 0

    def records(self) -> list[dict[str, Any]]:
        """All records as they are in the file now."""
        size = self.results.stat().st_size if self.results.exists() else 0
        if size != self._size:
            self._records, self._size = read(self.results, cut=True), size
        return self._records

    def settled(self) -> dict[str, dict[str, Any]]:
        """Key -> record of each cell that need not be run: finished, or failed (unless `retry`)."""
        found: dict[str, dict[str, Any]] = {}
        for number, record in enumerate(self.records()):
            key = record.get("cell", {}).get("key")
            failed = "error" in record
            if key is None or (failed and (number < self._forgiven or key in found)):
                continue
            found[key] = record
        return found

    def take(self, key: str) -> bool:
        """Claim a cell; false if another runner has it, or if it has been settled meanwhile."""
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self._gate:
            if key in self.settled():
                return False
            self._folder.mkdir(exist_ok=True)
            lock = FileLock(self._folder / key, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                return False
            self._held[key] = lock
            return True

    def settle(self, key: str, record: Mapping[str, Any]) -> None:
        """Append the record of a claimed cell, and give the claim back."""
        with self._gate:
            append(self.results, record)
            self._drop(key)

    def give_back(self) -> None:
        """Give back every claim, for cells that will not be finished."""
        if not self._folder.exists():
            return
        with self._gate:
            for key in list(self._held):
                self._drop(key)
            with suppress(OSError):  # another runner's claims may be in it
                self._folder.rmdir()

    def _drop(self, key: str) -> None:
        # Nobody opens a claim but inside the gate, so that the file can go with it.
        self._held.pop(key).release()
        with suppress(OSError):
            os.unlink(self._folder / key)
