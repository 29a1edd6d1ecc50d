"""load_npz: any archive of the stated form, with what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ibau_lite.data import load_npz
from ibau_lite.data.halves import Halves
from ibau_lite.data.npz import read_halves, write_halves

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(256, size=(8, 5, 6, 3), dtype=np.uint8), "y_train": np.arange(8) % 3,
    "x_test": RNG.integers(256, size=(20, 5, 6, 3), dtype=np.uint8), "y_test": np.arange(20) % 3,
}  # fmt: skip


def saved(folder, **changes):
    arrays = {name: a for name, a in {**ARRAYS, **changes}.items() if a is not None}
    np.savez_compressed(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


def test_an_archive_becomes_a_dataset(tmp_path) -> None:
    dataset = load_npz(saved(tmp_path))
    assert (dataset.name, dataset.num_classes, dataset.shape) == ("mine", 3, (3, 5, 6))
    assert [len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)] == [
        8, 5, 2, 13,
    ]  # fmt: skip
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert dataset.source.startswith("mine (npz mine.npz), sha256 ")
    pixel = torch.tensor(ARRAYS["x_train"][2, 1, 4]) / 255
    assert torch.equal(dataset.train.images[2, :, 1, 4], pixel)


def test_sizes_and_seed_are_passed_on(tmp_path) -> None:
    path = saved(tmp_path)
    dataset = load_npz(path, clean=3, validation=0, train=4, test=2)
    assert [len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)] == [
        4, 3, 0, 2,
    ]  # fmt: skip
    assert not torch.equal(load_npz(path).clean.images, load_npz(path, seed=1).clean.images)
    with pytest.raises(ValueError, match="too few for clean=21"):
        load_npz(path, clean=21)


def test_grey_images_keep_their_one_channel(tmp_path) -> None:
    path = saved(tmp_path, x_train=ARRAYS["x_train"][..., :1], x_test=ARRAYS["x_test"][..., :1])
    assert load_npz(path).shape == (1, 5, 6)


def test_stored_names_and_source_are_honoured(tmp_path) -> None:
    path = saved(tmp_path, class_names=np.array(["x", "y", "z"]), source=np.array("a camera\n"))
    dataset = load_npz(path)
    assert dataset.class_names == ("x", "y", "z")
    assert dataset.source.startswith("a camera, sha256 ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": ARRAYS["x_train"] / 255}, "mine.npz: x_train must be uint8.*got float64"),
        ({"x_test": ARRAYS["x_test"][0]}, r"mine.npz: x_test must have shape \[N, H, W, C\]"),
        ({"y_test": ARRAYS["y_test"] - 1}, "mine.npz: y_test must lie in 0 … 2, got -1 … 1"),
        ({"y_train": ARRAYS["y_train"] / 2}, "mine.npz: y_train must be integers, got float64"),
        ({"class_names": np.array(["x", "y"])}, "y_train must lie in 0 … 1, got 0 … 2"),
        ({"class_names": np.arange(3)}, r"class_names must be a list of strings, got int64 \[3\]"),
        (
            {"y_test": np.array([2**32 - 1] * 20, np.uint32)},
            "labels must lie in 0 … 99999 where classes have no names, got 4294967295",
        ),
        ({"y_test": np.array([2**64 - 1] * 20, np.uint64)}, "got 18446744073709551615"),
        ({"class_names": np.full(100_001, "x")}, "at most 100,000 classes are expected, got"),
        ({"source": np.array([2**32 - 1], np.uint32).view("U1")[0:1].reshape(())}, "no characters"),
        (
            {"class_names": np.array([97, 98, 0x110000], np.uint32).view("U1")},
            "class_names: it holds numbers that are no characters",
        ),
        ({"y_test": None}, "mine.npz: it lacks y_test"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_s_name(tmp_path, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        load_npz(saved(tmp_path, **changes))


def test_names_and_sources_of_others_can_be_shown(tmp_path) -> None:
    names = np.array(["\x1b[2J", "y" * 10**5, "z"])
    dataset = load_npz(saved(tmp_path, class_names=names, source=np.array(["a", "b"])))
    assert dataset.class_names[0] == r"\x1b[2J" and len(dataset.class_names[1]) == 100
    assert dataset.source.startswith("mine (npz mine.npz), sha256 ")


def test_another_default_number_type_changes_nothing(tmp_path) -> None:
    path = saved(tmp_path)
    expected = load_npz(path).train.images
    torch.set_default_dtype(torch.float64)
    try:
        images = load_npz(path).train.images
    finally:
        torch.set_default_dtype(torch.float32)
    assert images.dtype == torch.float32 and torch.equal(images, expected)


def test_halves_survive_the_disk(tmp_path) -> None:
    halves = Halves(**ARRAYS, class_names=("á", "b", "c"), source="made here")
    write_halves(tmp_path / "h.npz", halves)
    back = read_halves(tmp_path / "h.npz", "h")
    assert (back.class_names, back.source) == (halves.class_names, halves.source)
    assert all(np.array_equal(getattr(back, name), ARRAYS[name]) for name in ARRAYS)
