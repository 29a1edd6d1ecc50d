"""Any pair of torchvision-style datasets: objects with a length and (image, label) items."""

from __future__ import annotations

import operator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibau_lite.data import class_names, pictures
from ibau_lite.data.halves import Halves
from ibau_lite.data.labelled import Dataset
from ibau_lite.data.splits import Sizes, split
from ibau_lite.files import refusing, shown


class TorchvisionStyle(Protocol):
    """What is asked of a dataset; `classes`, a list of names, is used if it is there."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


def from_torchvision(
    train_half: TorchvisionStyle,
    test_half: TorchvisionStyle,
    *,
    name: str | None = None,
    seed: int = 0,
    clean: int | None = None,
    validation: int | None = None,
    train: int | None = None,
    test: int | None = None,
) -> Dataset:
    """Read two torchvision-style datasets into memory and split them as `load` does.

    An image may be a PIL image (converted to 8-bit grey or RGB as `pictures.to_8_bit` says), an array
    [H, W] or [H, W, C] of uint8, or a tensor [C, H, W] of uint8 or of floats in [0, 1], which are
    rounded to 1/255; all must have one size. Labels are whole numbers from 0 to 99,999. Give the
    datasets no random transform and no normalisation. `name` is by default that of the class of
    `train_half`, in lower case. Raises TypeError for another kind of image or label, ValueError for
    images that differ in shape or that `pictures.to_8_bit` refuses, values outside [0, 1], labels out
    of range, or too few images for the sizes asked for.
    """
    x_train, y_train = _read_half(train_half, "train_half")
    x_test, y_test = _read_half(test_half, "test_half")
    given = getattr(train_half, "classes", None)
    names = (
        class_names.printable(tuple(given))
        if given is not None
        else class_names.numbered(int(max(y_train.max(), y_test.max())) + 1)
    )
    name = name or type(train_half).__name__.lower()
    halves = Halves(x_train, y_train, x_test, y_test, names, f"{name} (torchvision-style dataset)")
    sizes = Sizes.with_defaults(None, len(x_test), clean, validation, train, test)
    return split(name, halves, sizes, seed)


def _read_half(half: TorchvisionStyle, which: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(half) == 0:
        raise ValueError(f"{which} is empty")
    images, labels = [], []
    for index in range(len(half)):
        image, label = half[index]
        images.append(_as_bytes(image, f"{which}[{index}]"))
        labels.append(_as_label(label, f"{which}[{index}]"))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{which}[{index}] has shape {images[-1].shape}, but {which}[0] has "
                f"{images[0].shape}; give the dataset a transform that resizes"
            )
    return np.stack(images), np.array(labels, np.int64)


def _as_label(label: Any, where: str) -> int:
    try:
        number = operator.index(label)
    except TypeError as error:
        raise TypeError(
            f"{where}: a whole number is expected as label, got {shown(label)}"
        ) from error
    if not 0 <= number < class_names.MAX_CLASSES:
        raise ValueError(
            f"{where}: a label in 0 … {class_names.MAX_CLASSES - 1} is expected, got {shown(number)}"
        )
    return number


def _as_bytes(image: Any, where: str) -> NDArray[np.uint8]:
    """One image as uint8 [H, W, C]."""
    from PIL import Image

    if isinstance(image, Image.Image):
        with refusing(where, "it cannot be read as a picture"):
            image = np.asarray(pictures.to_8_bit(image))
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        if image.is_floating_point():
            low, high = (float(bound) for bound in torch.aminmax(image))
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"{where} has values from {low:g} to {high:g}; expected [0, 1] "
                    "(leave out the normalisation: models here take images in [0, 1])"
                )
            image = image.mul(255).round().to(torch.uint8)
        image = image.movedim(0, -1).numpy() if image.ndim == 3 else image.numpy()
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TypeError(
            f"{where} must be a PIL image, a uint8 array [H, W, C], or a tensor [C, H, W]; got "
            f"{type(image).__name__} of {array.dtype} with shape {list(array.shape)}"
        )
    return array if array.ndim == 3 else array[..., None]
