"""Datasets as tensors: float32 [N, C, H, W] in [0, 1], in four disjoint parts."""

from __future__ import annotations

import os
from pathlib import Path

from ibau_lite.data import digits as _digits
from ibau_lite.data import signs as _signs
from ibau_lite.data.labelled import Dataset, Labelled
from ibau_lite.data.splits import Sizes, split

__all__ = ["NAMES", "Dataset", "Labelled", "load"]

NAMES: tuple[str, ...] = ("signs", "digits")


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    clean: int | None = None,
    validation: int | None = None,
    train: int | None = None,
    test: int | None = None,
) -> Dataset:
    if name == "signs":
        sizes = Sizes(800 if clean is None else clean, 400 if validation is None else validation,
                      6000 if train is None else train, 1800 if test is None else test)
        return split(name, _signs.halves(sizes.train, sizes.clean + sizes.validation + sizes.test,
                     None if root is None else Path(root)), sizes, seed)
    sizes = Sizes(300 if clean is None else clean, 100 if validation is None else validation, train, test)
    return split(name, _digits.halves(), sizes, seed)
