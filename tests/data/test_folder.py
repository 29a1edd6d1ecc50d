"""load_image_folder: classes are folders, pictures are resized, and trouble is named."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from ibau_lite.data import load_image_folder

COLOURS = {"bee": (250, 200, 10), "ant": (20, 30, 40)}


@pytest.fixture
def pictures(tmp_path):
    for half, count in (("train", 3), ("test", 10)):
        for name, colour in COLOURS.items():
            (tmp_path / half / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40 + number, 30), colour)
                image.save(tmp_path / half / name / f"{number}.{'png' if number else 'PPM'}")
            (tmp_path / half / name / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folders_become_classes_in_alphabetical_order(pictures) -> None:
    dataset = load_image_folder(pictures, size=16, clean=6, validation=4)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.shape == (3, 16, 16)
    assert [len(p) for p in (dataset.train, dataset.clean, dataset.validation, dataset.test)] == [
        6, 6, 4, 10,
    ]  # fmt: skip
    for part in (dataset.train, dataset.clean, dataset.validation, dataset.test):
        expected = np.array([COLOURS[dataset.class_names[k]] for k in part.labels]) / 255
        found = part.images.mean(dim=(2, 3)).numpy()
        assert np.allclose(found, expected, atol=1e-6)
    assert dataset.source.startswith(f"{pictures.name} (image folder), sha256 ")


def test_a_missing_half_is_explained(pictures) -> None:
    (pictures / "test").rename(pictures / "elsewhere")
    with pytest.raises(ValueError, match=r"test has no class folders; expected .*<class>/\*.png"):
        load_image_folder(pictures)


def test_a_class_that_was_never_trained_is_named(pictures) -> None:
    (pictures / "test" / "cow").mkdir()
    with pytest.raises(ValueError, match="classes that train has not: cow"):
        load_image_folder(pictures)


def test_folders_without_pictures_are_refused(tmp_path) -> None:
    for half in ("train", "test"):
        (tmp_path / half / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train has no pictures \(.bmp"):
        load_image_folder(tmp_path)


def test_a_damaged_picture_is_named(pictures) -> None:
    (pictures / "train" / "ant" / "1.png").write_bytes(b"not a png")
    with pytest.raises(ValueError, match=r"1\.png: cannot be read as a picture"):
        load_image_folder(pictures)


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_size_is_a_number_of_pixels(pictures, size) -> None:
    with pytest.raises(ValueError, match="size must be a number of pixels"):
        load_image_folder(pictures, size=size)


def save(root, half: str, name: str, value: int, count: int = 4) -> None:
    """Pictures of one grey, by which they are recognised afterwards."""
    (root / half / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (9, 9), (value, value, value)).save(root / half / name / f"{number}.png")


def greys_of(dataset) -> dict[int, set[int]]:
    """For each label the greys of its pictures."""
    values = (dataset.train.images.mean(dim=(1, 2, 3)) * 255).round().long().tolist()
    pairs = list(zip(dataset.train.labels.tolist(), values, strict=True))
    return {label: {value for other, value in pairs if other == label} for label, _ in pairs}


def test_folders_0_to_42_have_the_labels_0_to_42(tmp_path) -> None:
    """As text, 10 comes before 2: a network of GTSRB read 5.2 % of these instead of 94 %."""
    for half in ("train", "test"):
        for number in range(43):
            save(tmp_path, half, str(number), 3 * number)
    dataset = load_image_folder(tmp_path, size=8)
    assert dataset.class_names == tuple(str(number) for number in range(43))
    assert greys_of(dataset) == {number: {3 * number} for number in range(43)}


def test_numbers_with_and_without_zeros_in_front_are_numbers(tmp_path) -> None:
    for half in ("train", "test"):
        for number, name in enumerate(("00", "1", "002", "10")):
            save(tmp_path, half, name, 20 * number)
    with pytest.warns(UserWarning, match="numbered, but not 0 … 3.*folder 10 has the label 3"):
        dataset = load_image_folder(tmp_path, size=8)
    assert dataset.class_names == ("00", "1", "002", "10")
    assert greys_of(dataset) == {0: {0}, 1: {20}, 2: {40}, 3: {60}}
    save(tmp_path, "train", "01", 9)
    with pytest.raises(ValueError, match="two folders of one number"):
        load_image_folder(tmp_path, size=8)


def test_hidden_folders_and_files_are_no_classes_and_no_pictures(tmp_path) -> None:
    """A notebook's .ipynb_checkpoints became class 0 and moved every label by one."""
    for half in ("train", "test"):
        for value, name in enumerate(("ant", "bee")):
            save(tmp_path, half, name, 50 * value + 50)
            (tmp_path / half / name / "._0.png").write_bytes(b"of another file system")
        save(tmp_path, half, ".ipynb_checkpoints", 0)
        (tmp_path / half / ".git").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_image_folder(tmp_path, size=8)
    assert dataset.class_names == ("ant", "bee")
    assert greys_of(dataset) == {0: {50}, 1: {100}}


@pytest.mark.parametrize("half", ["train", "test"])
def test_a_class_without_pictures_is_refused(pictures, half) -> None:
    """An empty folder moved the labels of all that follow."""
    for each in ("train", "test"):
        save(pictures, each, "aaa", 7)
    for picture in (pictures / half / "aaa").iterdir():
        picture.unlink()
    with pytest.raises(ValueError, match=rf"{half} has no pictures \(.bmp.*\) of aaa; every class"):
        load_image_folder(pictures)
    (pictures / "test" / "aaa" / "x.gif").touch()
    with pytest.raises(ValueError, match=rf"{half} has no pictures"):
        load_image_folder(pictures)


