"""Any dataset in one `.npz` archive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ibau_lite.data import archive, class_names
from ibau_lite.data.halves import Halves
from ibau_lite.data.labelled import Dataset
from ibau_lite.data.splits import Sizes, split
from ibau_lite.files import shown


def load_npz(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    clean: int | None = None,
    validation: int | None = None,
    train: int | None = None,
    test: int | None = None,
) -> Dataset:
    """Load the archive at `path`, named after the file, and split it as `load` does.

    The archive holds x_train, x_test (uint8 [N, H, W, C], C = 1 or 3) and y_train, y_test (integers
    [N]). It may hold `class_names` (K strings) and `source` (one string: where the images are
    from). Objects in it are never unpickled. Of labels without names at most 100,000 classes are
    read. In memory the images take four bytes a number. `archive.read` says how large a packed file
    may become and what is checked in which order. Raises `FileNotFoundError` if there is no file.
    Raises `ValueError`, with the name of the array, for an archive that is damaged, has another
    form, or has too few images for the sizes asked for.

    >>> import pathlib, tempfile
    >>> arrays = {"x_train": np.zeros((20, 8, 8, 1), np.uint8), "y_train": np.arange(20) % 2}
    >>> arrays |= {"x_test": arrays["x_train"], "y_test": arrays["y_train"]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(path := pathlib.Path(folder) / "black.npz", **arrays)
    ...     len(load_npz(path, clean=5, validation=5).test)
    10
    """
    path = Path(path)
    halves = read_halves(path, path.stem)
    sizes = Sizes.with_defaults(path.stem, len(halves.x_test), clean, validation, train, test)
    return split(path.stem, halves, sizes, seed)


def read_halves(path: Path, name: str) -> Halves:
    """The two halves in the archive at `path`; format and errors are those of `load_npz`."""
    arrays = archive.read(path)
    source = arrays.get("source")
    stated = source is not None and source.dtype.kind == "U" and source.ndim == 0 and str(source)
    origin = stated or f"{name} (npz {path.name})"
    try:
        x_train, y_train, x_test, y_test = (cast(Any, arrays[key]) for key in archive.ARRAYS)
        names = _class_names(arrays, name)
        return Halves(x_train, y_train, x_test, y_test, names, origin)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def write_halves(path: Path, halves: Halves) -> None:
    """Write `halves` so that `read_halves` gives them back, as a whole or not at all."""
    archive.write(path, {
        "x_train": halves.x_train, "y_train": halves.y_train,
        "x_test": halves.x_test, "y_test": halves.y_test,
        "class_names": np.array(halves.class_names), "source": np.array(halves.source),
    })  # fmt: skip


def _class_names(arrays: dict[str, NDArray[np.generic]], name: str) -> tuple[str, ...]:
    """Stored names, else those of a dataset that is known by name, else a number for each class."""
    stored = arrays.get("class_names")
    if stored is not None:
        if stored.dtype.kind != "U" or stored.ndim != 1:
            raise ValueError(
                f"class_names must be a list of strings, got {stored.dtype} {list(stored.shape)}"
            )
        return class_names.printable(stored)
    if name in class_names.KNOWN:
        return class_names.KNOWN[name]
    labels = [arrays[key] for key in ("y_train", "y_test")]
    counts = [int(y.max()) + 1 for y in labels if y.dtype.kind in "iu" and y.size]
    return class_names.numbered(max(counts, default=0))
