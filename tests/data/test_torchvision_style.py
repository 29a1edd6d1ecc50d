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


@pytest.mark.parametrize(
    ("label", "error", "words"),
    [
        (0.7, TypeError, r"train_half\[1\]: a whole number is expected as label, got 0.7"),
        ("3", TypeError, "a whole number is expected as label, got 3"),
        (torch.tensor(1.0), TypeError, "a whole number is expected"),
        (np.eye(3)[1], TypeError, "a whole number is expected"),
        (-1, ValueError, "a label in 0 … 99999 is expected, got -1"),
        (2**32 - 1, ValueError, "a label in 0 … 99999 is expected, got 4294967295"),
        pytest.param(10**5000, ValueError, "a label in 0 … 99999 is expected", id="huge"),
    ],
)
def test_a_label_is_a_class_number(label, error, words) -> None:
    """One label of 2³² − 1 made as many names of classes."""
    with pytest.raises(error, match=words):
        from_torchvision(Listed(PIXELS[:2], [0, label]), Listed(PIXELS, [0] * 12))


def test_labels_of_numpy_and_torch_are_whole_numbers() -> None:
    labels = [np.uint8(1), np.int64(2), torch.tensor(3), 0] * 3
    half = Listed(PIXELS, labels)
    assert from_torchvision(half, half).train.labels.tolist() == [1, 2, 3, 0] * 3


def shown_as(image: Image.Image):
    """The colours that `from_torchvision` gives for a picture, 0 … 255."""
    dataset = from_torchvision(Listed([image], [0]), Listed([image] * 8, [0] * 8))
    return (dataset.train.images[0] * 255).round().byte().permute(1, 2, 0).numpy()


def test_pictures_are_read_as_they_say() -> None:
    """Palette indices passed as grey, and three channels of whatever kind as RGB."""
    picture = Image.fromarray(PIXELS[0])
    for mode in ("HSV", "YCbCr", "LAB", "CMYK"):
        close = shown_as(picture.convert(mode)).astype(int) - PIXELS[0]
        assert abs(close).mean() < 6, mode
    palette = Image.new("P", (7, 6), 1)
    palette.putpalette([0, 0, 0, 200, 30, 10])
    assert (shown_as(palette) == (200, 30, 10)).all()
    assert (shown_as(Image.new("1", (7, 6), 1)) == 255).all()
    assert (shown_as(picture.convert("RGBA")) == PIXELS[0]).all()
    grey = PIXELS[0, :, :, 0].astype(np.uint16) * 257
    assert (shown_as(Image.fromarray(grey))[..., 0] == PIXELS[0, :, :, 0]).all()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS[0, :, :, 0].astype(np.int32)),
        Image.fromarray(PIXELS[0, :, :, 0].astype(np.float32)),
        Image.fromarray(PIXELS[0]).convert("RGBA").point(lambda value: value // 2),
    ],
    ids=lambda image: image.mode,
)
def test_pictures_without_a_stated_meaning_are_refused(image) -> None:
    with pytest.raises(ValueError, match=r"train_half\[0\].*convert it to 8-bit RGB or grey"):
        shown_as(image)


def test_a_picture_that_lies_on_its_side_is_turned() -> None:
    image = Image.fromarray(PIXELS[0])
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    image.info["exif"] = exif.tobytes()
    before = image.tobytes()
    assert (shown_as(image) == np.rot90(PIXELS[0], -1)).all()
    assert image.tobytes() == before


def test_an_empty_half_is_refused() -> None:
    with pytest.raises(ValueError, match="test_half is empty"):
        from_torchvision(Listed(PIXELS, [0] * 12), Listed([], []))
