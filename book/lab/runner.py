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
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import places
from .engine import Claims, Job, resume
from .estimate import estimate
from .first_run import PROFILES
from .plan import TABLES, Cell, plan
from .work import attempt, failure

__all__ = ["job", "main", "sweep"]


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
    `places.cluster`, `retry` as in `Claims`. Raises `ValueError` for fewer jobs, and for `gpus`
    without a scheduler, and as `places.cluster`.
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
    if not scheduler:
        begin = places.Here if jobs == 1 else partial(places.processes, jobs)
        under_way = resume([job(cell, folder, jobs) for cell in left], claims, jobs, begin)
        return _watched(under_way, len(cells), progress)
    with places.cluster(scheduler, gpus=gpus) as (executor, room):
        at_once = jobs or room
        there = [job(cell, folder, at_once) for cell in left]
        return _watched(resume(there, claims, at_once, lambda: executor), len(cells), progress)


def job(cell: Cell, folder: str | Path | None = None, jobs: int = 1) -> Job:
    """A cell as the engine runs it, `jobs` at a time; `folder` keeps the networks."""
    # By keyword and as text: what a process or a cluster is sent holds plain values.
    where = None if folder is None else str(Path(folder).resolve())
    return Job(
        cell.key,
        partial(attempt, cell, folder=where, jobs=jobs),
        partial(failure, cell),
        cell.needs,
        (cell.case.data, cell.case.network, cell.network_seed),
    )


def _watched(under_way: resume, total: int, progress: bool) -> list[dict[str, Any]]:
    """Run the cells that are left of `total`, with a bar and a printed line for each."""
    finished = []
    done = total - len(under_way.jobs)
    with tqdm(total=total, initial=done, disable=not progress, unit="cell") as bar:
        for record in under_way:
            finished.append(record)
            bar.update()
            if progress:
                bar.write(_line(record))
    return finished


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
