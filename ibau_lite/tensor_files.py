"""Named tensors with metadata as one safetensors file: sealed when written, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor

from ibau_lite.files import Refused

__all__ = ["pack", "unpack"]

_SEAL = "ibau_lite_sha256"
_METADATA = "__metadata__"
_MOST_HEADER = 2**20  # bytes of metadata and names, beside _MOST_NAME for each tensor expected
_MOST_NAME = 4096


def pack(tensors: Mapping[str, Tensor], key: str, text: str) -> bytes:
    """The bytes of a safetensors file: the same tensors and text give the same bytes.

    `text` stands under `key` in the metadata, beside a SHA-256 of all the rest: names, shapes,
    types, numbers and metadata. Raises `ValueError` for more text than `unpack` reads.
    """
    content = safetensors.torch.save(dict(tensors))
    start = 8 + int.from_bytes(content[:8], "little")
    layout = json.loads(content[8:start])
    body = memoryview(content)[start:]
    metadata = {"format": "pt", key: text}
    metadata[_SEAL] = _digest(layout, metadata, body)
    header = _text({_METADATA: metadata, **layout})
    header += b" " * (-len(header) % 8)
    if len(header) > (most := _most_header(len(tensors))):
        raise ValueError(f"metadata: at most {most:,} bytes are expected, got {len(header):,}")
    return b"".join((len(header).to_bytes(8, "little"), header, body))


def unpack(content: bytes, key: str, names: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file of which about `names` are expected.

    The header may have 1 MiB and 4 KiB for each expected name; it is measured before it is parsed.
    A file that carries our SHA-256 must have it; files of others, and older ones, have none.
    Raises `Refused`, or what the parser raises, for anything else.
    """
    size, most = int.from_bytes(content[:8], "little"), _most_header(names)
    if size > most:
        raise Refused(f"a header of at most {most:,} bytes is expected, got {size:,}")
    layout = json.loads(content[8 : 8 + size])
    if not isinstance(layout, dict):
        raise Refused("a JSON object as header is expected")
    metadata = layout.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Refused("texts as metadata are expected")
    seal = metadata.pop(_SEAL, None)
    damaged = key in metadata and not metadata.keys() <= {"format", key}  # or the seal's own name
    if damaged or seal not in (None, _digest(layout, metadata, memoryview(content)[8 + size :])):
        raise Refused(
            "not a whole safetensors file, or one that was changed after it was written: its "
            "SHA-256 is not the stated one. Fetch or write it again"
        )
    return safetensors.torch.load(content), metadata


def _digest(layout: Mapping[str, Any], metadata: Mapping[str, str], body: memoryview) -> str:
    return hashlib.sha256(_text([layout, metadata], sort_keys=True) + body).hexdigest()


def _text(value: object, **options: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), **options).encode()


def _most_header(names: int) -> int:
    return _MOST_HEADER + _MOST_NAME * names
