"""Small sound files of every kind that the library reads."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ibau_lite import attacks, checkpoints
from ibau_lite.attacks import Additive, AllToOne, Attack, Overlay, Pattern

RNG = np.random.default_rng(0)


def model(seed: int = 0) -> nn.Module:
    """The network that checkpoints are loaded into."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4))


def npz() -> list[bytes]:
    arrays = {
        "x_train": RNG.integers(256, size=(8, 5, 6, 3), dtype=np.uint8),
        "y_train": np.arange(8) % 3,
        "x_test": RNG.integers(256, size=(20, 5, 6, 3), dtype=np.uint8),
        "y_test": (np.arange(20) % 3).astype(np.uint8),
    }
    named = {**arrays, "class_names": np.array(["a", "b", "c"]), "source": np.array("a camera")}
    contents = []
    for write, given in ((np.savez, arrays), (np.savez_compressed, named)):
        stream = io.BytesIO()
        write(stream, **given)
        contents.append(stream.getvalue())
    return contents


def pictures() -> list[bytes]:
    colours = Image.fromarray(RNG.integers(256, size=(9, 11, 3), dtype=np.uint8))
    grey = colours.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: list[tuple[Image.Image, str, dict]] = [
        (colours, "PNG", {}),
        (colours, "PNG", {"exif": exif}),
        (colours.convert("P"), "PNG", {"transparency": 255}),
        (grey.convert("1"), "PNG", {}),
        (grey.convert("LA"), "PNG", {}),
        (deep, "PNG", {}),
        (colours, "PNG", {"save_all": True, "append_images": [colours]}),
        (colours, "JPEG", {"exif": exif, "quality": 90}),
        (colours, "JPEG", {"progressive": True}),
        (colours.convert("CMYK"), "JPEG", {}),
        (colours, "PPM", {}),
        (grey, "PPM", {}),
        (colours, "BMP", {}),
        (colours.convert("P"), "BMP", {}),
        (colours, "WEBP", {"lossless": True, "exif": exif}),
        (colours, "WEBP", {"save_all": True, "append_images": [colours.rotate(90)] * 3}),
        (colours, "TIFF", {}),
        (colours, "TIFF", {"compression": "tiff_lzw"}),
        (colours, "TIFF", {"compression": "jpeg"}),
        (colours.convert("LAB"), "TIFF", {}),
        (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
    ]
    contents = []
    for image, format, options in ways:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        contents.append(stream.getvalue())
    return contents


def checkpoint() -> list[bytes]:
    state = model(1).state_dict()
    contents = []
    for content in (state, {"net": state, "acc": 0.9, "epoch": 3, "sizes": [torch.Size([2]), {1}]}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            contents.append(stream.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        checkpoints.save(model(1), path, {"accuracy": 0.9, "told": ["ü", None]})
        contents.append(path.read_bytes())
    return contents


def attack() -> list[bytes]:
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    told = json.dumps({"algorithm": "none", "steps": 3})
    dense = Attack(
        "dense",
        (
            (Overlay(Pattern.of(picture[:1].round()), Pattern.of(picture), told), AllToOne(2)),
            (Additive(Pattern.of(picture - 0.5), rescale=True, provenance=told), AllToOne(0)),
        ),
    )
    kinds = [dense, attacks.badnets(3), attacks.badnets_all_to_all(10), attacks.blend(1)]
    kinds += [attacks.sig(2), attacks.wanet(4, seed=3), attacks.control(attacks.badnets(1))]
    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for each in kinds:
            attacks.save(each, Path(folder) / "a")
            contents.append((Path(folder) / "a").read_bytes())
    return contents


def deep(depth: int) -> list:
    """A list in a list in a list …"""
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    7,
    255,
    2**31,
    2**32 - 1,
    2**63,
    -(2**63),
    10**40,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "x" * 5000,
    "\x1b[2J\x00\n\u202e",
    "../../x",
    "\ud800",
    "ibau_lite",
    [],
    {},
    [[]],
    {"kind": "patch"},
    [1, 2, 3],
    [0] * 5000,
    {"a": {"b": []}},
    deep(50),
    deep(200),
    "AllToOne",
]
"""JSON values to put where they do not belong."""
