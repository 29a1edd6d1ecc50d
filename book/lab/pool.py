"""Where cells are worked on: in this process, in several, or on a Dask cluster.

All three are a `concurrent.futures.Executor`, so that the runner does not know which it has.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

__all__ = ["Here", "Processes", "cluster", "stop"]


class Here(Executor):
    """Does each job at once, in this process: Ctrl-C reaches it, and nothing is started."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        """Call the function now; the future that is returned is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future


class Processes(ProcessPoolExecutor):
    """`jobs` fresh processes that share the cores and end with this one.

    They are spawned, since CUDA does not survive a fork; all use the first GPU if there is one.
    Each holds one end of a line to this process, and leaves when the other is closed.
    """

    def __init__(self, jobs: int) -> None:
        context = multiprocessing.get_context("spawn")
        theirs, self._line = context.Pipe(duplex=False)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        super().__init__(jobs, mp_context=context, initializer=_begin, initargs=(threads, theirs))

    def end(self) -> None:
        """Have them leave at once, whatever they are doing, and wait until they have."""
        self._line.close()
        self.shutdown(cancel_futures=True)


def stop(executor: Executor) -> None:
    """Have an executor drop what it works on; the workers of a cluster are not ours to end."""
    if isinstance(executor, Processes):
        executor.end()


def _begin(threads: int, line: Connection) -> None:
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        ends = [parent.sentinel, line]
        threading.Thread(target=_end_with, args=(ends,), daemon=True).start()


def _end_with(ends: list[int | Connection]) -> None:
    """Leave when the parent is gone, which may be killed without a word, or closes the line."""
    wait(ends)
    os._exit(1)


@contextmanager
def cluster(address: str, *, gpus: bool = False) -> Iterator[tuple[Executor, int]]:
    """(executor, number of cells at a time) of the Dask scheduler at `address`, while inside.

    With `gpus` a cell asks for one unit of the resource GPU, which workers declare
    (`dask worker … --resources GPU=1`); else each worker thread takes a cell. The networks' folder
    must be one that all workers see, or each trains its own; `IBAU_DATA` too.

    One worker a GPU::

        dask scheduler &
        CUDA_VISIBLE_DEVICES=0 dask worker tcp://HOST:8786 --nthreads 1 --resources GPU=1 &
        CUDA_VISIBLE_DEVICES=1 dask worker tcp://HOST:8786 --nthreads 1 --resources GPU=1 &

    On Slurm, with dask-jobqueue, in a Python that stays open::

        from dask_jobqueue import SLURMCluster
        cluster = SLURMCluster(
            queue="gpu", cores=1, processes=1, memory="16GB", walltime="04:00:00",
            job_extra_directives=["--gres=gpu:1"], worker_extra_args=["--resources GPU=1"],
        )
        cluster.scale(jobs=8)
        print(cluster.scheduler_address)   # for --scheduler; say --jobs 8 if they still queue

    Raises `ImportError` without Dask (the extra `scale`), `ConnectionError` if nothing answers,
    `ValueError` for `gpus` where there are workers and none declares any: cells would wait forever.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError(
            '--scheduler needs Dask: pip install "ibau_lite[scale]"; on one machine --jobs does '
            "without"
        ) from error
    try:
        client = distributed.Client(address)
    except OSError as error:
        raise ConnectionError(
            f"--scheduler: no Dask scheduler answers at {address}; `dask scheduler` starts one"
        ) from error
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if gpus and workers and not any(worker["resources"].get("GPU") for worker in workers):
            raise ValueError(
                f"--gpus: none of the {len(workers)} workers at {address} declares a GPU; "
                "start them with `dask worker … --resources GPU=1`"
            )
        places = sum(
            int(worker["resources"].get("GPU", 0)) if gpus else worker["nthreads"]
            for worker in workers
        )
        # Not pure: the same call is another attempt, not a result that may be remembered.
        wanted: dict[str, Any] = {"resources": {"GPU": 1}} if gpus else {}
        yield client.get_executor(pure=False, retries=0, **wanted), max(1, places)