def test_a_class_that_is_not_tested_is_refused(pictures) -> None:
    save(pictures, "train", "cow", 7)
    with pytest.raises(ValueError, match=r"test has no pictures .* of cow"):
        load_image_folder(pictures)


def put(pictures, content: bytes, name: str = "1.png") -> None:
    (pictures / "train" / "ant" / name).write_bytes(content)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def loaded(pictures, content: bytes, name: str = "0.PPM"):
    """The pixels that a picture gets, as bytes [8, 8, 3]."""
    (pictures / "train" / "ant" / "0.PPM").unlink(missing_ok=True)
    put(pictures, content, name)
    dataset = load_image_folder(pictures, size=8)
    return (dataset.train.images[0] * 255).round().byte().permute(1, 2, 0).numpy()


def tiff(array, **tags) -> bytes:
    return encoded(Image.fromarray(array), "TIFF", **tags)


RAMP_16 = RAMP.astype(np.uint16) * 257


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(RAMP_16), "PNG"),
        tiff(RAMP_16),
        tiff(RAMP_16.astype(">u2")),
        b"P5 8 8 65535\n" + RAMP_16.astype(">u2").tobytes(),
        b"P5 8 8 255\n" + RAMP.tobytes(),
        encoded(Image.fromarray(RAMP), "WEBP", lossless=True),
        encoded(Image.fromarray(RAMP).convert("LA"), "PNG"),
        encoded(Image.fromarray(RAMP).convert("P"), "PNG"),
        encoded(Image.fromarray(RAMP), "PNG", transparency=1),  # a grey that no pixel has
    ],
    ids=["png16", "tiff16", "tiff16 big", "pgm16", "pgm", "webp", "grey+alpha", "palette", "key"],
)
def test_grey_of_every_kind_is_the_same_grey(pictures, content) -> None:
    """16-bit grey became white, whatever it showed."""
    if content[1:4] == b"PNG" and b"tRNS" in content:
        assert 1 not in RAMP
    assert np.array_equal(loaded(pictures, content), RAMP[..., None].repeat(3, -1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tiff(RAMP.astype(np.int32)), "16-bit grey are expected"),
        (tiff(RAMP.astype(np.float32) / 255), "8- or 16-bit pixels are expected, got the kind 'F'"),
        (tiff(RAMP_16, tiffinfo={262: 0}), "16-bit grey are expected"),  # 0 is white
        (b"Pf 8 8 1.0\n" + RAMP.astype(np.float32).tobytes(), "the kind 'F'"),
        (encoded(Image.new("RGBA", (8, 8), (9, 9, 9, 128)), "PNG"), "has transparent pixels"),
        (encoded(Image.fromarray(RAMP), "PNG", transparency=255), "has transparent pixels"),
        (encoded(Image.fromarray(RAMP), "GIF"), "UnidentifiedImageError"),
    ],
    ids=["int32", "float", "white is 0", "float map", "transparent", "key", "gif"],
)
def test_pixels_without_a_stated_meaning_are_refused(pictures, content, says) -> None:
    with pytest.raises(ValueError, match=says):
        loaded(pictures, content)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(pictures, format, orientation) -> None:
    upright = Image.new("RGB", (8, 8), (250, 250, 250))
    upright.paste((10, 10, 10), (0, 0, 8, 2))  # a bar above,
    upright.paste((120, 120, 120), (0, 0, 2, 8))  # another at the left
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
             6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    turn = turns.get(orientation)
    stored = upright.transpose(Image.Transpose[turn]) if turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, format, exif=exif, quality=100)
    difference = loaded(pictures, content).astype(int) - np.asarray(upright)
    assert abs(difference).mean() < 8


def test_no_other_decoder_is_started(pictures, monkeypatch) -> None:
    """PostScript that is named x.png was handed to Ghostscript."""
    from PIL import EpsImagePlugin

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: started.append(args))
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        loaded(pictures, content, "x.png")
    assert not started
    put(pictures, encoded(Image.fromarray(RAMP), "JPEG"), "x.png")  # a documented one is welcome
    load_image_folder(pictures)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_pixels_are_counted_before_they_are_decoded(pictures) -> None:
    """22 kB of one bit a pixel became 0.9 GiB."""
    side = 9400  # below Pillow's own limit
    rows = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(png) < 25_000
    with pytest.raises(ValueError, match="at most 25,000,000 pixels are expected, got 9400 × 9400"):
        loaded(pictures, png)


def test_only_the_first_frame_is_read(pictures) -> None:
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (40, 90, 200)]
    for format in ("WEBP", "PNG", "TIFF"):
        more = {"append_images": frames[1:], "save_all": True}
        if format == "WEBP":
            more["lossless"] = True
        content = encoded(frames[0], format, **more)
        assert (loaded(pictures, content) == 40).all()


def test_only_regular_files_are_opened(pictures, impatient) -> None:
    os.mkfifo(pictures / "train" / "ant" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png: a regular file is expected, got a pipe"):
        load_image_folder(pictures)
    (pictures / "train" / "ant" / "pipe.png").unlink()
    (pictures / "train" / "ant" / "zero.png").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"zero\.png: a regular file is expected, got a device"):
        load_image_folder(pictures)


def test_names_of_folders_can_be_shown(tmp_path) -> None:
    for half in ("train", "test"):
        for name in ("a\x1b[2J\n", "b\udcff"):
            save(tmp_path, half, name, 9)
    dataset = load_image_folder(tmp_path, size=8)
    assert dataset.class_names == (r"a\x1b[2J\n", r"b\udcff")


def test_every_16_bit_grey_is_divided_and_rounded() -> None:
    from ibau_lite.data.pictures import to_8_bit

    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(np.asarray(to_8_bit(Image.fromarray(grey))), np.rint(grey / 257))
