"""The tables of the talk, cell by cell: stop it, start it again, start it twice, nothing is lost.

    python -m ibau_lab reproduce table1 --profile full --seeds 3 --jobs 2
    python -m ibau_lab reproduce all --only ibau,nc --dry-run
    python -m ibau_lab reproduce all --profile full --scheduler tcp://host:8786 --gpus

A finished cell is one line of the results file and is not run again; a failing one is recorded with
its error, and is run again with `--retry`. Whatever ends a runner, only the cells in flight are
lost. Several runners may share a results file: a cell that one has taken is left alone by others.
Networks are trained once, when the first cell asks for them, and kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import pool
from .claims import Claims
from .estimate import estimate
from .first_run import PROFILES
from .plan import TABLES, Cell, plan
from .work import NetworkFailed, attempt, failure

__all__ = ["main", "sweep"]


@dataclass
class _Sweep:
    """What is under way: the cells in flight, what they are making, and what cannot be made."""

    claims: Claims
    places: int
    open: Callable[[], Executor]
    work: Callable[[Cell], dict[str, Any]]
    flights: dict[Future[Any], Cell] = field(default_factory=dict)
    made: set[tuple[str, str, int]] = field(default_factory=set)
    broken: dict[tuple[str, str, int], str] = field(default_factory=dict)

    deaths: int = 0

    def __post_init__(self) -> None:
        self.executor = self.open()

    def run(self, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
        """Yield the record of each cell that was settled here, as it comes.

        Cells that another runner has taken are asked for once more at the end.
        """
        try:
            for waiting in (list(cells), list(cells)):
                while waiting or self.flights:
                    self._depart(waiting)
                    if not self.flights:
                        break
                    done, _ = wait(self.flights, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield self._arrive(self.flights.pop(future), future)
        finally:
            for future in self.flights:
                future.cancel()
            if self.flights:
                pool.stop(self.executor)  # before others may take what it works on
            self.executor.shutdown(wait=False)
            self.claims.give_back()

    def _depart(self, waiting: list[Cell]) -> None:
        """Fill the free places with the first cells that need nothing which is being made.

        A place is not wasted on waiting for a network that another cell trains already.
        """
        for cell in list(waiting):
            if len(self.flights) >= self.places:
                return
            busy = set().union(*(other.needs - self.made for other in self.flights.values()))
            if (cell.needs - self.made) & busy:
                continue
            waiting.remove(cell)
            if self.claims.take(cell.key):
                self.flights[self._submit(cell)] = cell

    def _submit(self, cell: Cell) -> Future[Any]:
        for need in cell.needs & self.broken.keys():
            future: Future[Any] = Future()
            future.set_exception(NetworkFailed(self.broken[need]))
            return future
        try:
            return self.executor.submit(self.work, cell)
        except BrokenProcessPool as error:  # what was in flight is recorded as failed
            self.deaths += 1
            if self.deaths == 3:
                raise RuntimeError(
                    "three times in a row a process was killed and nothing was finished: is there "
                    "too little memory? Run it with fewer --jobs, and --retry"
                ) from error
            self.executor = self.open()
            return self.executor.submit(self.work, cell)

    def _arrive(self, cell: Cell, future: Future[Any]) -> dict[str, Any]:
        error = future.exception()
        if isinstance(error, NetworkFailed):
            self.broken[cell.case.data, cell.case.network, cell.network_seed] = str(error)
        elif error is None:
            self.made |= cell.needs
            self.deaths = 0
        record: dict[str, Any] = future.result() if error is None else failure(cell, error)
        try:
            self.claims.settle(cell.key, record)
        except ValueError as unwritable:  # a defence's history holds what is not JSON
            record = failure(cell, unwritable)
            self.claims.settle(cell.key, record)
        return record


def sweep(
    cells: Sequence[Cell],
    results: str | Path,
    *,
    folder: str | Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    gpus: bool = False,
    retry: bool = False,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Run the cells that are not settled yet, and return the records of those that were run.

    `jobs` cells at a time: in this process if it is 1, in processes of their own if it is more, on
    the Dask cluster of `scheduler` if that is given (0: as many as it has room for). `gpus` as in
    `pool.cluster`, `retry` as in `Claims`. Raises `ValueError` for fewer jobs, and for `gpus`
    without a scheduler, and as the pool.
    """
    if jobs < (0 if scheduler else 1):
        raise ValueError(f"jobs: at least 1 is expected, got {jobs}")
    if gpus and not scheduler:
        raise ValueError("gpus: is for a Dask cluster; processes of this machine share its GPU")
    claims = Claims(results, retry=retry)
    settled = claims.settled()
    left = [cell for cell in cells if cell.key not in settled]
    if not left:
        return []
    if scheduler:
        with pool.cluster(scheduler, gpus=gpus) as (executor, room):
            places = jobs or room
            on_cluster = _Sweep(claims, places, lambda: executor, _work(folder, places))
            return _watched(on_cluster, left, len(cells), progress)
    begin = pool.Here if jobs == 1 else partial(pool.Processes, jobs)
    return _watched(_Sweep(claims, jobs, begin, _work(folder, jobs)), left, len(cells), progress)


