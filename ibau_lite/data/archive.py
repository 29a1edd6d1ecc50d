"""The `.npz` archive of a dataset: read without trust, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ARRAYS = ("x_train", "y_train", "x_test", "y_test")

_MOST_BYTES = 8 * 2**30  # refuse to unpack more: a small file can claim to be a huge one


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read every array of the `.npz` file at `path`, and nothing that is not a plain array.

    Raises FileNotFoundError if there is no file, and ValueError if it is no complete `.npz`
    archive, if an array is missing or holds Python objects (they are never unpickled), or if
    unpacking it would take more than 8 GiB.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f"it would unpack to {size / 2**30:.1f} GiB")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    # RuntimeError: a member is encrypted, or packed in a way that Python does not know.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        MemoryError,
        ValueError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"{path} is not a usable .npz archive (truncated, damaged, or with Python objects, "
            f"which are refused): {error}"
        ) from error
    missing = [name for name in ARRAYS if not isinstance(arrays.get(name), np.ndarray)]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it must hold {', '.join(ARRAYS)} "
            f"(images uint8 [N, H, W, C], labels integers [N]); found {sorted(arrays)}"
        )
    return arrays


def write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write `arrays` to `path` through a temporary file: a reader never meets half an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
