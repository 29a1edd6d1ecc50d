"""Files that are made on purpose, by target, each named after what it tries."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from seeds import attack, deep, model, npz


def zipped(parts: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return stream.getvalue()


def saved(content: object, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def arrays(packed: bool = True, **changes: np.ndarray) -> bytes:
    with np.load(io.BytesIO(npz()[0])) as sound:
        given = {**sound, **changes}
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **given)
    return stream.getvalue()


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def with_pickle(program: bytes) -> bytes:
    """A file of torch.save with another pickle."""
    return zipped(
        {"archive/data.pkl": program, "archive/data/0": bytes(64), "archive/version": b"3"}, 0
    )


class Command:
    """Whoever obeys the pickle of this writes the file that tells."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def png(width: int, height: int, depth: int, kind: int, *more: tuple[bytes, bytes]) -> bytes:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * depth * channels + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), *more]
    chunks += [(b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def picture(mode: str, size: tuple[int, int], format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format, **options)
    return stream.getvalue()


def animation() -> bytes:
    frames = [Image.new("RGB", (9, 9), (value, 0, 0)) for value in range(200)]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    content = bytearray(stream.getvalue())
    at = content.index(b"VP8X") + 12  # a canvas of 16,384 × 16,384
    content[at : at + 6] = b"\xff\x3f\x00\xff\x3f\x00"
    return bytes(content)


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """A directory of (tag, type, count, value), and nothing else."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


def tensors(header: dict, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def described(**changes: object) -> bytes:
    """An attack whose description says something else."""
    content = attack()[1]
    size = int.from_bytes(content[:8], "little")
    data = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["ibau_lite_attack"])
    return safetensors.torch.save(
        {"w": torch.zeros(1)}, {"ibau_lite_attack": json.dumps({**data, **changes})}
    )


def trigger(**data: object) -> bytes:
    pair = {"trigger": data, "rule": {"kind": "AllToOne", "target": 1}}
    return described(pairs=[pair])


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def hole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**40)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def command(path: Path) -> None:
    path.write_bytes(saved({"net": model().state_dict(), "acc": Command(path.with_name("ran"))}))


def old_command(path: Path) -> None:
    path.write_bytes(pickle.dumps(Command(path.with_name("ran")), protocol=0))


def command_in_npz(path: Path) -> None:
    path.write_bytes(arrays(y_test=np.array([Command(path.with_name("ran"))] * 20, object)))


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a device": device,
    "a folder": folder,
    "a hole of 1 TiB": hole,
    "a link to itself": loop,
}

HOSTILE: dict[str, dict[str, Callable[[], bytes] | Callable[[Path], None]]] = {
    "npz": {
        **SPECIAL,
        "empty": lambda: b"",
        "a label of 2³² − 1": lambda: arrays(y_test=np.array([2**32 - 1] * 20, np.uint32)),
        "a label of 2⁶⁴ − 1": lambda: arrays(y_test=np.array([2**64 - 1] * 20, np.uint64)),
        "gigabytes of zeros": lambda: arrays(x_train=np.zeros((2, 2**14, 2**14, 1), np.uint8)),
        "gigabytes of zeros beside": lambda: arrays(extra=np.zeros(2**29, np.uint8)),
        "a header that claims terabytes": lambda: zipped(
            {
                f"{name}.npy": npy(
                    "{'descr':'|u1','fortran_order':False,'shape':(99999999,999,99,3)}"
                )
                for name in ("x_train", "y_train", "x_test", "y_test")
            }
        ),
        "a nested header": lambda: zipped({"x_train.npy": npy("(" * 9000)}),
        "a text of gigabytes": lambda: zipped(
            {"source.npy": npy("{'descr':'<U999999999','shape':()}")}
        ),
        "a million members": lambda: zipped({f"{i}.npy": b"" for i in range(200_000)}, 0),
        "LZMA": lambda: zipped({"x_train.npy": bytes(10**7)}, zipfile.ZIP_LZMA),
        "a command": command_in_npz,
        "many names": lambda: arrays(class_names=np.full(10**6, "x")),
        "control characters": lambda: arrays(class_names=np.array(["\x1b[2J"] * 3)),
    },
    "folder": {
        **SPECIAL,
        "empty": lambda: b"",
        "PostScript": lambda: (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
        ),
        "a bit a pixel": lambda: png(9400, 9400, 1, 0),
        "RGBA of Pillow's limit": lambda: png(9400, 9400, 8, 6),
        "16 bits of Pillow's limit": lambda: png(9400, 9400, 16, 0),
        "over Pillow's limit": lambda: png(20000, 20000, 1, 0),
        "RGBA of our limit": lambda: png(5000, 5000, 8, 6),
        "16-bit RGB of our limit": lambda: png(5000, 5000, 16, 2),
        "16-bit grey of our limit": lambda: png(5000, 5000, 16, 0),
        "a palette of our limit": lambda: png(
            5000, 5000, 8, 3, (b"PLTE", bytes(768)), (b"tRNS", b"\xff")
        ),
        "CMYK of our limit": lambda: picture("CMYK", (5000, 5000), "JPEG"),
        "progressive of our limit": lambda: picture("RGB", (5000, 5000), "JPEG", progressive=True),
        "LAB of our limit": lambda: picture("LAB", (5000, 5000), "TIFF", compression="tiff_lzw"),
        "WebP of our limit": lambda: picture("RGB", (5000, 5000), "WEBP"),
        "turned, of our limit": lambda: picture(
            "RGB",
            (5000, 5000),
            "PNG",
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0",
        ),
        "an animated canvas": animation,
        "text that unpacks": lambda: png(
            8, 8, 8, 0, *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 200
        ),
        "a profile that unpacks": lambda: png(
            8, 8, 8, 0, (b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))
        ),
        "a TIFF of 2³²": lambda: tiff(
            (256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (258, 3, 1, 8)
        ),
        "a TIFF tag of gigabytes": lambda: tiff(
            (256, 4, 1, 8), (257, 4, 1, 8), (700, 1, 2**32 - 1, 0)
        ),
        "a PGM of 10⁹": lambda: b"P5 31622 31622 255\n",
        "a PPM of long numbers": lambda: b"P6 " + b"9" * 10**6,
        "a BMP of 2³¹": lambda: (
            b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 1, 1, 24, *6 * [0])
        ),
    },
    "checkpoint": {
        **SPECIAL,
        "empty": lambda: b"",
        "a command": command,
        "an old command": old_command,
        "a whole model": lambda: saved(model()),
        "a memo of 2³²": lambda: b"\x80\x02]r\xff\xff\xff\x0e.",
        "bytearray(2³¹)": lambda: with_pickle(
            b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
        ),
        "a bare bytearray": lambda: b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "zeros that unpack": lambda: zipped({"a/data.pkl": bytes(10**9)}),
        "storages that unpack": lambda: zipped({"a/data.pkl": b"", "a/data/0": bytes(10**9)}),
        "a million dicts": lambda: with_pickle(b"\x80\x02](" + b"}" * 1_050_000 + b"e."),
        "a million marks": lambda: with_pickle(b"\x80\x02" + b"(" * 1_060_000 + b"."),
        "a nested tuple as key": lambda: with_pickle(b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."),
        "keys that collide": lambda: with_pickle(
            b"\x80\x02}("
            + b"".join(
                b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N"
                for i in range(1, 75_000)
            )
            + b"u."
        ),
        "too large a pickle": lambda: with_pickle(b"\x80\x02" + pickle.dumps("x" * 10**8, 2)[2:]),
        "a huge long": lambda: with_pickle(b"\x80\x02\x8b\x00\x00\x10\x00" + bytes(2**20) + b"."),
        "many members": lambda: zipped({f"a/{i}": b"" for i in range(200_000)}, 0),
        "a million names": lambda: tensors(
            {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**6)}
        ),
        "a header of 2⁶³": lambda: struct.pack("<Q", 2**63) + b"{",
        "a nested header": lambda: struct.pack("<Q", 10**6) + b'{"a":' + b"[" * 10**6,
        "nested metadata": lambda: safetensors.torch.save(
            model().state_dict(), {"ibau_lite": json.dumps(deep(500)) + 10**5 * "["}
        ),
        "an empty shape of 2⁶³": lambda: tensors(
            {"a": {"dtype": "F32", "shape": [0, 2**63 - 1, 2**63 - 1], "data_offsets": [0, 0]}}
        ),
        "float4": lambda: tensors(
            {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"1"
        ),
        "names of control characters": lambda: safetensors.torch.save(
            {"\x1b]0;x\x07" + "a" * 10**5 + str(i): torch.zeros(1) for i in range(9)}
        ),
        "larger than allowed": lambda: bytes(70 * 2**20),
        "as large as allowed": lambda: tensors(
            {"a": {"dtype": "F32", "shape": [2**24 - 128], "data_offsets": [0, 2**26 - 512]}},
            bytes(2**26 - 512),
        ),
        "a large file of torch.save": lambda: saved({"net": {"a": torch.zeros(2**24 - 4096)}}),
        "an old large file of torch.save": lambda: saved(
            {"net": {"a": torch.zeros(2**24 - 4096)}}, False
        ),
    },
    "attack": {
        **SPECIAL,
        "empty": lambda: b"",
        "a name that is a path": lambda: described(name="../../../tmp/x"),
        "a name of a megabyte": lambda: described(name="x" * 10**6),
        "a description of gigabytes": lambda: tensors(
            {"__metadata__": {"ibau_lite_attack": " " * 10**8}}
        ),
        "a nested description": lambda: safetensors.torch.save(
            {"w": torch.zeros(1)}, {"ibau_lite_attack": "[" * 10**6}
        ),
        "a grid of 10⁶": lambda: trigger(
            kind="warp", grid=10**6, strength=0.5, seed=0, noisy=False
        ),
        "a seed of 10³⁰⁰": lambda: trigger(
            kind="warp", grid=4, strength=0.5, seed=10**300, noisy=False
        ),
        "an infinite cell": lambda: trigger(
            kind="patch", cells=[[float("-inf"), -1]], values=[[1]]
        ),
        "a far cell": lambda: trigger(kind="patch", cells=[[-(10**18), -1]], values=[[1]]),
        "many cells": lambda: trigger(
            kind="patch", cells=[[-i, -1] for i in range(1, 10**5)], values=[[1]]
        ),
        "many pairs": lambda: described(pairs=[{"trigger": {"kind": "blend"}}] * 40_000),
        "a target of 10³⁰⁰": lambda: described(
            pairs=[
                {
                    "trigger": {"kind": "blend", "picture": "owl", "alpha": 0.2},
                    "rule": {"kind": "AllToOne", "target": 10**300},
                }
            ]
        ),
        "as large as allowed": lambda: safetensors.torch.save(
            {"0.mask": torch.zeros(2**24 - 4096)}
        ),
    },
}

SLOW = {
    *(name for names in HOSTILE.values() for name in names if "limit" in name or "allowed" in name),
    "gigabytes of zeros",
    "gigabytes of zeros beside",
    "a million members",
    "many members",
    "a bit a pixel",
    "a million names",
    "a million dicts",
    "a million marks",
    "a nested tuple as key",
    "keys that collide",
    "too large a pickle",
    "a large file of torch.save",
    "an old large file of torch.save",
    "many cells",
    "zeros that unpack",
    "storages that unpack",
    "a text that unpacks",
    "a profile that unpacks",
    "a description of gigabytes",
    "many names",
}
"""What takes seconds to make or to read."""
