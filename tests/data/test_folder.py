"""load_image_folder: classes are folders, pictures are resized, and trouble is named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ibau_lite.data import load_image_folder

COLOURS = {"bee": (250, 200, 10), "ant": (20, 30, 40)}


@pytest.fixture
def pictures(tmp_path):
    for half, count in (("train", 3), ("test", 10)):
        for name, colour in COLOURS.items():
            (tmp_path / half / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40 + number, 30), colour)
                image.save(tmp_path / half / name / f"{number}.{'png' if number else 'PPM'}")
            (tmp_path / half / name / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folders_become_classes_in_alphabetical_order(pictures) -> None:
    dataset = load_image_folder(pictures, size=16, clean=6, validation=4)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.shape == (3, 16, 16)
    assert [len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)] == [
        6, 6, 4, 10,
    ]  # fmt: skip
    for part in (dataset.train, dataset.clean, dataset.validation, dataset.test):
        expected = np.array([COLOURS[dataset.class_names[k]] for k in part.labels]) / 255
        found = part.images.mean(dim=(2, 3)).numpy()
        assert np.allclose(found, expected, atol=1e-6)
    assert dataset.source.startswith(f"{pictures.name} (image folder), sha256 ")


def test_a_missing_half_is_explained(pictures) -> None:
    (pictures / "test").rename(pictures / "elsewhere")
    with pytest.raises(ValueError, match=r"test has no class folders; expected .*<class>/\*.png"):
        load_image_folder(pictures)


def test_a_class_that_was_never_trained_is_named(pictures) -> None:
    (pictures / "test" / "cow").mkdir()
    with pytest.raises(ValueError, match="classes that train has not: cow"):
        load_image_folder(pictures)


def test_folders_without_pictures_are_refused(tmp_path) -> None:
    for half in ("train", "test"):
        (tmp_path / half / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train has no pictures \(.bmp"):
        load_image_folder(tmp_path)


def test_a_damaged_picture_is_named(pictures) -> None:
    (pictures / "train" / "ant" / "1.png").write_bytes(b"not a png")
    with pytest.raises(ValueError, match=r"1\.png cannot be read as a picture"):
        load_image_folder(pictures)


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_size_is_a_number_of_pixels(pictures, size) -> None:
    with pytest.raises(ValueError, match="size must be a number of pixels"):
        load_image_folder(pictures, size=size)
