"""Downloads, with torchvision's network calls replaced: what is fetched, checked and said."""

from __future__ import annotations

import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ibau_lite.data import download, named
from ibau_lite.data.torchvision_compat import torchvision_module


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.delenv("IBAU_DATA", raising=False)


@pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
def test_without_a_network_the_way_out_is_shown(no_network, tmp_path, name: str) -> None:
    words = f'(?s)"{name}" could not be downloaded .*{name}.npz .*set IBAU_DATA'
    with pytest.raises(ConnectionError, match=words):
        named.load(name, root=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_cifar10_comes_from_torchvision_and_is_kept_as_an_archive(tmp_path, monkeypatch) -> None:
    asked = []

    def cifar10(root, train, download):
        asked.append((Path(root), train, download))
        n = 20 if train else 12
        pixels = np.random.default_rng(n).integers(256, size=(n, 32, 32, 3), dtype=np.uint8)
        return types.SimpleNamespace(data=pixels, targets=[k % 10 for k in range(n)])

    monkeypatch.delenv("IBAU_DATA", raising=False)
    monkeypatch.setattr(torchvision_module("datasets"), "CIFAR10", cifar10)
    first = named.load("cifar10", root=tmp_path, clean=4, validation=2)
    second = named.load("cifar10", root=tmp_path, clean=4, validation=2)
    assert asked == [(tmp_path, True, True), (tmp_path, False, True)]  # and not a second time
    assert first.source == second.source
    assert first.source.startswith("cifar10 (torchvision, lossless), sha256 ")
    assert first.class_names[3] == "cat"
    assert (first.test.images == second.test.images).all()
    assert len(first.test) == 6


def test_gtsrb_is_fetched_with_checksums_and_read_from_the_zip_files(
    tmp_path, monkeypatch, save_gtsrb_half
) -> None:
    fetched = {}

    def download_url(url, root, filename, md5):
        fetched[filename] = (url, md5)
        source = tmp_path / filename.removesuffix(".zip")
        if "Training" in filename:
            for k in range(43):
                images = source / f"GTSRB/Final_Training/Images/{k:05d}"
                images.parent.mkdir(parents=True, exist_ok=True)
                save_gtsrb_half(images, source / "t", [k])
                (source / "t").rename(images / f"GT-{k:05d}.csv")
        elif "Test_Images" in filename:
            save_gtsrb_half(
                source / "GTSRB/Final_Test/Images", tmp_path / "GT-final_test.csv", [3, 4, 5]
            )
        else:
            source.mkdir()
            (tmp_path / "GT-final_test.csv").rename(source / "GT-final_test.csv")
        Path(root).mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(Path(root) / filename, "w") as stream:
            for path in source.rglob("*.*"):
                stream.write(path, path.relative_to(source))

    monkeypatch.setattr(torchvision_module("datasets.utils"), "download_url", download_url)
    halves = download.fetch("gtsrb", tmp_path / "cache")
    assert halves.y_train.tolist() == list(range(43))
    assert halves.y_test.tolist() == [3, 4, 5]
    assert len(fetched) == 3
    for url, checksum in fetched.values():
        assert url.startswith("https://")
        assert len(checksum) == 32
