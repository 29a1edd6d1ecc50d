"""Halves: the bytes that every source delivers are checked, array by array."""

from __future__ import annotations

import numpy as np
import pytest

from ibau_lite.data.halves import Halves

GOOD = {
    "x_train": np.zeros((4, 5, 6, 3), np.uint8), "y_train": np.array([0, 1, 1, 0]),
    "x_test": np.zeros((2, 5, 6, 3), np.uint8), "y_test": np.array([1, 0]),
    "class_names": ("a", "b"), "source": "made",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_train": np.zeros((4, 5, 6, 3), np.float32)}, "x_train must be uint8 .*got float32"),
        ({"x_test": np.zeros((2, 5, 6), np.uint8)}, r"x_test must have shape \[N, H, W, C\]"),
        ({"x_test": np.zeros((2, 3, 5, 6), np.uint8)}, r"channels last\), got \[2, 3, 5, 6\]"),
        ({"x_test": np.zeros((0, 5, 6, 3), np.uint8)}, "x_test holds no pixels"),
        ({"x_test": np.zeros((2, 6, 6, 3), np.uint8)}, "x_train has images .*but x_test has"),
        ({"y_train": np.array([0.0, 1, 1, 0])}, "y_train must be integers, got float64"),
        ({"y_train": np.array([0, 1])}, r"y_train must have shape \[4\], got \[2\]"),
        ({"y_test": np.array([1, 2])}, "y_test must lie in 0 … 1, got 1 … 2"),
        ({"y_test": np.array([-1, 0])}, "y_test must lie in 0 … 1, got -1 … 0"),
    ],
)
def test_bad_arrays_are_refused_by_name(change, words) -> None:
    Halves(**GOOD)
    with pytest.raises(ValueError, match=words):
        Halves(**{**GOOD, **change})
