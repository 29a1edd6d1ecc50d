"""Files at the door: only regular ones are read, whole ones are written, messages stay plain."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import reprlib
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Refused",
    "open_regular",
    "read_regular",
    "refusing",
    "replacing",
    "shown",
    "signatures",
    "sweep",
]

_SCRATCH = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)
_ABANDONED = 3600.0  # seconds; where files cannot be locked, age tells a dead writer's from others


class Refused(ValueError):
    """Why a reader does not take a file; `refusing` puts the file's name in front."""


@contextlib.contextmanager
def refusing(path: object, otherwise: str) -> Iterator[None]:
    """Turn whatever a parser raises inside into one `ValueError` that begins with the file's name.

    A `Refused` keeps its words; anything else reads "`otherwise` (kind of error: its words)". The
    error it came from is not chained: its text may be the file's own, of any length.
    """
    try:
        yield
    except Refused as error:
        raise ValueError(f"{shown(path)}: {shown(error, 2000)}") from None
    except MemoryError:
        raise ValueError(f"{shown(path)}: {otherwise} (it asks for too much memory)") from None
    except Exception as error:  # a parser's kinds of error are not to be counted
        words = f"{type(error).__name__}: {shown(error)}"
        raise ValueError(f"{shown(path)}: {otherwise} ({words})") from None


def shown(value: object, most: int = 300) -> str:
    """Give a value as text for a message: at most `most` characters, all of them printable.

    Control characters and lone surrogates are escaped, the middle of a long text is left out.
    """
    if isinstance(value, (str, Path, Exception)):
        text = str(value)
    else:
        try:
            text = reprlib.repr(value)
        except Exception:  # an integer of 5,000 digits has no repr
            text = f"a value of type {type(value).__name__}"
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in _cut(text, most)
    )
    return _cut(escaped, most)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, or a link to one, for reading, and wait for nobody.

    Raises `FileNotFoundError` as usual, and `ValueError` for a folder, a pipe, a socket, a device
    or a link to itself, before it is read (and where it can be seen before, before it is opened).
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(
                f"{shown(path)}: a regular file is expected, got a link to itself"
            ) from None
        raise
    _check_regular(path, mode)
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  (the caller closes it)
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)  # it may have been exchanged
    except ValueError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """All bytes of a regular file; raises as `open_regular`, `ValueError` for more than `most`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(most + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise ValueError(
            f"{shown(path)}: at most {most:,} bytes are read here, got {max(size, len(content)):,}"
        )
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer


def _check_regular(path: object, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    raise ValueError(f"{shown(path)}: a regular file is expected, got {kind}")


def signatures(file: BinaryIO, signature: bytes, most: int) -> int:
    """Count a byte string in a file, up to `most` + 1, and go back to the file's beginning.

    So many members a zip archive has at most, told before its directory is built in memory.
    """
    count, end = 0, b""
    while count <= most and (block := file.read(2**20)):
        block = end + block
        count += block.count(signature)
        end = block[len(block) - len(signature) + 1 :]
    file.seek(0)
    return min(count, most + 1)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` in one step, when the block ends well.

    Whoever reads `path` sees the old file or the new one, whole. The folder is made if need be, the
    new file has the mode that the umask gives, and what killed writers left in the folder is swept
    away first. Whatever the block raises leaves `path` as it was; `OSError` for a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    scratch, file = _scratch(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # while it is locked, so that nobody sweeps it away
                os.replace(scratch, path)
        if fcntl is None:  # Windows moves closed files only
            os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the half-written files of writers that were killed; a living writer's are locked."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if _SCRATCH.fullmatch(entry.name)]
        for path in left:
            with contextlib.suppress(OSError, ValueError):
                _remove_abandoned(path)


def _scratch(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        scratch = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        file = open(scratch, "xb")  # noqa: SIM115  (the caller closes it)
        if fcntl is None:
            return scratch, file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if scratch.exists():
            return scratch, file
        file.close()  # a sweeper came between the making and the locking


def _remove_abandoned(path: str) -> None:
    with open_regular(path) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its writer lives
        elif time.time() - os.fstat(file.fileno()).st_mtime < _ABANDONED:
            return
        if fcntl is not None:
            os.unlink(path)
    if fcntl is None:
        os.unlink(path)
