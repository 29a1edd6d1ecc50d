"""What is done to sound files: to their bytes, or inside, with checksums put right again."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from seeds import ODD

INTEGERS = [
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
]
CODES = [
    code
    for name, code in vars(pickle).items()
    if name.isupper() and isinstance(code, bytes) and len(code) == 1
]
GLOBALS = [
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"cbuiltins\nbytearray\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch\nfloat64\n",
    b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nLongStorage\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cbuiltins\nset\n",
    b"c_codecs\nencode\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"ctorch\nSize\n",
]
DTYPES = [
    "|u1",
    "<i8",
    "<f8",
    "|O",
    "<U9",
    "<U999999999",
    "|V8",
    "|b1",
    "<M8[s]",
    "|S3",
    "<c16",
    "<u4",
    ">i2",
]


def damaged(draw: Random, content: bytes, others: list[bytes]) -> bytes:
    """One to eight changes of bytes anywhere."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at, length = draw.randrange(len(changed) + 1), draw.choice((1, 2, 4, 8, 40))
        kind = draw.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at : at + length] = draw.randbytes(length)
        elif kind == 2:
            number = draw.choice(INTEGERS)
            width = draw.choice((1, 2, 4, 8))
            order = draw.choice(("little", "big"))
            changed[at : at + width] = (number % 256**width).to_bytes(width, order)
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = draw.randbytes(length)
        elif kind == 5:
            changed[at:at] = changed[at : at + draw.choice((8, 64, 1000))]
        elif kind == 6:
            other = draw.choice(others)
            changed[at:] = other[draw.randrange(len(other) + 1) :]
        elif draw.random() < 0.3:
            del changed[at:]
        if not changed:
            break
    return bytes(changed)


def numbers_in_text(draw: Random, text: bytes) -> bytes:
    """One number in a text becomes another."""
    places = [match.span() for match in re.finditer(rb"\d+", text)]
    if not places:
        return text
    start, end = draw.choice(places)
    number = draw.choice([*INTEGERS, -1, 10**20])
    return text[:start] + str(number).encode() + text[end:]


