"""What is stamped on an image: triggers are values, applied in image space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Trigger(Protocol):
    """What an attack stamps: a frozen, hashable value that maps images to stamped images.

    `trigger(images)` takes and returns float tensors [N, C, H, W] in [0, 1]. It leaves its argument
    as it was, and gives the same result for the same input. Any such callable works; no
    registration is needed.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class TopRow:
    ...     def __call__(self, images):
    ...         stamped = images.clone()
    ...         stamped[:, :, 0] = 1
    ...         return stamped
    >>> from ibau_lite.attacks import AllToOne, Attack
    >>> len(Attack("top_row", ((TopRow(), AllToOne(0)),)).pairs)
    1
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp images [N, C, H, W] in [0, 1]."""
        ...

    def __hash__(self) -> int: ...


def check_images(images: Tensor) -> None:
    """Refuse anything but a batch of images: floating point, [N, C, H, W], values in [0, 1].

    Raises `TypeError` for anything but a floating-point tensor. Raises `ValueError` for another
    shape, a value outside [0, 1], or NaN.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images: a floating-point tensor in [0, 1] is expected, got {given}; "
            "turn 8-bit images into it with images.float() / 255"
        )
    if images.ndim != 4:
        raise ValueError(
            f"images: shape [N, C, H, W] is expected, got {list(images.shape)}; "
            "add the batch axis of a single image with image[None]"
        )
    if images.numel() == 0:
        return
    low, high = images.detach().aminmax()
    if not (low >= 0 and high <= 1):  # written so that a NaN is refused as well
        raise ValueError(
            f"images: values in [0, 1] are expected, got {low.item():g} to {high.item():g}; "
            "a trigger is stamped before any normalisation"
        )


