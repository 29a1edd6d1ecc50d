"""A dataset in folders: one folder a class, full of pictures."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ibau_lite.data import class_names, pictures
from ibau_lite.data.halves import Halves
from ibau_lite.data.labelled import Dataset, LabelledImages
from ibau_lite.data.splits import Sizes, split
from ibau_lite.files import shown


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    size: int = 32,
    seed: int = 0,
    clean: int | None = None,
    validation: int | None = None,
    train: int | None = None,
    test: int | None = None,
) -> Dataset:
    """Load path/train/<class>/*.png and path/test/<class>/*.png and split them as `load` does.

    The classes are the folders of the training half. They are sorted by number if all their names
    are numbers, else alphabetically. Hidden folders and files (.name) are skipped. So are files
    that are not named like PNG, JPEG, PPM, PGM, BMP, WebP or TIFF. Pictures in these formats, and
    in no other, are converted to RGB and resized to `size` × `size` pixels, as `pictures.read`
    says. Warns if the names are numbers other than 0, 1, 2, …, because then the labels are not
    these numbers.

    Raises `ValueError` if a half is missing, if two folders have one number, if the test half has a
    class that the training half lacks, if a class has no pictures in one of the halves, if a
    picture cannot be read, or if there are too few pictures for the sizes asked for.
    """
    path = Path(path)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, got {size!r}")
    names = _class_folders(path / "train")
    unknown = sorted(set(_class_folders(path / "test")) - set(names))
    if unknown:
        raise ValueError(
            f"{shown(path / 'test')} has classes that train has not: {shown(', '.join(unknown))}"
        )
    train_files, test_files = _pictures(path / "train", names), _pictures(path / "test", names)
    halves = Halves(
        *_read_half(train_files, size), *_read_half(test_files, size),
        class_names=class_names.printable(names), source=f"{path.resolve().name} (image folder)",
    )  # fmt: skip
    sizes = Sizes.with_defaults(None, len(halves.x_test), clean, validation, train, test)
    return split(path.resolve().name, halves, sizes, seed)


def load_labelled_folder(
    path: str | os.PathLike[str], *, size: int = 32
) -> tuple[LabelledImages, tuple[str, ...]]:
    """Load path/<class>/*.png, one set that is not split, and the names of its classes.

    Classes, pictures, warnings and errors are those of a half of `load_image_folder`.
    """
    path = Path(path)
    names = _class_folders(path)
    images, labels = _read_half(_pictures(path, names), size)
    moved = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return LabelledImages(moved, torch.from_numpy(labels)), class_names.printable(names)


def _class_folders(half: Path) -> list[str]:
    folders = half.iterdir() if half.is_dir() else []
    names = sorted(p.name for p in folders if not p.name.startswith(".") and p.is_dir())
    if not names:
        raise ValueError(
            f"{shown(half)} has no class folders; expected {shown(half.parent)}/train/<class>/"
            f"*.png and {shown(half.parent)}/test/<class>/*.png"
        )
    if all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=int)
        numbers = [int(name) for name in names]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{shown(half)} has two folders of one number: {shown(names)}")
        if half.name == "train" and numbers != list(range(len(numbers))):
            warnings.warn(
                f"{shown(half)}: the folders are numbered, but not 0 … {len(numbers) - 1}, so "
                f"labels differ from numbers (folder {names[-1]} has the label "
                f"{len(numbers) - 1}): does the network count so?",
                stacklevel=3,
            )
    return names


def _pictures(half: Path, names: list[str]) -> list[list[Path]]:
    """For each class its pictures, in alphabetical order."""
    files = [
        sorted(
            p
            for p in (half / name).glob("*")
            if p.suffix.lower() in pictures.SUFFIXES and not p.name.startswith(".")
        )
        for name in names
    ]
    empty = [name for name, found in zip(names, files, strict=True) if not found]
    if empty:
        raise ValueError(
            f"{shown(half)} has no pictures ({', '.join(sorted(pictures.SUFFIXES))}) of "
            f"{shown(', '.join(empty))}; every class needs some in train and in test. Remove a "
            "folder that is no class"
        )
    return files


def _read_half(files: list[list[Path]], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = [label for label, found in enumerate(files) for _ in found]
    images = np.empty((len(labels), size, size, 3), np.uint8)
    for image, picture in zip(images, (p for found in files for p in found), strict=True):
        image[...] = pictures.read(picture, size)
    return images, np.array(labels, np.int64)