def archive(draw: Random, content: bytes, change: Callable[[Random, str, bytes], bytes]) -> bytes:
    """Change what is inside a zip file; names, packings and numbers of members as well."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        parts = [(name, old.read(name)) for name in old.namelist()]
    chosen = draw.randrange(len(parts))
    name, part = parts[chosen]
    kind = draw.randrange(10)
    if kind < 7:
        parts[chosen] = (name, change(draw, name, part))
    elif kind == 7:
        parts.append((draw.choice(parts)[0], draw.choice(parts)[1]))
    elif kind == 8:
        parts[chosen] = (draw.choice(("../" + name, name + "x", "/", "\x1b" + name)), part)
    else:
        del parts[chosen]
    packing = draw.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as new:
        warnings.simplefilter("ignore")
        for name, part in parts:
            new.writestr(name, part)
    return stream.getvalue()


def array(draw: Random, name: str, content: bytes) -> bytes:
    """Another header, or other numbers, in one .npy file."""
    start = 10 + int.from_bytes(content[8:10], "little")
    header, body = content[10:start], content[start:]
    kind = draw.randrange(4)
    if kind == 0:
        header = numbers_in_text(draw, header)
    elif kind == 1:
        header = re.sub(rb"'[|<>][^']+'", repr(draw.choice(DTYPES)).encode(), header)
    elif kind == 2:
        body = damaged(draw, body, [body])
    else:
        header = damaged(draw, header, [header])
    return content[:8] + (len(header) % 65536).to_bytes(2, "little") + header + body


def program(draw: Random, name: str, content: bytes) -> bytes:
    """Other instructions in a pickle, or other bytes in a storage."""
    if not name.endswith("data.pkl"):
        return damaged(draw, content, [content])
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(2, len(changed))
        kind = draw.randrange(5)
        if kind == 0:
            changed[at : at + 1] = draw.choice(CODES)
        elif kind == 1:
            changed[at:at] = draw.choice(CODES) + draw.randbytes(draw.choice((0, 1, 4)))
        elif kind == 2:
            names = [match.span() for match in re.finditer(rb"c[a-z._]+\n\w+\n", changed)]
            start, end = draw.choice(names) if names else (at, at)
            changed[start:end] = draw.choice(GLOBALS)
        elif kind == 3:
            small = [match.start() for match in re.finditer(rb"K", changed)]
            where = draw.choice(small) if small else at
            changed[where : where + 2] = b"\x8a\x08" + draw.choice(INTEGERS).to_bytes(8, "little")
        else:
            changed[at:at] = changed[at : at + draw.randrange(60)]
    return bytes(changed)


def tree(draw: Random, value: Any) -> Any:
    """One value somewhere in a JSON value becomes an odd one, goes, or comes twice."""
    if not isinstance(value, (dict, list)) or not value or draw.random() < 0.15:
        return draw.choice(ODD)
    changed = copy.copy(value)
    key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = draw.randrange(12)
    if kind == 0:
        del changed[key]
    elif kind == 1 and isinstance(changed, list):
        changed.append(changed[key])
    elif kind == 1:
        changed[draw.choice(("", "kind", "x" * 3000, "\x1b"))] = changed[key]
    else:
        changed[key] = tree(draw, value[key])
    return changed


def header(draw: Random, content: bytes) -> bytes:
    """Other names, shapes and metadata in a safetensors file; often with the right digest."""
    size = int.from_bytes(content[:8], "little")
    told, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = told["__metadata__"]
    key = next(name for name in metadata if name in ("ibau_lite", "ibau_lite_attack"))
    if draw.random() < 0.7:
        inner = json.loads(metadata[key])
        for _ in range(draw.choice((1, 1, 2, 3))):
            inner = tree(draw, inner)
        metadata[key] = json.dumps(inner)
    else:
        told = tree(draw, told)
    if draw.random() < 0.2:
        body = damaged(draw, body, [body])
    if draw.random() < 0.8 and isinstance(told, dict) and "__metadata__" in told:
        told = sealed(told, body)
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def sealed(told: dict, body: bytes) -> dict:
    """With the SHA-256 that the library would write; or with none, as others' files."""
    metadata = told["__metadata__"]
    if not isinstance(metadata, dict):
        return told
    metadata = {name: value for name, value in metadata.items() if name != "ibau_lite_sha256"}
    layout = {name: value for name, value in told.items() if name != "__metadata__"}
    text = json.dumps([layout, metadata], separators=(",", ":"), sort_keys=True).encode()
    seal = hashlib.sha256(text + body).hexdigest()
    return {"__metadata__": {**metadata, "ibau_lite_sha256": seal}, **layout}


def png(draw: Random, content: bytes) -> bytes:
    """Other chunks, with the right checksums."""
    at, chunks = 8, []
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = draw.randrange(len(chunks))
    kind, body = chunks[chosen]
    way = draw.randrange(5)
    if way < 3:
        chunks[chosen] = (kind, damaged(draw, body or b"\0", [body or b"\0"]))
    elif way == 3:
        chunks.insert(chosen, draw.choice(chunks))
    else:
        new = draw.choice(
            (b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"zTXt", b"eXIf", b"IHDR")
        )
        chunks.insert(chosen, (new, draw.randbytes(draw.choice((0, 3, 13, 26)))))
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def mutated(draw: Random, target: str, seeds: list[bytes]) -> bytes:
    """A sound file of a target, changed in one of the ways that suit it."""
    content = draw.choice(seeds)
    if draw.random() < 0.4:
        return damaged(draw, content, seeds)
    if content[:4] == b"PK\x03\x04":
        return archive(draw, content, array if target == "npz" else program)
    if content[:4] == b"\x89PNG":
        return png(draw, content)
    if target == "checkpoint" and content[8:9] != b"{":
        return program(draw, "data.pkl", content)
    if target in ("checkpoint", "attack"):
        return header(draw, content)
    return damaged(draw, content, seeds)
