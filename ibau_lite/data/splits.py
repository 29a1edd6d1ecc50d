"""From two official halves to the four disjoint parts of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ibau_lite.data import provenance
from ibau_lite.data.halves import Halves
from ibau_lite.data.labelled import Dataset, LabelledImages

_OFFICIAL = (5000, 1000)  # clean and validation, of CIFAR-10 and GTSRB: clean as in the talk
_DEFAULTS = {"signs": (800, 400), "digits": (300, 100), "cifar10": _OFFICIAL, "gtsrb": _OFFICIAL}


@dataclass(frozen=True)
class Sizes:
    """How many images each part gets; None means all (train), or all that are left (test).

    Raises ValueError for a size that is no number of images.
    """

    clean: int
    validation: int
    train: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        for part in ("clean", "validation", "train", "test"):
            size = getattr(self, part)
            if size is None and part in ("train", "test"):
                continue
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise ValueError(f"{part} must be a number of images, 0 or more, got {size!r}")
        if self.train == 0:
            raise ValueError("train must be at least 1: there would be nothing to train on")

    @classmethod
    def with_defaults(
        cls,
        name: str | None,
        n_held_out: int,
        clean: int | None,
        validation: int | None,
        train: int | None,
        test: int | None,
    ) -> Sizes:
        """Fill in `clean` and `validation` where they are None.

        A dataset that is known by name has its own numbers; of any other test half of n_held_out
        images a quarter is clean and a tenth is for validation.
        """
        usual = _DEFAULTS.get(name or "", (n_held_out // 4, n_held_out // 10))
        return cls(
            usual[0] if clean is None else clean,
            usual[1] if validation is None else validation,
            train,
            test,
        )


class Positions(NamedTuple):
    """Which images go where: positions in the training half, and three lists in the test half."""

    train: NDArray[np.int64]
    clean: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def choose(n_train: int, n_held_out: int, sizes: Sizes, seed: int) -> Positions:
    """Draw the four parts: train from the official training half, the others from the test half.

    The test half is shuffled once with `seed` and cut: clean first, then validation, then test, as
    in the talk (5,000 clean images of the test half of CIFAR-10 or GTSRB). These parts stay in the
    order in which they were drawn, so that the first images of each are a random sample whatever
    the order of the files (some archives are sorted by class); a whole training half keeps its
    order, which saves a copy. Raises ValueError if a half has too few images.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer, 0 or more, got {seed!r}")
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(n_held_out)
    spoken_for = sizes.clean + sizes.validation
    n_test = n_held_out - spoken_for if sizes.test is None else sizes.test
    if n_test < 0 or spoken_for + n_test > n_held_out:
        raise ValueError(
            f"the test half has {n_held_out} images, too few for clean={sizes.clean}, "
            f"validation={sizes.validation} and "
            f"test={'the rest' if sizes.test is None else sizes.test}"
        )
    if sizes.train is not None and sizes.train > n_train:
        raise ValueError(f"the training half has {n_train} images, too few for train={sizes.train}")
    train = np.arange(n_train) if sizes.train is None else rng.permutation(n_train)[: sizes.train]
    clean, validation, test = np.split(held_out[: spoken_for + n_test], [sizes.clean, spoken_for])
    return Positions(train, clean, validation, test)


def split(name: str, halves: Halves, sizes: Sizes, seed: int) -> Dataset:
    """Divide `halves` as `choose` says, as tensors: float32 [N, C, H, W] in [0, 1]."""
    at = choose(len(halves.x_train), len(halves.x_test), sizes, seed)
    whole = len(at.train) == len(halves.x_train)
    x, y = halves.x_train, halves.y_train
    return Dataset(
        name=name,
        train=_tensors(x, y) if whole else _tensors(x[at.train], y[at.train]),
        clean=_tensors(halves.x_test[at.clean], halves.y_test[at.clean]),
        validation=_tensors(halves.x_test[at.validation], halves.y_test[at.validation]),
        test=_tensors(halves.x_test[at.test], halves.y_test[at.test]),
        class_names=halves.class_names,
        source=provenance.describe(halves),
    )


def _tensors(x: NDArray[np.uint8], y: NDArray[np.int64]) -> LabelledImages:
    """Bytes [N, H, W, C] to float32 [N, C, H, W] with a single allocation of the final size."""
    n, height, width, channels = x.shape
    images = torch.empty(n, channels, height, width, dtype=torch.float32)  # whatever is default
    images.copy_(torch.from_numpy(x).permute(0, 3, 1, 2))
    return LabelledImages(images.div_(255), torch.from_numpy(y.astype(np.int64)))
