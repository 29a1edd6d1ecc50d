"""Images with labels, and a dataset of four disjoint parts: the two values that travel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their labels: float32 [N, C, H, W] in [0, 1] and int64 [N] from 0 upwards.

    `len(labelled)` is N; `labelled[index]` takes a slice, a list, or a tensor of positions or
    booleans, and gives a `LabelledImages` again. Raises TypeError if a field is not a tensor, ValueError
    for a wrong shape, dtype or device, a negative label, or a value outside [0, 1] (or NaN).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        for name, value in (("images", images), ("labels", labels)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if images.ndim != 4:
            raise ValueError(f"images must have shape [N, C, H, W], got {list(images.shape)}")
        if images.dtype != torch.float32:
            raise ValueError(
                f"images must be float32 in [0, 1], got {images.dtype}; "
                "for bytes use images.float().div(255)"
            )
        if labels.ndim != 1 or len(labels) != len(images):
            raise ValueError(
                f"labels must have shape [{len(images)}], one for each image, "
                f"got {list(labels.shape)}"
            )
        if labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {labels.dtype}; use labels.long()")
        if images.device != labels.device:
            raise ValueError(
                f"images and labels must be on one device, got {images.device} and {labels.device}"
            )
        if images.numel():
            low, high = (float(bound) for bound in torch.aminmax(images.detach()))
            if not (low >= 0 and high <= 1):
                raise ValueError(f"images must lie in [0, 1], got values from {low:g} to {high:g}")
        if len(labels) and int(labels.min()) < 0:
            raise ValueError(f"labels must count from 0, got {int(labels.min())}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | list[int] | Tensor) -> LabelledImages:
        if isinstance(index, int) or getattr(index, "ndim", None) == 0:
            one = int(index)  # type: ignore[arg-type]
            raise TypeError(f"one image is labelled[{one}:{one + 1}]; an index keeps the batch")
        return _checked_already(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> LabelledImages:
        """The same images and labels on `device`."""
        return _checked_already(self.images.to(device), self.labels.to(device))


def _checked_already(images: Tensor, labels: Tensor) -> LabelledImages:
    """Build from parts of a valid `LabelledImages`: reading every pixel again would cost more than it."""
    labelled = object.__new__(LabelledImages)
    object.__setattr__(labelled, "images", images)
    object.__setattr__(labelled, "labels", labels)
    return labelled


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named dataset in four disjoint parts.

    `train` belongs to whoever trains the model (and may be poisoned); `clean` is what the defender
    owns; `validation` is for choosing settings; `test` is for reporting. `source` says where the
    bytes came from and follows every result. Raises ValueError if the parts differ in image shape
    or if a label has no name in `class_names`.
    """

    name: str
    train: LabelledImages
    clean: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "clean", "validation", "test"):
            labelled: LabelledImages = getattr(self, part)
            shape = tuple(labelled.images.shape[1:])
            if shape != self.shape:
                raise ValueError(f"{part} has images {shape}, but train has {self.shape}")
            if len(labelled) and int(labelled.labels.max()) >= self.num_classes:
                raise ValueError(
                    f"{part} has the label {int(labelled.labels.max())}, but there are only "
                    f"{self.num_classes} class names"
                )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{part}={len(getattr(self, part))}"
            for part in ("train", "clean", "validation", "test")
        )
        return f"Dataset({self.source}: {self.num_classes} classes of {self.shape}, {sizes})"
