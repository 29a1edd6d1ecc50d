"""Run chapters: each by papermill, in a kernel and a fresh folder of its own.

What runs is the page that `portable` makes of the committed notebook: solutions are cells there.

`make book` and `make test` both come through `run`. The tests run every chapter each time and keep
the results; the book takes a kept result only while everything that it depends on is unchanged.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import portable
import status

BOOK = Path(__file__).resolve().parents[1]
ROOT = BOOK.parent
KEPT = ROOT / "_build" / "executed"
TIMEOUT = {"smoke": 600.0, "cpu": 3 * 3600.0, "full": float("inf")}  # seconds on the clock
POLL_SECONDS = 0.5


class ChapterError(RuntimeError):
    """A chapter stopped with an exception or ran out of time; the message says where and why."""


def find() -> list[Path]:
    """The notebooks of the book, in order of their names."""
    return sorted(BOOK.glob("*.ipynb"))


def kept(chapter: Path, profile: str) -> Path | None:
    """The kept result of `chapter`, if nothing that it depends on has changed since it was run."""
    path = _kept_path(chapter, profile)
    return path if path.exists() else None


def run(chapter: Path, profile: str, progress: Callable[[int], None] = lambda cells: None) -> Path:
    """Execute `chapter` in `profile`, keep the result and return its path.

    The kernel starts in a fresh folder that holds nothing but a copy of `book/results/`. In `smoke`
    it has one thread and does not see `IBAU_DATA`, so that the page does not depend on the machine.
    `progress` is called with the number of cells finished so far, a few times a second.
    Raises ValueError if there is no such profile, ChapterError if a cell raises or time runs out.
    """
    if profile not in TIMEOUT:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(TIMEOUT)}")
    target = _kept_path(chapter, profile)
    importlib.import_module("matplotlib.font_manager")  # its first import talks: not in the page
    with tempfile.TemporaryDirectory(prefix=f"ibau-{chapter.stem}-") as scratch:
        executed = _execute(chapter, profile, Path(scratch), progress)
        KEPT.mkdir(parents=True, exist_ok=True)
        for stale in KEPT.glob(f"{chapter.stem}.{profile}.*"):
            stale.unlink(missing_ok=True)
        partial = target.with_suffix(".partial")
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        notebook["metadata"]["run"] = status.here()  # printed on the status page
        partial.write_text(json.dumps(notebook), encoding="utf-8")
        os.replace(partial, target)  # a reader never meets half a notebook
    return target


def _execute(chapter: Path, profile: str, scratch: Path, progress: Callable[[int], None]) -> Path:
    folder, output, log = scratch / "folder", scratch / "executed.ipynb", scratch / "log"
    source = scratch / chapter.name
    page = portable.page(json.loads(chapter.read_text(encoding="utf-8")))
    source.write_text(json.dumps(page), encoding="utf-8")
    folder.mkdir()
    if (BOOK / "results").is_dir():
        shutil.copytree(BOOK / "results", folder / "results")
    command = [sys.executable, "-m", "papermill", str(source), str(output), "--cwd", str(folder)]
    command += ["-p", "profile", profile, "-k", "python3", "-l", "python"]
    command += ["--no-progress-bar"]
    deadline = time.monotonic() + TIMEOUT[profile]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=_environment(profile, scratch), stdout=stream, stderr=stream
        )
    try:
        while process.poll() is None:
            progress(_finished_cells(output))
            if time.monotonic() > deadline:
                raise ChapterError(f"{chapter.name} ran for more than {TIMEOUT[profile]:.0f} s")
            time.sleep(POLL_SECONDS)
    finally:
        process.terminate()  # does nothing to a process that has ended
        process.wait()
    progress(_finished_cells(output))
    if process.returncode:
        report = log.read_text(errors="replace").strip()
        raise ChapterError(f"{chapter.name} failed in profile {profile}:\n{report[-6000:]}")
    return output


def _environment(profile: str, scratch: Path) -> dict[str, str]:
    """The variables that a kernel sees: the reader's own, less what would change a page."""
    environment = dict(os.environ)
    environment.pop("MPLBACKEND", None)  # the notebook's own backend draws into the page
    environment["IPYTHONDIR"] = str(scratch / "ipython")  # no startup files of this user
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # silences the kernel's debugger
    if profile == "smoke":
        environment.pop("IBAU_DATA", None)
        environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return environment


def _finished_cells(output: Path) -> int:
    """How many cells papermill has finished in the notebook that it is still writing."""
    try:
        cells = json.loads(output.read_text(encoding="utf-8"))["cells"]
    except (FileNotFoundError, ValueError):  # not there yet, or half written
        return 0
    states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
    return sum(state in ("completed", "failed") for state in states)


def _kept_path(chapter: Path, profile: str) -> Path:
    """Where a result is kept: its name carries a digest of all that the result depends on."""
    digest = hashlib.sha256()
    for part in _ingredients(chapter):
        digest.update(hashlib.sha256(part).digest())
    return KEPT / f"{chapter.stem}.{profile}.{digest.hexdigest()[:16]}.ipynb"


def _ingredients(chapter: Path) -> Iterator[bytes]:
    files = [chapter, BOOK / "references.bib", Path(__file__), Path(portable.__file__)]
    files += (BOOK / "results").rglob("*")
    for sources in (ROOT / "ibau_lite", ROOT / "theory", BOOK / "lab"):
        files += sources.rglob("*.py")
    for path in sorted(file for file in files if file.is_file()):
        yield path.name.encode()
        yield path.read_bytes()
    yield sys.version.encode()
    installed = {f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}
    yield "\n".join(sorted(installed)).encode()
