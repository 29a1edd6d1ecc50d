"""Where jobs are worked on: in this process, in several of joblib's, or on a Dask cluster.

All three are a `concurrent.futures.Executor`, so that the engine does not know which it has. (Not
`joblib.Parallel`: where a worker of a cluster is lost for good, its Dask backend waits for ever,
and where one process is killed, it does not tell which jobs were in flight.)
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from joblib.externals.loky.backend import get_context
from joblib.externals.loky.process_executor import ProcessPoolExecutor


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


def processes(jobs: int) -> Executor:
    """`jobs` fresh processes of joblib's that share the cores and end with this one.

    They are not forked, since CUDA does not survive that; all use the first GPU if there is one.
    Each reads the script that was started again, so that what it registers is there, too.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    executor: Executor = ProcessPoolExecutor(
        jobs,
        context=get_context("loky_init_main"),
        initializer=_begin,
        initargs=(threads, os.getpid()),
    )
    return executor


def stop(executor: Executor) -> None:
    """Have an executor drop what it works on; the workers of a cluster are not ours to end."""
    if isinstance(executor, ProcessPoolExecutor):
        executor.shutdown(kill_workers=True)


def _begin(threads: int, parent: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Leave when the parent is gone, which may be killed without a word."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def chosen(
    jobs: int, scheduler: str | None, *, gpus: bool = False
) -> Iterator[tuple[Callable[[], Executor], int]]:
    """(what opens an executor, number of cells at a time) for `runner.sweep`, while inside."""
    if not scheduler:
        yield Here if jobs == 1 else partial(processes, jobs), jobs
        return
    with cluster(scheduler, gpus=gpus) as (executor, room):
        yield lambda: executor, jobs or room


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
