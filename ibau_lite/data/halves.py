"""The raw form of every dataset: an official training half and an official test half, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Halves:
    """Images uint8 [N, H, W, C] (C = 1 or 3) and labels int64 [N], for training and for test.

    Every dataset is brought to this form first and divided once, in `splits`. Raises `ValueError`,
    with the name of the array, for a wrong dtype or shape, an empty half, halves whose images
    differ in shape, and a label outside 0 … len(class_names) - 1.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for half in ("train", "test"):
            self._check_half(f"x_{half}", f"y_{half}")
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"x_train has images {self.x_train.shape[1:]}, "
                f"but x_test has {self.x_test.shape[1:]}"
            )

    def _check_half(self, x_name: str, y_name: str) -> None:
        x, y = getattr(self, x_name), getattr(self, y_name)
        if x.dtype != np.uint8:
            raise ValueError(f"{x_name} must be uint8 (0 to 255), got {x.dtype}")
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ValueError(
                f"{x_name} must have shape [N, H, W, C] with C = 1 or 3 (channels last), "
                f"got {list(x.shape)}"
            )
        if x.size == 0:
            raise ValueError(f"{x_name} holds no pixels: its shape is {list(x.shape)}")
        if not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{y_name} must be integers, got {y.dtype}")
        if y.shape != x.shape[:1]:
            raise ValueError(f"{y_name} must have shape [{len(x)}], got {list(y.shape)}")
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(
                f"{y_name} must lie in 0 … {len(self.class_names) - 1}, got {low} … {high}"
            )
