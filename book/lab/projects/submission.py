"""Run somebody's file: in a process of its own, with a time limit, files in and files out.

The limit is on processor seconds, in one thread: a busy machine takes longer and grades the same.
On the clock a process may take `PATIENCE` times as long: nobody waits for one that sleeps.

What the submission may see is written to `given.pt`, its answer is read from `answer.pt`, as plain
data only (`weights_only`), so that nothing of the student's runs in the grader.
"""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PATIENCE = 5


class SubmissionError(Exception):
    """A submission that cannot be graded; the message is for the student."""


def run(project: str, file: Path, given: dict[str, Any], limit: float) -> dict[str, Any]:
    """The answer of a submission to what it is `given`. Raises `SubmissionError`."""
    if not file.is_file():
        raise SubmissionError(f"{file}: there is no such file")
    with tempfile.TemporaryDirectory(prefix="ibau-submission-") as name:
        folder = Path(name)
        torch.save(given, folder / "given.pt")
        command = [sys.executable, "-m", "ibau_lab.projects.child"]
        command += [project, str(file.resolve()), str(folder), f"{limit:g}"]
        with (folder / "said").open("wb") as said:
            child = subprocess.Popen(
                command, cwd=folder, stdout=said, stderr=said, start_new_session=os.name == "posix"
            )
        try:
            child.wait(PATIENCE * limit)
        except subprocess.TimeoutExpired:
            raise SubmissionError(
                f"stopped after {PATIENCE * limit:g} s on the clock, {PATIENCE} times the limit"
            ) from None
        finally:
            _end(child)
        if child.returncode == -getattr(signal, "SIGXCPU", 0) != 0:
            raise SubmissionError(
                f"stopped after {limit:g} s of processor time, the limit: do less, or ask for more"
            )
        refused = folder / "refused"
        if refused.exists():
            raise SubmissionError(refused.read_text("utf-8"))
        try:
            answer = torch.load(folder / "answer.pt", weights_only=True)
        except FileNotFoundError:
            last = (folder / "said").read_text("utf-8", errors="replace").strip()[-600:]
            raise SubmissionError(
                f"the process ended with status {child.returncode} and without an answer: {last}"
            ) from None
        except Exception as error:
            raise SubmissionError(f"the answer cannot be read: {error}") from error
    if not isinstance(answer, dict):
        raise SubmissionError("the answer is not what the grader's own code gives")
    return answer


def limit_processor_time(seconds: float) -> None:
    """End this process after so many more seconds of processor time (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    last = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (last, last + 5))


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started."""
    if os.name == "posix":
        with_children = getattr(os, "killpg", None)
        try:
            assert with_children is not None
            with_children(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    else:
        child.kill()
    child.wait()


def load(file: Path, function: str) -> tuple[ModuleType, Callable[..., Any]]:
    """Import a submission and find its function. Raises `SubmissionError`."""
    spec = importlib.util.spec_from_file_location("submission", file)
    if spec is None or spec.loader is None:
        raise SubmissionError(f"{file.name}: a Python file, NAME.py, is expected")
    module = importlib.util.module_from_spec(spec)
    sys.modules["submission"] = module  # dataclasses look their module up
    asked(partial(spec.loader.exec_module, module), f"{file.name} cannot be imported")
    found = getattr(module, function, None)
    if not callable(found):
        raise SubmissionError(f"{file.name} does not define a function {function}")
    return module, found


def asked(call: Callable[[], Any], what: str) -> Any:
    """The result of a call into a submission; its exceptions become a `SubmissionError`."""
    try:
        return call()
    except SubmissionError:
        raise
    except NotImplementedError as error:
        raise SubmissionError(f"{what}: not written yet ({error})") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f"line {f.lineno}: {f.line}" for f in frames if "ibau_lab" not in f.filename]
        where = f" ({own[-1]})" if own else ""
        raise SubmissionError(f"{what}: {type(error).__name__}: {error}{where}") from error
