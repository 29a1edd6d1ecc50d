"""The runner on tiny networks: killed and resumed, twice at once, with cells that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ibau_lab import __main__ as command_line
from ibau_lab import places, provenance, read, work
from ibau_lab.engine import Claims, Job, NeedFailed, resume
from ibau_lab.estimate import estimate
from ibau_lab.plan import Case, Cell, plan
from ibau_lab.runner import job, sweep
from ibau_lite.defenses import REGISTRY

pytestmark = pytest.mark.filterwarnings("ignore:the model reads:UserWarning")

TINY = Path(__file__).with_name("tiny.py")
TIMES = {
    "date", "seconds", "cpu_seconds", "cell_seconds", "network_seconds", "waited_seconds",
    "warm_up_seconds", "elapsed",
}  # fmt: skip


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(TINY), "reproduce", "table1", "table5", "--only", "ft,nad"]
    command += ["--seeds", "2", "--results", str(folder / "r.jsonl"), "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [*command, *more], env=environment, stdout=quiet, stderr=quiet,
        # A shell's background job, which these tests may be, hands on that SIGINT is ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for_lines(path: Path, count: int) -> None:
    for _ in range(6000):
        if path.exists() and path.read_text(encoding="utf-8").count("\n") >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"{path} has not got {count} lines in five minutes")


def keys(path: Path) -> Counter[str]:
    return Counter(record["cell"]["key"] for record in read(path))


def planned() -> list[Cell]:
    """What `start` runs; made anew in each test, since a key is that of the settings there are."""
    return plan(["table1", "table5"], "smoke", seeds=2, only=["ft", "nad"])


def all_once() -> Counter[str]:
    return Counter(cell.key for cell in planned())


def test_every_cell_is_run_once_and_every_network_trained_once(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    finished = sweep(planned(), path, folder=tmp_path)
    assert keys(path) == all_once() and len(finished) == 16
    assert tiny.read_text() == "trained\n" * 2
    assert sweep(planned(), path, folder=tmp_path) == []
    one = next(r for r in read(path) if r["cell"]["clean"] == 100 and r["cell"]["seed"] == 1)
    assert one["settings"]["clean"]["count"] == 100 and one["settings"]["seed"] == 1
    assert one["found"] is None and one["jobs"] == 1 and one["warm_up_seconds"] > 0
    assert one["history"][-1]["elapsed"] <= one["cell_seconds"]
    assert not list(tmp_path.glob(".r.jsonl.claims"))


def stopped(folder: Path, by: signal.Signals, lines: int) -> int:
    """Send two jobs a signal in the middle of their work: the status, when all are gone."""
    psutil = pytest.importorskip("psutil")
    process = start(folder, "--jobs", "2")
    try:
        wait_for_lines(folder / "r.jsonl", lines)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(by)
        status = process.wait(120)
    finally:
        process.kill()
    assert len(children) >= 2
    assert not psutil.wait_procs(children, timeout=60)[1], "orphans go on working"
    assert lines <= len(read(folder / "r.jsonl")) < 16, "it was not stopped in the middle"
    return status


def test_killed_and_resumed_every_cell_is_there_exactly_once(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    stopped(tmp_path, signal.SIGKILL, 2)
    before = read(path)
    assert {record["jobs"] for record in before} == {2}
    finished = sweep(planned(), path, folder=tmp_path)
    assert len(finished) == 16 - len(before)
    assert keys(path) == all_once()
    assert read(path)[: len(before)] == before


def test_interrupted_it_ends_what_it_works_on_before_others_may_take_it(
    tiny: Path, tmp_path: Path
) -> None:
    """By a signal to the runner alone, as a notebook sends it; a terminal's reaches the workers."""
    assert stopped(tmp_path, signal.SIGINT, 1) == 130
    assert not list(tmp_path.glob(".r.jsonl.claims/*"))