@dataclass(frozen=True)
class Patch:
    """A trigger that replaces pixels: x'[c, i, j] = v[c] where (i, j) is in the patch, else x.

    `cells` are (row, column) positions that count from the bottom right corner, like Python's
    negative indices: (-1, -1) is the last pixel. So a patch keeps its distance to that corner on
    images of every size. `values` in [0, 1] are the new values of the cells: one row for all cells
    or one row a cell. Each row holds one number for all channels or one number a channel.

    Equal patches compare and hash equal, whatever the order of their cells. Raises `ValueError` for
    no cells, a cell that is given twice, a position that is not negative, and values that are
    outside [0, 1] or do not fit the cells. Source: Gu et al. 2017 (BadNets), section 3.

    >>> Patch(cells=((-1, -1),))(torch.zeros(1, 1, 2, 2)).tolist()
    [[[[0.0, 0.0], [0.0, 1.0]]]]
    """

    cells: tuple[tuple[int, int], ...]
    values: tuple[tuple[float, ...], ...] = ((1.0,),)

    def __post_init__(self) -> None:
        cells = [(int(row), int(column)) for row, column in self.cells]
        rows = [tuple(float(value) for value in row) for row in self.values]
        if not cells or len(set(cells)) != len(cells):
            raise ValueError(f"cells: at least one position, each once, is expected, got {cells}")
        if any(row >= 0 or column >= 0 for row, column in cells):
            raise ValueError(
                "cells: positions counted from the bottom right corner are expected, all "
                f"negative; got {cells}. For positions from the top left use Patch.from_mask"
            )
        if len(rows) not in (1, len(cells)) or not rows[0] or len({len(r) for r in rows}) > 1:
            raise ValueError(
                f"values: one row, or one row for each of the {len(cells)} cells, all of one "
                f"length (1 or the number of channels), is expected, got {self.values}"
            )
        if not all(0 <= value <= 1 for row in rows for value in row):
            raise ValueError(f"values: numbers in [0, 1] are expected, got {self.values}")
        # One spelling for each patch, so that == and hash compare what is stamped.
        each = rows * len(cells) if len(rows) == 1 else rows
        ordered = sorted(zip(cells, each, strict=True))
        each = [row for _, row in ordered]
        object.__setattr__(self, "cells", tuple(cell for cell, _ in ordered))
        object.__setattr__(self, "values", tuple(each[:1] if len(set(each)) == 1 else each))

    @classmethod
    def square(cls, size: int, *, margin: int = 0, value: float | Iterable[float] = 1.0) -> Patch:
        """Make a `size` × `size` square of one colour, `margin` pixels from the bottom and right.

        `value` in [0, 1] is one number, or one a channel. Raises `ValueError` for a size below 1 or
        a negative margin.

        >>> print(Patch.square(2, margin=1))
        patch of 2×2 rectangle at -3…-2 × -3…-2 (from the bottom right), value 1
        """
        if size < 1 or margin < 0:
            raise ValueError(f"size >= 1 and margin >= 0 are expected, got {size} and {margin}")
        side = range(-size - margin, -margin)
        row = (float(value),) if isinstance(value, (int, float)) else tuple(value)
        return cls(tuple((i, j) for i in side for j in side), (row,))

    @classmethod
    def from_mask(cls, mask: Tensor, pattern: Tensor) -> Patch:
        """Make the patch that puts `pattern` [C, H, W] where `mask` [H, W] is true.

        Raises `ValueError` if the two do not fit or the mask is empty.
        """
        if mask.ndim != 2 or pattern.ndim != 3 or pattern.shape[1:] != mask.shape:
            raise ValueError(
                "mask [H, W] and pattern [C, H, W] are expected, got "
                f"{list(mask.shape)} and {list(pattern.shape)}"
            )
        height, width = mask.shape
        positions = mask.bool().nonzero().tolist()
        cells = tuple((i - height, j - width) for i, j in positions)
        values = tuple(tuple(pattern[:, i, j].tolist()) for i, j in positions)
        return cls(cells, values)

    def __call__(self, images: Tensor) -> Tensor:
        """Stamp a batch: [N, C, H, W] in [0, 1] -> a new tensor of the same shape.

        Raises as `check_images` does. Raises `ValueError` for images that are too small for the
        patch or have another number of channels.
        """
        check_images(images)
        _, channels, height, width = images.shape
        need_height = -min(row for row, _ in self.cells)
        need_width = -min(column for _, column in self.cells)
        if height < need_height or width < need_width:
            raise ValueError(
                f"images of at least {need_height}×{need_width} pixels are expected by this "
                f"patch, got {height}×{width}"
            )
        if len(self.values[0]) not in (1, channels):
            raise ValueError(
                f"images with {len(self.values[0])} channels are expected by this patch, "
                f"got {channels}"
            )
        rows, columns, values = _indices(self, channels, images.device, images.dtype)
        stamped = images.clone()
        stamped[:, :, rows, columns] = values
        return stamped

    def __str__(self) -> str:
        rows, columns = {i for i, _ in self.cells}, {j for _, j in self.cells}
        shape = f"{_span(rows)} × {_span(columns)}"
        whole = len(self.cells) == len(rows) * len(columns)
        if len(self.values) > 1:
            colour = "its own pattern"
        else:
            colour = ", ".join(f"{value:.3g}" for value in self.values[0])
        what = f"{len(rows)}×{len(columns)} rectangle" if whole else f"{len(self.cells)} pixels"
        return f"patch of {what} at {shape} (from the bottom right), value {colour}"

    def to_dict(self) -> dict[str, Any]:
        """Give the patch as plain JSON data; `Patch.from_dict` reads it back exactly."""
        return {
            "kind": "patch",
            "cells": [list(cell) for cell in self.cells],
            "values": [list(row) for row in self.values],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Patch:
        """Read back what `to_dict` gave; raises `ValueError` for anything else."""
        if data.get("kind") != "patch" or not {"cells", "values"} <= set(data):
            raise ValueError(
                "a mapping with kind='patch', cells and values is expected, "
                f"got kind={data.get('kind')!r} and keys {sorted(data)}"
            )
        return cls(tuple(map(tuple, data["cells"])), tuple(map(tuple, data["values"])))


def _span(positions: set[int]) -> str:
    low, high = min(positions), max(positions)
    return f"{low}" if low == high else f"{low}…{high}"


# A trigger is stamped on every batch of a training run: its index tensors are built once.
@lru_cache(maxsize=64)
def _indices(
    patch: Patch, channels: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False):  # what is kept may be used where gradients are taken
        rows, columns = torch.tensor(patch.cells, device=device).T
        values = torch.tensor(patch.values, device=device, dtype=dtype).T  # [1 or C, 1 or n]
        return rows, columns, values.expand(channels, len(patch.cells))
