"""The engine that resumes: what is planned, minus what is recorded, is run and appended.

Every study of the laboratory goes through it. A results file may be shared by several runners: a
key that one of them has taken is left alone by the others. Whatever ends a runner, only the records
in flight are lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .places import Here, stop
from .records import append, key_of, read

Record = dict[str, Any]


class NeedFailed(RuntimeError):
    """What a job needs could not be made: no other job that needs it can be run."""


@dataclass(frozen=True)
class Job:
    """A record that is planned: the key that finds it, and the call that makes it.

    `needs` must be made before, by whichever job comes first; `need` is the one of them whose
    making may raise `NeedFailed`. `failed` makes the record of an error.
    """

    key: str
    make: Callable[[], Record] = field(repr=False)
    failed: Callable[[BaseException], Record] = field(repr=False)
    needs: frozenset[Any] = frozenset()
    need: Any = None


def _cell_key(record: Mapping[str, Any]) -> str | None:
    return record.get("cell", {}).get("key")


class Claims:
    """The keys of one results file that this runner has taken, and what is recorded already.

    A claim is a lock that the system gives back when its process ends, however it ends, so that
    none is ever stale. On a shared folder it holds between machines where the file system's locks
    do. `named` tells the key of a record (None: of another kind). `retry` looks at failed records
    as if they had never been run; those that fail from now on count.
    """

    def __init__(
        self,
        results: str | Path,
        *,
        retry: bool = False,
        named: Callable[[Mapping[str, Any]], str | None] = _cell_key,
    ) -> None:
        self.results = Path(results)
        self._named = named
        self._folder = self.results.with_name(f".{self.results.name}.claims")
        self._gate = FileLock(self.results.with_name(f".{self.results.name}.lock"))
        self._held: dict[str, FileLock] = {}
        self._size = -1
        self._records: list[Record] = []
        self._forgiven = len(self.records()) if retry else 0

    def records(self) -> list[Record]:
        """All records as they are in the file now."""
        size = self.results.stat().st_size if self.results.exists() else 0
        if size != self._size:
            self._records, self._size = read(self.results, cut=True), size
        return self._records

    def settled(self) -> dict[str, Record]:
        """Key -> record of each that need not be run: finished, or failed (unless `retry`)."""
        found: dict[str, Record] = {}
        for number, record in enumerate(self.records()):
            key, failed = self._named(record), "error" in record
            if key is None or (failed and (number < self._forgiven or key in found)):
                continue
            found[key] = record
        return found

    def take(self, key: str) -> bool:
        """Claim a key; false if another runner has it, or if it has been settled meanwhile."""
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self._gate:
            if key in self.settled():
                return False
            self._folder.mkdir(exist_ok=True)
            lock = FileLock(self._file(key), timeout=0)
            try:
                lock.acquire()
            except Timeout:
                return False
            self._held[key] = lock
            return True

    def settle(self, key: str, record: Mapping[str, Any]) -> None:
        """Append the record of a claimed key, and give the claim back."""
        with self._gate:
            append(self.results, record)
            self._drop(key)

    def give_back(self) -> None:
        """Give back every claim, for what will not be finished."""
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
            os.unlink(self._file(key))

    def _file(self, key: str) -> Path:
        return self._folder / key_of({"key": key})


def once(
    results: str | Path,
    key: str,
    make: Callable[[], Record],
    *,
    named: Callable[[Mapping[str, Any]], str | None] = lambda record: record.get("key"),
) -> Record:
    """The record of this key: the one in the file, or the one that `make` returns, appended.

    Waits while another runner makes it. `named` as in `Claims`; what `make` raises is raised, and
    nothing is recorded then.
    """
    claims = Claims(results, named=named)
    while not claims.take(key):
        if key in claims.settled():
            return claims.settled()[key]
        time.sleep(1)
    try:
        record = make()
        claims.settle(key, record)
        return record
    finally:
        claims.give_back()


@dataclass
class resume:  # it is called like a function, and is iterated over once
    """Run the jobs that are not settled, `at_once` at a time; iterate to get their records.

    `open` makes the executor they are submitted to. A job that another runner has taken is asked
    for once more at the end. What a job raises is recorded as its failure.
    """

    jobs: Sequence[Job]
    claims: Claims
    at_once: int = 1
    open: Callable[[], Executor] = Here
    flights: dict[Future[Any], Job] = field(default_factory=dict)
    made: set[Any] = field(default_factory=set)
    broken: dict[Any, str] = field(default_factory=dict)
    deaths: int = 0

    def __iter__(self) -> Iterator[Record]:
        self.executor = self.open()
        try:
            for waiting in (list(self.jobs), list(self.jobs)):
                while waiting or self.flights:
                    self._depart(waiting)
                    if not self.flights:
                        break
                    for future in wait(self.flights, return_when=FIRST_COMPLETED).done:
                        yield self._arrive(self.flights.pop(future), future)
        finally:
            for future in self.flights:
                future.cancel()
            if self.flights:
                stop(self.executor)  # before others may take what it works on
            self.executor.shutdown(wait=False)
            self.claims.give_back()

    def _depart(self, waiting: list[Job]) -> None:
        """Fill the free places with the first jobs that need nothing which is being made.

        A place is not wasted on waiting for a network that another job trains already.
        """
        for job in list(waiting):
            if len(self.flights) >= self.at_once:
                return
            busy = set().union(*(other.needs - self.made for other in self.flights.values()))
            if (job.needs - self.made) & busy:
                continue
            waiting.remove(job)
            if self.claims.take(job.key):
                self.flights[self._submit(job)] = job

    def _submit(self, job: Job) -> Future[Any]:
        for need in job.needs & self.broken.keys():
            future: Future[Any] = Future()
            future.set_exception(NeedFailed(self.broken[need]))
            return future
        try:
            return self.executor.submit(job.make)
        except BrokenProcessPool as error:  # what was in flight is recorded as failed
            self.deaths += 1
            if self.deaths == 3:
                raise RuntimeError(
                    "three times in a row a process was killed and nothing was finished: is there "
                    "too little memory? Run it with fewer --jobs, and --retry"
                ) from error
            self.executor = self.open()
            return self.executor.submit(job.make)

    def _arrive(self, job: Job, future: Future[Any]) -> Record:
        error = future.exception()
        if isinstance(error, NeedFailed):
            self.broken[job.need] = str(error)
        elif error is None:
            self.made |= job.needs
            self.deaths = 0
        record: Record = future.result() if error is None else job.failed(error)
        try:
            self.claims.settle(job.key, record)
        except ValueError as unwritable:  # a defence's history holds what is not JSON
            record = job.failed(unwritable)
            self.claims.settle(job.key, record)
        return record
