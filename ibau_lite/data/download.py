"""CIFAR-10 and GTSRB from the internet, through torchvision's downloads with their checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ibau_lite.data import class_names, gtsrb
from ibau_lite.data.halves import Halves
from ibau_lite.data.torchvision_compat import torchvision_module

_GTSRB_SITE = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
# Not through torchvision.datasets.GTSRB: its training half is the 26,640 images of the first stage
# of the competition, and it drops the regions of interest. These are the final 39,209 and 12,630.
_GTSRB_ARCHIVES = {
    "GTSRB_Final_Training_Images.zip": "f33fd80ac59bff73c82d25ab499e03a3",
    "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
    "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
}


def fetch(name: str, folder: Path) -> Halves:
    """Download the dataset `name` ("cifar10" or "gtsrb") into `folder` and read it.

    A file that is there with the right checksum is not downloaded again. Raises `ConnectionError`
    if a download fails; the message says what to do instead.
    """
    try:
        return {"cifar10": _cifar10, "gtsrb": _gtsrb}[name](folder)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f'"{name}" could not be downloaded ({error}). Try again with a network, or put '
            f"{name}.npz (x_train, y_train, x_test, y_test; images uint8 [N, 32, 32, 3]) into a "
            f'folder and set IBAU_DATA to it. load("signs") needs no network.'
        ) from error


def _cifar10(folder: Path) -> Halves:
    datasets = torchvision_module("datasets")
    train = datasets.CIFAR10(folder, train=True, download=True)
    test = datasets.CIFAR10(folder, train=False, download=True)
    return Halves(
        train.data, np.array(train.targets, np.int64), test.data, np.array(test.targets, np.int64),
        class_names.CIFAR10, "cifar10 (torchvision, lossless)",
    )  # fmt: skip


def _gtsrb(folder: Path) -> Halves:
    utils = torchvision_module("datasets.utils")
    for file_name, checksum in _GTSRB_ARCHIVES.items():
        utils.download_url(_GTSRB_SITE + file_name, folder / "gtsrb", file_name, checksum)
    train, test, test_labels = (folder / "gtsrb" / file_name for file_name in _GTSRB_ARCHIVES)
    with (
        zipfile.ZipFile(train) as first,
        zipfile.ZipFile(test) as second,
        zipfile.ZipFile(test_labels) as third,
    ):
        return gtsrb.read(
            zipfile.Path(first, "GTSRB/Final_Training/Images/"),
            zipfile.Path(second, "GTSRB/Final_Test/Images/"),
            zipfile.Path(third, "GT-final_test.csv"),
            "gtsrb (official, ROI resized to 32x32)",
        )
