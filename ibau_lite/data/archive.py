"""The `.npz` archive of a dataset: read without trust, written whole or not at all."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibau_lite.files import Refused, open_regular, refusing, replacing, shown, signatures

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
WORDS = ("class_names", "source")

_MOST_MEMBERS = 1000
_MOST_BYTES = 8 * 2**30  # unpacked; and of a packed archive no more than
_FREE, _RATIO = 64 * 2**20, 20  # so many bytes, and so many for each byte of the file


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the arrays named in `ARRAYS` and `WORDS` of the `.npz` file at `path`, and no others.

    What is checked, in this order, each before memory is taken for the next: that it is a regular
    file of at most 8 GiB; that it has at most 1,000 members, stored or deflated; that they unpack
    to at most 64 MiB and 20 times the file (a file that is not packed always does), and to 8 GiB;
    that each array is as large as its header says and holds no Python objects, which are never
    unpickled.

    Raises FileNotFoundError if there is no file, and ValueError if one of these fails, or if an
    array of `ARRAYS` is missing.
    """
    try:
        file = open_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"there is no file {shown(path)}") from error
    with file, refusing(path, "not a usable .npz archive (truncated, damaged, or none at all)"):
        packed = os.fstat(file.fileno()).st_size
        if packed > _MOST_BYTES:
            raise Refused(f"a file of at most {_MOST_BYTES / 2**30:.0f} GiB is expected")
        if signatures(file, b"PK\x01\x02", _MOST_MEMBERS) > _MOST_MEMBERS:
            raise Refused(f"an archive of at most {_MOST_MEMBERS:,} members is expected")
        with zipfile.ZipFile(file) as archive:
            _check_size(archive, packed)
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()
                       if m.filename.endswith(".npy")}  # fmt: skip
            missing = [name for name in ARRAYS if name not in members]
            if missing:
                raise Refused(
                    f"it lacks {', '.join(missing)}; it must hold {', '.join(ARRAYS)} (images "
                    "uint8 [N, H, W, C], labels integers [N]); "
                    f"found {shown(sorted(members))}"
                )
            names = [name for name in (*ARRAYS, *WORDS) if name in members]
            return {name: _array(archive, members[name], name) for name in names}


def _check_size(archive: zipfile.ZipFile, packed: int) -> None:
    size = sum(member.file_size for member in archive.infolist())
    most = min(_MOST_BYTES, _FREE + _RATIO * packed)
    if size > most:
        raise Refused(
            f"it would unpack to {size / 2**20:,.0f} MiB, and at most {most / 2**20:,.0f} are read "
            "of a file of its size; write it with numpy.savez, which does not pack"
        )
    if {member.compress_type for member in archive.infolist()} - {
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    }:
        raise Refused("members as numpy.savez and savez_compressed write them are expected")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NDArray[np.generic]:
    """One array, once its header is known to be as large as what follows."""
    formats = np.lib.format
    with archive.open(member) as stream:
        version = formats.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise Refused(f"{name}: the .npy format 1.0 or 2.0 is expected, got {version}")
        header = formats.read_array_header_1_0 if version == (1, 0) else (
            formats.read_array_header_2_0
        )  # fmt: skip
        shape, _, dtype = header(stream)
        if dtype.hasobject:
            raise Refused(f"{name}: numbers or texts are expected, got Python objects")
        rest = member.file_size - stream.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
            raise Refused(
                f"{name}: its header says {shown(shape)} of {shown(dtype)}, which is not the "
                f"{rest:,} bytes that follow"
            )
    with archive.open(member) as stream:
        array: NDArray[np.generic] = formats.read_array(stream, allow_pickle=False)
    if dtype.kind == "U":  # Python breaks over numbers that are no characters
        numbers = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if numbers.max(initial=0) > sys.maxunicode:
            raise Refused(f"{name}: it holds numbers that are no characters")
    return array


def write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write `arrays` to `path` through a temporary file: a reader never meets half an archive."""
    objects = [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]
    if objects:  # older versions of numpy.savez have no allow_pickle, and pickle them
        raise ValueError(f"{', '.join(objects)}: numbers or texts are expected, got Python objects")
    with replacing(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # no name of ours is allow_pickle
