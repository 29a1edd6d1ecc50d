"""Pictures as bytes: what a file or a picture says of its pixels is obeyed, or refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibau_lite.files import Refused, open_regular, refusing

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "WEBP", "TIFF")
"""The decoders that a file can get, whatever its name says."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"}

MOST_PIXELS = 25_000_000
_MOST_BYTES = 160 * 2**20  # a picture of so many pixels, 16 bits a channel, not packed
_ORIENTATION = 0x0112  # the number of this entry in EXIF


def read(path: Path, size: int) -> NDArray[np.uint8]:
    """The first frame of a picture as RGB, uint8 [size, size, 3], turned as its EXIF says.

    Read are regular files of at most 160 MiB in one of `FORMATS`, and pictures of at most 25
    million pixels, which take at most 400 MiB on their way. Raises ValueError, that begins with
    the file's name, for others, for one that is damaged, and as `plain` does.
    """
    from PIL import Image

    with open_regular(path) as stream, refusing(path, "cannot be read as a picture"):
        if os.fstat(stream.fileno()).st_size > _MOST_BYTES:
            raise Refused(f"a picture of at most {_MOST_BYTES // 2**20} MiB is expected")
        with Image.open(stream, formats=FORMATS) as image:
            small = to_8_bit(image).resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(small.convert("RGB"))


def to_8_bit(image: Image) -> Image:
    """The same picture with 8-bit pixels that are grey ("L") or RGB, turned as its EXIF says.

    16-bit grey is divided by 257 (65,535 is white); palettes and other colour spaces are looked up
    and converted. Raises ValueError for what has no such meaning: floating-point and 32-bit pixels,
    whose white nobody states; pixels that are transparent, whose colour nobody sees; and for more
    than 25 million pixels, before they are decoded.
    """
    from PIL import ImageOps

    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Refused(f"at most {MOST_PIXELS:,} pixels are expected, got {width} × {height}")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if _may_be_transparent(image):
        return _opaque(image)
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"):
        return image.convert("RGB")
    raise Refused(f"8- or 16-bit pixels are expected, got the kind {image.mode!r}; {_ADVICE}")


_ADVICE = "convert it to 8-bit RGB or grey, as you see it"


def _may_be_transparent(image: Image) -> bool:
    palette = image.palette is not None and image.palette.mode.endswith("A")
    mode = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    return mode or palette or "transparency" in image.info


def _opaque(image: Image) -> Image:
    grey = image.mode in ("L", "LA", "1")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    if int(np.asarray(image.getchannel("A")).min()) < 255:
        raise Refused(f"it has transparent pixels, which have no colour; {_ADVICE}")
    return image.getchannel("R") if grey else image.convert("RGB")


def _from_16_bits(image: Image) -> Image:
    """Grey of 16 bits, which some files of PNG and PGM give as 32-bit integers."""
    from PIL import Image as pil

    format, tags = getattr(image, "format", None), getattr(image, "tag_v2", {})
    odd = format == "TIFF" and (tags.get(258) != (16,) or tags.get(262) != 1)  # bits; 0 is black
    if odd or "transparency" in image.info or (image.mode == "I" and format not in ("PNG", "PPM")):
        raise Refused(f"pixels of plain 16-bit grey are expected, got another kind; {_ADVICE}")
    values = np.asarray(image)
    if image.mode == "I" and not 0 <= values.min() <= values.max() <= 65535:
        raise Refused("its pixels do not lie in 0 … 65535")
    to_8_bits = np.rint(np.arange(65536) / 257).astype(np.uint8)
    grey = np.empty(values.shape, np.uint8)
    for row, given in zip(grey, values, strict=True):  # the indices of all would take 8 bytes each
        row[...] = to_8_bits[given]
    return pil.fromarray(grey)