def _watched(
    under_way: _Sweep, left: Sequence[Cell], total: int, progress: bool
) -> list[dict[str, Any]]:
    """Run the cells that are left of `total`, with a bar and a printed line for each."""
    finished = []
    with tqdm(total=total, initial=total - len(left), disable=not progress, unit="cell") as bar:
        for record in under_way.run(left):
            finished.append(record)
            bar.update()
            if progress:
                bar.write(_line(record))
    return finished


def _work(folder: str | Path | None, jobs: int) -> Callable[[Cell], dict[str, Any]]:
    # By keyword and as text: what a process or a cluster is sent holds plain values.
    return partial(
        attempt, folder=None if folder is None else str(Path(folder).resolve()), jobs=jobs
    )


def _line(record: dict[str, Any]) -> str:
    cell = record["cell"]
    where = f"{cell['data']} {cell['attack']} {cell['rate']:.1%} clean={cell['clean']}"
    who = f"{where:<42} {cell['defense']:<9} seed {cell['seed']}"
    if "error" in record:
        return f"{who}  FAILED: {record['error']}"
    after = record["after"]
    return (
        f"{who}  ACC {after['accuracy']:6.1%}  ASR {after['attack_success_rate']:6.1%}"
        f"{'  ×' if record['found'] is False else ''}  {record['seconds']:6.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, list or estimate the cells of the tables; 1 if a cell failed."""
    parser = _parser()
    choice = parser.parse_args(arguments)
    tables = TABLES if "all" in choice.tables else choice.tables
    try:
        cells = plan(
            tables,
            choice.profile,
            seeds=choice.seeds,
            networks=choice.networks,
            only=_split(choice.only),
            attacks=_split(choice.attacks),
            data=_split(choice.data),
        )
        jobs = choice.jobs if choice.jobs is not None else 0 if choice.scheduler else 1
        if choice.list or choice.dry_run:
            _tell(cells, Claims(choice.results, retry=choice.retry), choice.list, max(1, jobs))
            return 0
        finished = sweep(
            cells,
            choice.results,
            folder=choice.folder,
            jobs=jobs,
            scheduler=choice.scheduler,
            gpus=choice.gpus,
            retry=choice.retry,
            progress=True,
        )
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))
    except (RuntimeError, CancelledError) as error:
        print(f"{type(error).__name__}: {error}\nfinished cells are kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: finished cells are kept; the same command goes on from here")
        return 130
    settled = Claims(choice.results).settled()
    failed = [cell for cell in cells if "error" in settled.get(cell.key, {})]
    away = sum(cell.key not in settled for cell in cells)
    print(
        f"{len(finished)} cells run, {len(cells) - len(failed) - away} of {len(cells)} finished"
        + (f", {len(failed)} failed (--retry runs them again)" if failed else "")
        + (f", {away} in flight in another runner" if away else "")
    )
    return 1 if failed else 0


def _tell(cells: Sequence[Cell], claims: Claims, one_by_one: bool, jobs: int) -> None:
    """Print the cells with their state, or what is left of them and how long it may take."""
    settled = claims.settled()
    if one_by_one:
        for cell in cells:
            record = settled.get(cell.key)
            state = "to do" if record is None else "failed" if "error" in record else "done"
            print(f"{state:<6} {cell.key} {cell}")
    left = [cell for cell in cells if cell.key not in settled]
    failed = sum("error" in settled[cell.key] for cell in cells if cell.key in settled)
    print(f"{len(cells)} cells: {len(cells) - len(left) - failed} done, {failed} failed, ", end="")
    print(f"{len(left)} to do")
    if not one_by_one:
        print(estimate(left, claims.records(), jobs))


def _split(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ibau_lab reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tables", nargs="+", choices=(*TABLES, "all"), metavar="TABLE")
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument(
        "--networks", type=int, default=1, help="how many networks share the seeds (1)"
    )
    parser.add_argument("--only", help="only these defences, separated by commas")
    parser.add_argument("--attacks", help="only these networks, separated by commas")
    parser.add_argument("--data", help="only these data sets, separated by commas")
    parser.add_argument("--results", type=Path, default=Path("results/reproduce.jsonl"))
    parser.add_argument("--folder", type=Path, help="of the networks; the data's cache by default")
    parser.add_argument("--jobs", type=int, help="cells at a time (1; on a cluster, its size)")
    parser.add_argument("--scheduler", help="the address of a Dask scheduler, tcp://host:port")
    parser.add_argument("--gpus", action="store_true", help="a cell asks Dask for one GPU")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--list", action="store_true", help="print the cells, run none")
    parser.add_argument("--dry-run", action="store_true", help="estimate the time, run none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
