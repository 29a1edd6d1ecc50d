"""What several tests of the datasets need."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")


@pytest.fixture(scope="session")
def save_gtsrb_half() -> Callable[[Path, Path, list[int]], None]:
    """Write images and table as GTSRB does: a plain sign inside a black border.

    The region of interest is the sign alone; its colour (5 k, 255 - 5 k, 100) tells its class k.
    """

    def save(images: Path, table: Path, labels: list[int]) -> None:
        images.mkdir(parents=True)
        with table.open("w", newline="") as stream:
            rows = csv.writer(stream, delimiter=";")
            rows.writerow(COLUMNS)
            for number, label in enumerate(labels):
                width, height = 40 + number, 50
                image = np.zeros((height, width, 3), np.uint8)
                image[6 : height - 6, 5 : width - 5] = (5 * label, 255 - 5 * label, 100)
                Image.fromarray(image).save(images / f"{number:05d}.ppm")
                region = (5, 6, width - 5, height - 6)
                rows.writerow((f"{number:05d}.ppm", width, height, *region, label))

    return save
