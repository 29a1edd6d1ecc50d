"""from_torchvision: PIL images, arrays and tensors all arrive as the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ibau_lite.data import from_torchvision

PIXELS = np.random.default_rng(0).integers(256, size=(12, 6, 7, 3), dtype=np.uint8)


class Listed:
    """The least that a torchvision-style dataset is."""

    def __init__(self, images, labels, classes=None) -> None:
        self.items = list(zip(images, labels, strict=True))
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


KINDS = {
    "array": lambda pixels: pixels,
    "PIL": Image.fromarray,
    "bytes tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "float tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_gives_the_same_tensors(kind: str) -> None:
    labels = [torch.tensor(k % 4) if kind == "PIL" else k % 4 for k in range(12)]
    half = Listed([KINDS[kind](pixels) for pixels in PIXELS], labels)
    dataset = from_torchvision(half, half, clean=3, validation=1)
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    assert torch.equal(dataset.train.images, expected)
    assert dataset.train.labels.tolist() == [k % 4 for k in range(12)]
    assert [len(p) for p in (dataset.clean, dataset.validation, dataset.test)] == [3, 1, 8]
    assert (dataset.name, dataset.num_classes) == ("listed", 4)
    assert dataset.source.startswith("listed (torchvision-style dataset), sha256 ")


def test_classes_and_name_are_taken_over() -> None:
    half = Listed(PIXELS, [0] * 12, classes=["a", "b"])
    dataset = from_torchvision(half, half, name="mine")
    assert (dataset.name, dataset.class_names) == ("mine", ("a", "b"))


def test_grey_images_get_a_channel() -> None:
    half = Listed(PIXELS[..., 0], [0] * 12)
    assert from_torchvision(half, half).shape == (1, 6, 7)


FLOATS = torch.rand(3, 6, 7)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (FLOATS * 4 - 2, ValueError, r"train_half\[1\] has values from -.*without|normalisation"),
        (FLOATS * float("nan"), ValueError, r"train_half\[1\] has values from nan"),
        (FLOATS.numpy(), TypeError, r"train_half\[1\] must be a PIL image.*ndarray of float32"),
        ("picture.png", TypeError, r"train_half\[1\] must be a PIL image.*got str"),
        (PIXELS[0, :5], ValueError, r"shape \(5, 7, 3\), but train_half\[0\] has \(6, 7, 3\)"),
    ],
)
def test_an_unsuitable_image_is_named(image, error, words) -> None:
    with pytest.raises(error, match=words):
        from_torchvision(Listed([PIXELS[0], image], [0, 0]), Listed(PIXELS, [0] * 12))


def test_an_empty_half_is_refused() -> None:
    with pytest.raises(ValueError, match="test_half is empty"):
        from_torchvision(Listed(PIXELS, [0] * 12), Listed([], []))
