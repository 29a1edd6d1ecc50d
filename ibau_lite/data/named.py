"""The datasets that are known by name, and where each is looked for."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from ibau_lite.data import cache, digits, download, npz, signs
from ibau_lite.data.halves import Halves
from ibau_lite.data.labelled import Dataset
from ibau_lite.data.splits import Sizes, split

NAMES: tuple[str, ...] = ("signs", "digits", "cifar10", "gtsrb")

_SIGNS_TRAIN, _SIGNS_TEST = 6000, 1800


def load(
    name: str = "signs",
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    clean: int | None = None,
    validation: int | None = None,
    train: int | None = None,
    test: int | None = None,
) -> Dataset:
    """Load a dataset by name, in four disjoint parts, as float32 images in [0, 1].

    =========  =================================  ======  =====  ==========  =====
    name       images                             train   clean  validation  test
    =========  =================================  ======  =====  ==========  =====
    "signs"    drawn traffic signs, 12 classes    6,000   800    400         1,800
    "digits"   8×8 digits shown as 32×32, 10      1,000   300    100         397
    "cifar10"  photographs, 10 classes            50,000  5,000  1,000       4,000
    "gtsrb"    photographed traffic signs, 43     39,209  5,000  1,000       6,630
    =========  =================================  ======  =====  ==========  =====

    `train` is the official training half. The official test half is shuffled with `seed` and cut
    into `clean` (the defender's), `validation` and `test`. The four arguments of these names set
    other sizes: a random subset, or for "signs" as many as are asked for. The images themselves do
    not depend on `seed`. The parts of two calls with other sizes or seeds are not disjoint. For a
    smaller clean set beside the same test images, take `dataset.clean[:n]`.

    "cifar10" and "gtsrb" are read from <name>.npz in `root`. Without `root`, they are read from
    `$IBAU_DATA` or the cache folder (`$IBAU_CACHE`, else ~/.cache/ibau_lite). If there is no such
    file, the images are downloaded and the archive is written to `root` or to the cache. A warning
    says so if it cannot be written, as on a full disk.

    Raises `ValueError` for an unknown name, a damaged archive, or more images asked for than there
    are. Raises `ConnectionError` if a download is needed and fails.

    >>> digits = load("digits", clean=100)
    >>> digits.shape, digits.num_classes, len(digits.clean)
    ((3, 32, 32), 10, 100)
    """
    if name not in NAMES:
        raise ValueError(
            f"there is no dataset {name!r}; known are {', '.join(NAMES)}. For your own images use "
            "load_npz, load_image_folder or from_torchvision"
        )
    folder = None if root is None else Path(root).expanduser()
    if name == "signs":
        train = _SIGNS_TRAIN if train is None else train
        test = _SIGNS_TEST if test is None else test
    sizes = Sizes.with_defaults(name, 0, clean, validation, train, test)
    return split(name, _halves(name, folder, sizes), sizes, seed)


def _halves(name: str, folder: Path | None, sizes: Sizes) -> Halves:
    if name == "signs":
        assert sizes.train is not None and sizes.test is not None
        n_held_out = sizes.clean + sizes.validation + sizes.test
        return signs.halves(sizes.train, n_held_out, folder or cache.folder())
    if name == "digits":
        return digits.halves()
    return _archived(name, folder)


def _archived(name: str, folder: Path | None) -> Halves:
    """Read <name>.npz from the first folder that has it; download and write it if none has."""
    shared = os.environ.get("IBAU_DATA")
    home = folder or cache.folder()
    places = [home] if folder or not shared else [Path(shared).expanduser(), home]
    for place in places:
        if (place / f"{name}.npz").is_file():
            return npz.read_halves(place / f"{name}.npz", name)
    halves = download.fetch(name, home)
    try:
        npz.write_halves(home / f"{name}.npz", halves)
    except OSError as error:  # a full disk must not lose what was downloaded
        warnings.warn(f"{name} is not kept in {home}: {error}", stacklevel=4)
        return halves
    return npz.read_halves(home / f"{name}.npz", name)