ASLEEP = """
import os, time
from ibau_lab import places
if __name__ == "__main__":
    executor = places.processes(2)
    for worker in [executor.submit(os.getpid) for _ in range(2)]:
        worker.result()
    flights = [executor.submit(time.sleep, 300) for _ in range(2)]
    print("asleep", flush=True)
    time.sleep(300)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    script = tmp_path / "asleep.py"
    script.write_text(ASLEEP, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline() == b"asleep\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert sum("popen_loky" in " ".join(each.cmdline()) for each in children) == 2
    finally:
        parent.kill()  # SIGKILL: it cannot tell anybody
        parent.wait()
    assert not psutil.wait_procs(children, timeout=60)[1], "orphans go on working"


def test_a_pool_is_stopped_in_the_middle_of_its_work() -> None:
    executor = places.processes(2)
    flights = [executor.submit(time.sleep, 300) for _ in range(2)]
    while not all(flight.running() for flight in flights):
        time.sleep(0.05)
    began = time.monotonic()
    places.stop(executor)
    assert time.monotonic() - began < 60
    assert all(flight.done() for flight in flights)


def test_two_runners_share_the_cells_and_the_networks(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    other = start(tmp_path)
    try:
        wait_for_lines(path, 1)
        ours = sweep(planned(), path, folder=tmp_path)
    finally:
        assert other.wait(300) == 0
    assert keys(path) == all_once()
    assert 0 < len(ours) < 16
    assert tiny.read_text() == "trained\n" * 2


def test_a_failing_cell_is_recorded_and_is_run_again_when_asked_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table1", "--only", "fp,ft", "--seeds", "1", "--attacks", "badnets"]
    command += ["--results", str(tmp_path / "r.jsonl"), "--folder", str(tmp_path)]
    assert command_line.main(command) == 1
    assert "2 cells run, 1 of 2 finished, 1 failed (--retry runs" in capsys.readouterr().out
    done, failed = read(tmp_path / "r.jsonl")
    assert (done["cell"]["defense"], failed["cell"]["defense"]) == ("ft", "fp")
    assert failed["error"].startswith("TypeError: config must be a FinePruningConfig")
    assert command_line.main(command) == 1
    assert "0 cells run" in capsys.readouterr().out
    monkeypatch.setitem(REGISTRY, "fine_pruning", REGISTRY["fine_tuning"])
    assert command_line.main([*command, "--retry"]) == 0
    assert "1 cells run, 2 of 2 finished" in capsys.readouterr().out
    assert len(read(tmp_path / "r.jsonl")) == 3
    assert command_line.main([*command, "--retry"]) == 0  # what succeeded is not run again
    assert "0 cells run, 2 of 2 finished" in capsys.readouterr().out


def test_list_and_dry_run_tell_without_running(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "r.jsonl"
    command = ["reproduce", "table1", "--only", "ft,nad", "--seeds", "1", "--results", str(path)]
    assert command_line.main([*command, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].startswith("to do  ") and "signs badnets" in lines[0]
    assert lines[-1] == "4 cells: 0 done, 0 failed, 4 to do"
    assert command_line.main([*command, "--dry-run"]) == 0
    assert "2 × ? (none is recorded in profile smoke)" in capsys.readouterr().out
    assert not path.parent.exists() and not tiny.exists()

    sweep(plan(["table1"], only=["ft"], seeds=1, attacks=["badnets"]), path, folder=tmp_path)
    (record,) = read(path)
    assert command_line.main([*command, "--dry-run", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "4 cells: 1 done, 0 failed, 3 to do" in out
    assert f"signs    ft           1 × {record['cell_seconds']:.0f} s" in out
    assert "signs    nad          2 × ?" in out
    trained = record["network_seconds"]
    assert trained > 0 and f"signs    networks     1 × {trained:.0f} s" in out
    assert out.endswith("h with 2 at a time, and 2 cells of unknown length\n")
    assert command_line.main([*command, "--list"]) == 0
    assert capsys.readouterr().out.startswith("done   ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table7"], "invalid choice: 'table7'"),
        (["table1", "--profile", "huge"], "invalid choice: 'huge'"),
        (["table1", "--only", "prayer"], "defence: among ibau, "),
        (["table1", "--attacks", "sunset"], "attack: among "),
        (["table1", "--data", "cifar10"], "data: among signs"),
        (["table1", "--seeds", "0"], "at least 1 is expected, got 0"),
        (["table1", "--jobs", "0"], "jobs: at least 1 is expected, got 0"),
        (["table1", "--only", ""], "defence: among ibau, "),
        (["table1", "--gpus"], "gpus: is for a Dask cluster"),
    ],
)
def test_wrong_inputs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["reproduce", *arguments, "--results", str(tmp_path / "r.jsonl")])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_results_that_cannot_be_written_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "r.jsonl"
    for path, how in ((tmp_path, []), (tmp_path, ["--dry-run"]), (inside, [])):
        with pytest.raises(SystemExit):
            command_line.main(["reproduce", "table1", "--results", str(path), *how])
        assert str(tmp_path) in capsys.readouterr().err


def test_an_estimate_knows_this_machine_and_the_networks_that_need_no_training() -> None:
    cells = plan(["table1"], "cpu", seeds=1, only=["ft"])
    assert "networks" not in estimate(cells, [])
    elsewhere = {
        "cell": {"key": cells[0].key, **cells[0].told}, "cell_seconds": 1800.0,
        "network_seconds": 0.0, "hardware": {"device": "abacus"},
    }  # fmt: skip
    assert "ft           8 × 1800 s = 4.00 h on abacus" in estimate(cells, [elsewhere])
    near = {**elsewhere, "cell_seconds": 9.0, **provenance()}
    assert "ft           8 × 9 s = 0.02 h\n" in estimate(cells, [elsewhere, elsewhere, near])
    anew = plan(["table1"], "cpu", seeds=2, networks=2, only=["ft"])
    text = estimate(anew, [elsewhere])
    assert "cifar10  networks     8 × ? (no training is recorded" in text


def fake(cell: Cell) -> dict[str, Any]:
    return {"cell": {"key": cell.key}, "found": None}


def jobs(cells: Sequence[Cell], work_: Callable[[Cell], dict[str, Any]] = fake) -> list[Job]:
    return [replace(job(cell), make=partial(work_, cell)) for cell in cells]


def test_a_record_that_is_not_json_is_a_failed_cell(tmp_path: Path) -> None:
    cells = plan(["table1"], "smoke", seeds=1, only=["ft", "nad"])

    def odd(cell: Cell) -> dict[str, Any]:
        return {**fake(cell), "history": {1, 2} if cell.defense == "nad" else []}

    records = list(resume(jobs(cells, odd), Claims(tmp_path / "r.jsonl")))
    assert [r["cell"]["key"] for r in read(tmp_path / "r.jsonl")] == [c.key for c in cells]
    failed = [record for record in records if "error" in record]
    assert len(failed) == 2 and "ValueError: a record holds JSON only" in failed[0]["error"]


def test_a_network_that_is_being_made_is_not_waited_for(tmp_path: Path) -> None:
    """Cells that need what another makes stay back; the others take the places."""
    cells = plan(["table1"], "full", seeds=1, only=["ibau", "ft"])
    lock, flying, made, first = threading.Lock(), [], set(), threading.Barrier(4)

    def slow(cell: Cell) -> dict[str, Any]:
        with lock:
            for other in flying:
                assert not (other.needs & cell.needs) - made, f"{cell} waits for {other}"
            flying.append(cell)
        if not made:
            first.wait(30)  # four different networks are made at once
        with lock:
            flying.remove(cell)
            made.update(cell.needs)
        return fake(cell)

    claims = Claims(tmp_path / "r.jsonl")
    records = list(resume(jobs(cells, slow), claims, 4, lambda: ThreadPoolExecutor(4)))
    assert {r["cell"]["key"] for r in records} == {cell.key for cell in cells}
    assert not [r for r in records if "error" in r]


def test_a_network_that_cannot_be_made_is_tried_once(tmp_path: Path) -> None:
    cells = plan(["table1"], "full", seeds=1, only=["ibau", "ft"], attacks=["badnets", "blend"])
    tried = []

    def work_(cell: Cell) -> dict[str, Any]:
        tried.append(cell.case.network)
        if cell.case.network == "badnets":
            raise NeedFailed("badnets: MemoryError: no")
        return fake(cell)

    records = list(resume(jobs(cells, work_), Claims(tmp_path / "r.jsonl")))
    assert Counter(tried) == {"badnets": 1, "blend": 2}
    assert sum("NeedFailed: badnets: MemoryError" in r.get("error", "") for r in records) == 2


class Fragile(Executor):
    """A pool of which a process is killed in its first job; unusable from then on."""

    def __init__(self) -> None:
        self.broken = False

    def submit(self, function: Any, /, *args: Any, **keywords: Any) -> Future[Any]:
        if self.broken:
            raise BrokenProcessPool("the pool is not usable any more")
        self.broken = True
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
        return future


def test_a_process_that_is_killed_costs_its_cell_only(tmp_path: Path) -> None:
    cells = plan(["table1"], "smoke", seeds=1, only=["ft", "nad"])
    pools = [Fragile(), places.Here()]
    claims = Claims(tmp_path / "r.jsonl")
    records = list(resume(jobs(cells), claims, 1, lambda: pools.pop(0)))
    assert ["error" in record for record in records] == [True, False, False, False]
    assert not pools


def test_processes_that_are_always_killed_stop_the_sweep(tmp_path: Path) -> None:
    cells = plan(["table1"], "smoke", seeds=1)
    with pytest.raises(RuntimeError, match="three times in a row .* fewer --jobs"):
        list(resume(jobs(cells), Claims(tmp_path / "r.jsonl"), 1, Fragile))
    assert len(read(tmp_path / "r.jsonl")) == 3
    assert not list(tmp_path.glob(".r.jsonl.claims"))


def test_claims_keep_two_runners_apart_and_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    one, two = Claims(path), Claims(path)
    assert one.take("a") and not two.take("a") and two.take("b")
    one.settle("a", {"cell": {"key": "a"}})
    assert not two.take("a"), "it was finished meanwhile"
    two.give_back()
    assert one.take("b")
    one.settle("b", {"cell": {"key": "b"}, "error": "no"})
    assert not two.take("b"), "it failed, which settles it"
    again = Claims(path, retry=True)
    assert not again.take("a") and again.take("b")
    again.settle("b", {"cell": {"key": "b"}, "error": "no"})
    assert not again.take("b"), "it failed once more, here"
    assert list(two.settled()) == ["a", "b"]
    again.give_back()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".r.jsonl.lock", "r.jsonl"]


def test_a_line_that_was_cut_short_costs_its_cell_only(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"cell": {"key": "a"}}\n{"cell": {"key": "b", "da', encoding="utf-8")
    claims = Claims(path)
    with pytest.warns(UserWarning, match="line 2: was cut short"):
        assert not claims.take("a") and claims.take("b")
        claims.settle("b", {"cell": {"key": "b"}})
        assert set(claims.settled()) == {"a", "b"}


def timeless(value: Any) -> Any:
    """A record without its times; five digits, as a sum's last bit depends on memory alignment."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMES}
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_a_dask_cluster_gives_the_same_records(tiny: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    cells = plan(["table1"], "smoke", seeds=2, only=["ibau", "ft", "fp"])
    sweep(cells, here, folder=tmp_path)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None,
        resources={"GPU": 1}, silence_logs=50,
    ) as cluster:  # fmt: skip
        sweep(cells[:6], there, folder=tmp_path, scheduler=cluster.scheduler_address, jobs=0)
        sweep(cells, there, folder=tmp_path, scheduler=cluster.scheduler_address, jobs=0, gpus=True)
    ours = {r["cell"]["key"]: timeless(r) for r in read(here)}
    theirs = {r["cell"]["key"]: timeless(r) for r in read(there)}
    assert len(ours) == 12 and json.dumps(ours, sort_keys=True) == json.dumps(
        theirs, sort_keys=True
    )
    assert sum("error" in record for record in theirs.values()) == 4


