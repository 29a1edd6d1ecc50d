"""Records: one JSON line a finished cell, with everything needed to believe it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ibau_lite
from ibau_lite.data import LabelledImages
from ibau_lite.streams import VERSION

Record = Mapping[str, Any]
Records = Iterable[Record]


def fingerprint(*parts: LabelledImages) -> str:
    """Twelve hexadecimal digits that stand for the images and labels, in their order.

    SHA-256 of all labels and of every fourth pixel in each direction: enough to tell one random
    subset from another, and quick on 50,000 images.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{list(part.images.shape)}".encode())
        digest.update(part.images[:, :, ::4, ::4].contiguous().cpu().numpy().data)
        digest.update(part.labels.contiguous().cpu().numpy().data)
    return digest.hexdigest()[:12]


def weights_digest(model: nn.Module) -> str:
    """Twelve hexadecimal digits that stand for the network's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def key_of(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for settings (JSON), whatever the order of their names.

    The first of SHA-256: the same in every process and on every machine.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def provenance() -> dict[str, Any]:
    """When, with which versions and on which hardware this process computes."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "ibau_lite": ibau_lite.__version__,
            "code": _CODE,
            "streams": VERSION,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "hardware": {"device": device, "threads": torch.get_num_threads()},
    }


def _code() -> str:
    """The commit that the source files are of; a digest of the files where they are of none.

    "commit 0123456789ab", "changed from commit 0123456789ab, files ba9876543210", or outside a git
    checkout "files ba9876543210".
    """
    roots = Path(ibau_lite.__file__).parent, Path(__file__).parent
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    files = f"files {digest.hexdigest()[:12]}"
    try:
        for root in roots:  # a checkout of this project, not one that it was installed into
            _git(root, "ls-files", "--error-unmatch", "__init__.py")
        commit = f"commit {_git(roots[0], 'rev-parse', 'HEAD')[:12]}"
        changed = "".join(_git(root, "status", "--porcelain", "--", ".") for root in roots)
    except (OSError, subprocess.SubprocessError):
        return files
    return f"changed from {commit}, {files}" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return run.stdout.strip()


_CODE = _code()  # of the files as they were imported: they may change under a long run


def _processor() -> str:
    """The processor's name as the system tells it; its architecture where it does not."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device(record: Record) -> str:
    """The GPU that a record was made on, or the processor."""
    return str(record["hardware"]["device"])


def usual_device(records: Records) -> str | None:
    """The `device` that most of these records were made on; None for none."""
    used = Counter(map(device, records)).most_common(1)
    return used[0][0] if used else None


def append(path: str | Path, record: Record) -> None:
    """Add one line to a JSON Lines file: a single write, so that two writers never mix.

    A line that was cut short by a crash is closed first, so that it does not swallow this one.
    Raises `ValueError` for a record that is not JSON (a tensor, NaN), before the file is touched,
    and `OSError` if the line could not be written as a whole.
    """
    try:
        line = json.dumps(record, allow_nan=False) + "\n"  # ASCII: any text, whole or cut
    except (TypeError, ValueError) as error:
        raise ValueError(f"a record holds JSON only: {error}") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        if (end := file.seek(0, os.SEEK_END)) and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = "\n" + line
        content = line.encode()
        if file.write(content) != len(content):
            raise OSError(f"{path}: the record was not written as a whole; is the disk full?")
        os.fsync(file.fileno())


def read(path: str | Path, *, cut: bool = False) -> list[dict[str, Any]]:
    """All records of a file, in the order they were finished; none where there is no file.

    Raises `ValueError` that names the line which is no record: not a JSON object, or one whose
    `cell` is none. With `cut`, such a line, which a crash may leave, is passed over with a warning.
    """
    path = Path(path)
    if not path.exists() or not path.stat().st_size:
        return []
    records = []
    # Not splitlines(): a string in a record may hold other line separators of Unicode.
    for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), 1):
        if not line:  # two writers may both have closed a line that a third was still writing
            continue
        where = f"{path}, line {number}"
        try:
            records.append(_parsed(line, where))
        except ValueError:
            if not cut:
                raise
            lost = f"{where}: was cut short, or is no record; its cell is lost"
            warnings.warn(lost, stacklevel=2)
    return records


def read_line(path: str | Path, number: int) -> dict[str, Any]:
    """The record in one line of a file, counted from 1; raises `ValueError` where there is none."""
    lines = Path(path).read_bytes().split(b"\n")
    if not 0 < number <= len(lines) or not lines[number - 1]:
        raise ValueError(f"{path} has no record in line {number}")
    return _parsed(lines[number - 1], f"{path}, line {number}")


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, cut inside a character, too deep
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("cell", {}), dict):
        got = str(record)[:100]
        raise ValueError(f"{where}: an object is expected, and so of its cell, got {got}")
    return record
