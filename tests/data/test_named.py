"""load(name): where it looks, what it returns, what it says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ibau_lite.data import NAMES, load, named
from ibau_lite.data.archive import write

DATA = os.environ.get("IBAU_DATA", "")


def tiny_cifar10(folder: Path, shade: int) -> Path:
    write(folder / "cifar10.npz", {
        "x_train": np.full((10, 32, 32, 3), shade, np.uint8), "y_train": np.arange(10),
        "x_test": np.full((10, 32, 32, 3), shade, np.uint8), "y_test": np.arange(10),
    })  # fmt: skip
    return folder


def shade_of(**arguments) -> int:
    dataset = load("cifar10", clean=4, validation=3, **arguments)
    return round(float(dataset.train.images[0, 0, 0, 0]) * 255)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no dataset 'mnist'; known are signs, digits, cifar10, g"):
        load("mnist")
    assert NAMES == ("signs", "digits", "cifar10", "gtsrb")


def test_root_comes_before_the_environment_and_that_before_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("IBAU_DATA", raising=False)
    monkeypatch.setenv("IBAU_CACHE", str(tiny_cifar10(tmp_path / "cache", 10)))
    assert shade_of() == 10
    monkeypatch.setenv("IBAU_DATA", str(tiny_cifar10(tmp_path / "data", 20)))
    assert shade_of() == 20
    assert shade_of(root=tiny_cifar10(tmp_path / "root", 30)) == 30
    (tmp_path / "data" / "cifar10.npz").unlink()
    assert shade_of() == 10


def test_a_damaged_archive_is_reported_and_not_replaced(tmp_path, monkeypatch) -> None:
    path = tiny_cifar10(tmp_path, 1) / "cifar10.npz"
    path.write_bytes(path.read_bytes()[:5000])
    monkeypatch.setattr(named.download, "fetch", lambda *_: pytest.fail("downloaded over it"))
    with pytest.raises(ValueError, match=r"cifar10\.npz: not a usable .npz archive"):
        load("cifar10", root=tmp_path)
    assert path.stat().st_size == 5000


def test_a_download_with_wrong_contents_leaves_no_archive(tmp_path, monkeypatch) -> None:
    def broken(name, folder):
        raise ValueError("GTSRB is incomplete or damaged")

    monkeypatch.delenv("IBAU_DATA", raising=False)
    monkeypatch.setattr(named.download, "fetch", broken)
    with pytest.raises(ValueError, match="incomplete"):
        load("gtsrb", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_lose_what_was_downloaded(tmp_path, monkeypatch) -> None:
    tiny_cifar10(tmp_path / "made", 7)
    halves = named.npz.read_halves(tmp_path / "made" / "cifar10.npz", "cifar10")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.delenv("IBAU_DATA", raising=False)
    monkeypatch.setattr(named.download, "fetch", lambda name, folder: halves)
    monkeypatch.setattr(named.npz, "write_halves", full)
    with pytest.warns(UserWarning, match="cifar10 is not kept in .*No space left"):
        dataset = load("cifar10", root=tmp_path, clean=2, validation=2)
    assert len(dataset.train) == len(halves.x_train)


def test_any_number_of_signs(tmp_path) -> None:
    dataset = load("signs", root=tmp_path, train=36, clean=12, validation=6, test=24)
    assert [len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)] == [
        36, 12, 6, 24,
    ]  # fmt: skip
    assert dataset.num_classes == 12
    assert dataset.shape == (3, 32, 32)
    assert dataset.source.startswith("signs (drawn, version ")


def test_the_seed_moves_images_between_parts_but_draws_no_others(tmp_path) -> None:
    sizes = {"root": tmp_path, "train": 12, "clean": 12, "validation": 6, "test": 24}
    first, second = (load("signs", seed=seed, **sizes) for seed in (0, 1))
    assert first.source == second.source
    assert torch.equal(first.train.images, second.train.images)
    assert not torch.equal(first.clean.images, second.clean.images)


def test_digits_need_no_folder_at_all(tmp_path) -> None:
    dataset = load("digits", root=tmp_path / "nowhere")
    assert [len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)] == [
        1000, 300, 100, 397,
    ]  # fmt: skip
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "parts", "classes"),
    [("cifar10", [2000, 5000, 1000, 4000], 10), ("gtsrb", [2000, 5000, 1000, 6630], 43)],
)
def test_the_real_datasets(name: str, parts: list[int], classes: int) -> None:
    if not (DATA and (Path(DATA).expanduser() / f"{name}.npz").is_file()):
        pytest.skip(f"needs the real images: {name}.npz in the folder that IBAU_DATA names")
    dataset = load(name, train=2000)
    assert [
        len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)
    ] == parts
    assert dataset.num_classes == classes
    assert dataset.shape == (3, 32, 32)
    assert dataset.test.labels.unique().tolist() == list(range(classes))
    assert dataset.source.startswith(f"{name} (")
    assert ", sha256 " in dataset.source
    assert 0.2 < float(dataset.test.images.mean()) < 0.6
