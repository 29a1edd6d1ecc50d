"""GTSRB as its authors publish it: photographs, each with the region of interest of its sign."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibau_lite.data import class_names, pictures
from ibau_lite.data.halves import Halves
from ibau_lite.files import shown

Folder = Path | zipfile.Path  # the same few methods: unpacked files, or the downloaded archive

_SIZE = 32


def read(train: Folder, test: Folder, answers: Folder, source: str) -> Halves:
    """Crop every image to its region of interest and resize it to 32×32.

    `train` holds one folder a class (00000 … 00042) of .ppm files with a table GT-00000.csv;
    `test` holds .ppm files, and the table `answers` (GT-final_test.csv) their classes. A table has
    the columns Filename, Roi.X1, Roi.Y1, Roi.X2, Roi.Y2 and ClassId. Source: Stallkamp et al.
    (2012). Raises ValueError if a table, a column, an image or a class is missing, if an image
    cannot be read, or if a region reaches out of its image.
    """
    train_parts = [
        _read_table(train / f"{k:05d}" / f"GT-{k:05d}.csv", train / f"{k:05d}")
        for k in range(len(class_names.GTSRB))
    ]
    x_train = np.concatenate([images for images, _ in train_parts])
    y_train = np.concatenate([labels for _, labels in train_parts])
    x_test, y_test = _read_table(answers, test)
    return Halves(x_train, y_train, x_test, y_test, class_names.GTSRB, source)


def _read_table(table: Folder, folder: Folder) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        rows = list(csv.DictReader(io.StringIO(table.read_text()), delimiter=";"))
        images = np.empty((len(rows), _SIZE, _SIZE, 3), np.uint8)
        for image, row in zip(images, rows, strict=True):
            image[...] = _cropped(folder / row["Filename"], row)
        return images, np.array([int(row["ClassId"]) for row in rows], np.int64)
    except Exception as error:  # of tables, of pictures and of zip files
        raise ValueError(
            f"GTSRB is incomplete or damaged: reading {shown(table)} gave "
            f"{type(error).__name__}: {shown(error)}"
        ) from error


def _cropped(path: Folder, row: dict[str, str]) -> NDArray[np.uint8]:
    """The sign alone. X2 and Y2 are the first column and row outside of it."""
    from PIL import Image

    left, top, right, bottom = (int(row[f"Roi.{corner}"]) for corner in ("X1", "Y1", "X2", "Y2"))
    with path.open("rb") as stream, Image.open(stream, formats=("PPM",)) as image:
        rgb = pictures.to_8_bit(image).convert("RGB")
    if not (0 <= left < right <= rgb.width and 0 <= top < bottom <= rgb.height):
        raise ValueError(f"{path.name}: a region within {rgb.width} × {rgb.height} is expected")
    sign = rgb.crop((left, top, right, bottom))  # resize(box=…) would blend in its surroundings
    return np.asarray(sign.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR))
