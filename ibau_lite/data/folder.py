"""A dataset in folders: one a class, full of pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibau_lite.data.halves import Halves
from ibau_lite.data.labelled import Dataset
from ibau_lite.data.splits import Sizes, split

_PICTURES = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"}


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

    Classes are the folders of the training half in alphabetical order; pictures of the usual kinds
    are converted to RGB and resized to `size` x `size` pixels; other files are ignored. Raises
    ValueError if a half or its pictures are missing, if the test half has a class that the training
    half has not, if a picture cannot be read, or if there are too few for the sizes asked for.
    """
    path = Path(path)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, got {size!r}")
    names = _class_folders(path / "train")
    unknown = sorted(set(_class_folders(path / "test")) - set(names))
    if unknown:
        raise ValueError(f"{path / 'test'} has classes that train has not: {', '.join(unknown)}")
    halves = Halves(
        *_read_half(path / "train", names, size), *_read_half(path / "test", names, size),
        class_names=names, source=f"{path.resolve().name} (image folder)",
    )  # fmt: skip
    sizes = Sizes.with_defaults(None, len(halves.x_test), clean, validation, train, test)
    return split(path.resolve().name, halves, sizes, seed)


def _class_folders(half: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in half.iterdir() if p.is_dir()) if half.is_dir() else []
    if not names:
        raise ValueError(
            f"{half} has no class folders; expected {half.parent}/train/<class>/*.png "
            f"and {half.parent}/test/<class>/*.png"
        )
    return tuple(names)


def _read_half(
    half: Path, names: tuple[str, ...], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    files = [
        (picture, label)
        for label, name in enumerate(names)
        for picture in sorted((half / name).glob("*"))
        if picture.suffix.lower() in _PICTURES
    ]
    if not files:
        raise ValueError(f"{half} has no pictures ({', '.join(sorted(_PICTURES))})")
    images = np.empty((len(files), size, size, 3), np.uint8)
    for image, (picture, _) in zip(images, files, strict=True):
        image[...] = _read_picture(picture, size)
    return images, np.array([label for _, label in files], np.int64)


def _read_picture(picture: Path, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(picture) as image:
            rgb = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{picture} cannot be read as a picture: {error}") from error
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR))
