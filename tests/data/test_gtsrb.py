"""GTSRB is read in the layout in which it is published, cropped to its regions of interest."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ibau_lite.data import gtsrb


def colour_of(label: int) -> tuple[int, int, int]:
    return (5 * label, 255 - 5 * label, 100)


@pytest.fixture(scope="module")
def published(tmp_path_factory, save_gtsrb_half) -> Path:
    root = tmp_path_factory.mktemp("gtsrb")
    for label in range(43):
        images = root / "GTSRB" / "Final_Training" / "Images" / f"{label:05d}"
        images.parent.mkdir(parents=True, exist_ok=True)
        save_gtsrb_half(images, root / "table.csv", [label] * 2)
        (root / "table.csv").rename(images / f"GT-{label:05d}.csv")
    save_gtsrb_half(root / "GTSRB/Final_Test/Images", root / "GT-final_test.csv", [42, 7, 0])
    return root


def zipped(root: Path, archive: Path, names: str) -> zipfile.Path:
    with zipfile.ZipFile(archive, "w") as stream:
        for path in root.rglob(names):
            stream.write(path, path.relative_to(root))
    return zipfile.Path(archive)


def check(halves) -> None:
    assert halves.x_train.shape == (86, 32, 32, 3)
    assert halves.x_test.shape == (3, 32, 32, 3)
    assert halves.y_train.tolist() == [k for k in range(43) for _ in range(2)]
    assert halves.y_test.tolist() == [42, 7, 0]
    for images, labels in ((halves.x_train, halves.y_train), (halves.x_test, halves.y_test)):
        expected = np.array([colour_of(k) for k in labels])[:, None, None]
        assert (images == expected).all()  # nothing of the border, not even blended in
    assert len(halves.class_names) == 43


def test_folders_are_read_and_cropped(published) -> None:
    base = published / "GTSRB"
    check(gtsrb.read(base / "Final_Training/Images", base / "Final_Test/Images",
                     published / "GT-final_test.csv", "here"))  # fmt: skip


def test_the_downloaded_zip_files_are_read_without_unpacking(published, tmp_path) -> None:
    whole = zipped(published, tmp_path / "all.zip", "*.*")
    check(gtsrb.read(whole / "GTSRB/Final_Training/Images", whole / "GTSRB/Final_Test/Images",
                     whole / "GT-final_test.csv", "here"))  # fmt: skip


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("GTSRB/Final_Training/Images/00012/00001.ppm", "incomplete.*GT-00012.csv gave File"),
        ("GTSRB/Final_Training/Images/00042/GT-00042.csv", "incomplete.*GT-00042.csv gave File"),
        ("GTSRB/Final_Test/Images/00002.ppm", "incomplete.*GT-final_test.csv gave FileNotFound"),
        ("GT-final_test.csv", "incomplete.*GT-final_test.csv gave FileNotFound"),
    ],
)
def test_what_is_missing_is_named(published, lost: str, words: str) -> None:
    path = published / lost
    contents = path.read_bytes()
    path.unlink()
    try:
        base = published / "GTSRB"
        with pytest.raises(ValueError, match=words):
            gtsrb.read(base / "Final_Training/Images", base / "Final_Test/Images",
                       published / "GT-final_test.csv", "here")  # fmt: skip
    finally:
        path.write_bytes(contents)


def test_a_damaged_image_is_refused(published, tmp_path) -> None:
    path = published / "GTSRB/Final_Test/Images/00001.ppm"
    contents = path.read_bytes()
    path.write_bytes(contents[:100])
    try:
        with pytest.raises(ValueError, match="incomplete or damaged"):
            gtsrb._read_table(published / "GT-final_test.csv", path.parent)
    finally:
        path.write_bytes(contents)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row.replace(";5;6;", ";-900000;6;"), "a region within"),
        (lambda row: row.replace(";5;6;", ";5;60000;"), "a region within"),
    ],
)
def test_a_region_lies_within_its_image(tmp_path, save_gtsrb_half, change, says) -> None:
    """Two numbers in a table must not decide how large a picture is made."""
    save_gtsrb_half(tmp_path / "images", tmp_path / "table.csv", [1])
    (tmp_path / "table.csv").write_text(change((tmp_path / "table.csv").read_text()))
    with pytest.raises(ValueError, match=says):
        gtsrb._read_table(tmp_path / "table.csv", tmp_path / "images")


def test_nothing_but_ppm_is_opened(tmp_path, save_gtsrb_half) -> None:
    from PIL import Image

    save_gtsrb_half(tmp_path / "images", tmp_path / "table.csv", [1])
    Image.new("RGB", (40, 50)).save(tmp_path / "images" / "00000.ppm", "PNG")
    with pytest.raises(ValueError, match="UnidentifiedImageError"):
        gtsrb._read_table(tmp_path / "table.csv", tmp_path / "images")


def test_a_table_without_regions_is_refused(tmp_path, save_gtsrb_half) -> None:
    save_gtsrb_half(tmp_path / "images", tmp_path / "table.csv", [1])
    table = (tmp_path / "table.csv").read_text().replace("Roi.X1", "X1")
    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(ValueError, match=r"KeyError: 'Roi\.X1'"):
        gtsrb._read_table(tmp_path / "table.csv", tmp_path / "images")
