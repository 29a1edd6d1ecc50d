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
    with places.chosen(jobs, scheduler, gpus=gpus) as (begin, at_once):
        under_way = resume([job(cell, folder, at_once) for cell in left], claims, at_once, begin)
        finished = []
        done = len(cells) - len(left)
        with tqdm(total=len(cells), initial=done, disable=not progress, unit="cell") as bar:
            for record in under_way:
                finished.append(record)
                bar.update()
                if progress:
                    bar.write(_line(record))
    return finished


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
    choice = vars(parser.parse_args(arguments))
    results, retry = choice["results"], choice["retry"]
    planned = {name: choice[name] for name in ("seeds", "networks", "only", "attacks", "data")}
    how = {name: choice[name] for name in ("folder", "jobs", "scheduler", "gpus", "retry")}
    if how["jobs"] is None:
        how["jobs"] = 0 if how["scheduler"] else 1
    try:
        tables = TABLES if "all" in choice["tables"] else choice["tables"]
        cells = plan(tables, choice["profile"], **planned)
        if choice["list"] or choice["dry_run"]:
            _tell(cells, Claims(results, retry=retry), choice["list"], max(1, how["jobs"]))
            return 0
        finished = sweep(cells, results, progress=True, **how)
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))
    except (RuntimeError, CancelledError) as error:
        print(f"{type(error).__name__}: {error}\nfinished cells are kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: finished cells are kept; the same command goes on from here")
        return 130
    state = _states(cells, Claims(results))
    print(
        f"{len(finished)} cells run, {state.count('done')} of {len(cells)} finished"
        + (f", {n} failed (--retry runs them again)" if (n := state.count("failed")) else "")
        + (f", {n} in flight in another runner" if (n := state.count("to do")) else "")
    )
    return 1 if "failed" in state else 0


def _states(cells: Sequence[Cell], claims: Claims) -> list[str]:
    settled = claims.settled()
    failed = {key for key, record in settled.items() if "error" in record}
    return [
        "failed" if cell.key in failed else "done" if cell.key in settled else "to do"
        for cell in cells
    ]


def _tell(cells: Sequence[Cell], claims: Claims, one_by_one: bool, jobs: int) -> None:
    """Print the cells with their state, or what is left of them and how long it may take."""
    states = _states(cells, claims)
    if one_by_one:
        for cell, state in zip(cells, states, strict=True):
            print(f"{state:<6} {cell.key} {cell}")
    counted = ", ".join(f"{states.count(name)} {name}" for name in ("done", "failed", "to do"))
    print(f"{len(cells)} cells: {counted}")
    if not one_by_one:
        left = [cell for cell, state in zip(cells, states, strict=True) if state == "to do"]
        print(estimate(left, claims.records(), jobs))


def _names(text: str) -> list[str]:
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ibau_lab reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tables", nargs="+", choices=(*TABLES, "all"), metavar="TABLE")
    add("--profile", default="smoke", choices=PROFILES)
    add("--seeds", type=int, default=3, help="how many (3)")
    add("--networks", type=int, default=1, help="how many networks share the seeds (1)")
    add("--only", type=_names, help="only these defences, separated by commas")
    add("--attacks", type=_names, help="only these networks, separated by commas")
    add("--data", type=_names, help="only these data sets, separated by commas")
    add("--results", type=Path, default=Path("results/reproduce.jsonl"))
    add("--folder", type=Path, help="of the networks; the data's cache by default")
    add("--jobs", type=int, help="cells at a time (1; on a cluster, its size)")
    add("--scheduler", help="the address of a Dask scheduler, tcp://host:port")
    add("--gpus", action="store_true", help="a cell asks Dask for one GPU")
    add("--retry", action="store_true", help="run failed cells again")
    add("--list", action="store_true", help="print the cells, run none")
    add("--dry-run", action="store_true", help="estimate the time, run none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
