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
    [N]); it may hold `class_names` (K strings) and `source` (one string: where the images are
    from). Objects in it are never unpickled. Of labels without names at most 100,000 classes are
    read. In memory the images take four bytes a number; how large a packed file may be when it is
    unpacked, and what is checked in which order, stands in `archive.read`. Raises
    FileNotFoundError if there is no file, and ValueError, naming the array, for an archive that is
    damaged or does not look like this, or that has too few images for the sizes asked for.
    """
    path = Path(path)
    halves = read_halves(path, path.stem)
    sizes = Sizes.with_defaults(path.stem, len(halves.x_test), clean, validation, train, test)
    return split(path.stem, halves, sizes, seed)


def read_halves(path: Path, name: str) -> Halves:
    """The two halves in the archive at `path`; raises as `load_npz`, which explains the format."""
    arrays = archive.read(path)
    source = arrays.get("source")
    one = source is not None and source.dtype.kind == "U" and source.ndim == 0
    said = str(source) if one else ""
    try:
        x_train, y_train, x_test, y_test = (cast(Any, arrays[key]) for key in archive.ARRAYS)
        names = _class_names(arrays, name)
        return Halves(x_train, y_train, x_test, y_test, names, said or f"{name} (npz {path.name})")
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def write_halves(path: Path, halves: Halves) -> None:
    """Write `halves` so that `read_halves` gives them back, whole or not at all."""
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