def test_a_cell_that_asks_for_a_gpu_goes_where_one_is_declared() -> None:
    distributed = pytest.importorskip("distributed")
    workers = {
        name: {"cls": distributed.Worker, "options": {"nthreads": 1, "resources": resources}}
        for name, resources in (("plain", {}), ("gpu", {"GPU": 1}))
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": None, "port": 0}}

    def where() -> str:
        time.sleep(0.05)
        return str(distributed.get_worker().name)

    with distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as cluster:
        address = cluster.scheduler_address
        with places.cluster(address) as (executor, room):
            assert room == 2
        with places.cluster(address, gpus=True) as (executor, room):
            assert room == 1
            there = {executor.submit(where) for _ in range(8)}
            assert {future.result(30) for future in there} == {"gpu"}
    del workers["gpu"]
    with (
        distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as cluster,
        pytest.raises(ValueError, match="none of the 1 workers .* declares a GPU"),
        places.cluster(cluster.scheduler_address, gpus=True),
    ):
        pass


def test_a_cluster_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table1", "--scheduler", "tcp://127.0.0.1:9"]
    command += ["--results", str(tmp_path / "r.jsonl")]
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit):
        command_line.main(command)
    assert 'pip install "ibau_lite[scale]"' in capsys.readouterr().err


def test_a_record_of_a_failure_names_the_cell() -> None:
    cell = Cell(Case("signs", "blend", 0.2, 800), "ft", 0, "smoke")
    record = work.failure(cell, ValueError("why"))
    assert record["error"] == "ValueError: why" and record["cell"]["attack"] == "blend"
    assert record["versions"]["code"] and record["date"]
