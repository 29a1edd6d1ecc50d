"""PyTorch's own files of weights, read without PyTorch's unpickler: nothing in them is called.

A pickle is a program. This one runs with the few instructions that a state dict needs, and with
stand-ins for the few names that one mentions; any other name is refused. Tensors are views of the
bytes of the file, so that no number in the pickle decides how much memory is taken.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ibau_lite.files import Refused, shown, signatures

__all__ = ["read"]

_MOST_PICKLE = 2**20  # bytes, beside _MOST_NAME for each tensor that is expected
_MOST_NAME = 4096
_LEGACY = 0x1950A86A20F9469CFC6C  # the first object of a file of before PyTorch 1.6

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# What may stand beside the weights, such as an optimiser's state: read as None.
_ASIDE = {
    "collections.Counter", "builtins.set", "builtins.complex", "builtins.bytearray",
    "__builtin__.set", "__builtin__.complex", "__builtin__.bytearray", "_codecs.encode",
    "torch.Size", "torch.device",
}  # fmt: skip


def read(content: bytes, names: int) -> Any:
    """The object in a file of `torch.save`: dicts, lists, tuples, plain values and CPU tensors.

    The tensors are views of the file's bytes: to be copied, once their shape is known to be right.
    The pickle may have 1 MiB and 4 KiB for each of the `names` tensors that are expected. Raises
    `Refused`, or what the parser raises, for a file that is truncated, larger inside than outside,
    or names anything but weights and plain values.
    """
    most = _MOST_PICKLE + _MOST_NAME * names
    if content[:4] == b"PK\x03\x04":
        return _read_zip(content, most)
    return _read_legacy(content, most)


def _read_zip(content: bytes, most: int) -> Any:
    if signatures(io.BytesIO(content), b"PK\x01\x02", most // 64) > most // 64:
        raise Refused(f"at most {most // 64:,} members are expected")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        inside = sum(member.file_size for member in archive.infolist())
        if inside > len(content) or any(m.compress_type for m in members.values()):
            raise Refused("members that are stored as they are (not compressed) are expected")
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused("one pickle data.pkl, as torch.save writes it, is expected")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise Refused("it holds code (TorchScript); save the network's state_dict() instead")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise Refused("little-endian numbers are expected")
        if members[pickles[0]].file_size > most:
            raise Refused(f"a pickle of at most {most:,} bytes is expected")
        storages: dict[str, bytearray] = {}

        def storage(kind: Any, key: Any, numbers: Any) -> Tensor:
            if _name(key) not in storages:
                storages[key] = bytearray(archive.read(f"{folder}data/{key}"))
            return _numbers(storages[key], kind)

        return _Reader(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(content: bytes, most: int) -> Any:
    """Four pickles, the names of the storages in a fifth, and then their bytes, one by one.

    The bytes come last, so the pickle is read twice: to learn how long it is, and with them.
    """
    start = io.BytesIO(content)
    if _pickle(start, most, _unknown) != _LEGACY:
        raise Refused("neither a safetensors file nor one of torch.save")
    _pickle(start, most, _unknown)  # the version of the format, and of the system
    system = _pickle(start, most, _unknown)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise Refused("little-endian numbers are expected")
    at = start.tell()
    dtypes: dict[Any, torch.dtype] = {}

    def noted(kind: Any, key: Any, numbers: Any) -> Tensor:
        dtypes[_name(key)] = _dtype(kind)
        return torch.empty(0, dtype=_dtype(kind), device="meta")

    _pickle(start, most, noted)
    storages = {}
    for key in map(_name, _pickle(start, most, _unknown)):
        length = int.from_bytes(start.read(8), "little") * dtypes[key].itemsize
        if not 0 <= length <= len(content) - start.tell():
            raise Refused("it is truncated: a storage lacks bytes")
        storages[key] = bytearray(start.read(length))

    def storage(kind: Any, key: Any, numbers: Any) -> Tensor:
        return _numbers(storages[key], kind)

    return _pickle(io.BytesIO(content[at : at + most]), most, storage)


def _pickle(stream: io.BytesIO, most: int, storage: Callable[[Any, Any, Any], Tensor]) -> Any:
    """The next object of a stream, which is left behind it."""
    at = stream.tell()
    part = io.BytesIO(stream.read(most))
    loaded = _Reader(part, storage).load()
    stream.seek(at + part.tell())
    return loaded


def _unknown(kind: Any, key: Any, numbers: Any) -> Tensor:
    raise Refused("a plain value is expected at the beginning of the file")


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise Refused("the name of a storage is expected")
    return key


def _dtype(kind: Any) -> torch.dtype:
    if not isinstance(kind, torch.dtype):
        raise Refused("a kind of number is expected for each storage")
    return kind


def _numbers(content: bytearray, kind: Any) -> Tensor:
    dtype = _dtype(kind)
    whole = len(content) // dtype.itemsize
    if not whole:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=whole)


def _view(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Stand in for `torch._utils._rebuild_tensor_v2`: a view, refused where it leaves the bytes."""
    if not isinstance(storage, Tensor):
        raise Refused("a storage for each tensor is expected")
    if storage.is_meta:
        return storage
    if any(isinstance(more, dict) and any(more.values()) for more in rest):
        raise Refused("plain tensors are expected, not conjugate or negative views")
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or not (
        len(size) == len(stride) <= 64
    ):
        raise Refused("a tensor's place in its storage is not a list of numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage) and 0 not in size:
        raise Refused("a tensor reaches beyond the bytes that are stored for it")
    return storage.as_strided(size, stride, 0 if 0 in size else offset)


def _parameter(data: Any, *_: Any) -> Any:
    return data  # Stand in for `torch._utils._rebuild_parameter`


def _mapping() -> dict[Any, Any]:
    return {}  # Stand in for an OrderedDict: dicts keep their order


def _nothing(*_: Any) -> None:
    return None


_STAND_INS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_parameter": _parameter,
    **dict.fromkeys(_ASIDE, _nothing),
}

_INSTRUCTIONS = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT,
    pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT,
    pickle.LONG_BINPUT, pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_TUPLE, pickle.TUPLE,
    pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.APPEND, pickle.APPENDS, pickle.GLOBAL,
    pickle.REDUCE, pickle.BINPERSID,
)  # fmt: skip


class _Reader(pickle._Unpickler):
    """An unpickler with the instructions and names that a state dict needs, and no others."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS
    }

    def __init__(self, file: io.BytesIO, storage: Callable[[Any, Any, Any], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def load(self) -> Any:
        try:
            return super().load()
        except Refused:
            raise
        except Exception:
            raise Refused("its pickle is truncated, or not that of a state dict") from None

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        if f"{module}.{name}" in _STAND_INS:
            return _STAND_INS[f"{module}.{name}"]
        raise Refused(
            f"it names {shown(f'{module}.{name}', 100)}, which is code or a kind of object that "
            "weights do not need (nothing in it was executed). Save the network's state_dict() "
            "instead, alone or beside plain values"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("storages are expected beside the pickle")
        if pid[5:] not in ((), (None,)):
            raise Refused("whole storages are expected, not views of others")
        return self._storage(pid[1], pid[2], pid[4])

    def _set_items(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set(items[::2], items[1::2])

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self._set([key], [value])

    def _set(self, keys: list[Any], values: list[Any]) -> None:
        target = self.stack[-1]  # type: ignore[attr-defined]
        if type(target) is not dict or len(keys) != len(values):
            raise Refused("entries of a dict are expected")
        for key, value in zip(keys, values, strict=True):
            # Hashing a nested tuple can exhaust the stack; large integers can be made to collide.
            if not (isinstance(key, str) or (type(key) is int and abs(key) < 2**31)):
                raise Refused("texts and small numbers as keys are expected")
            target[key] = value

    def _leave_out_state(self) -> None:
        self.stack.pop()  # type: ignore[attr-defined]

    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.BUILD[0]] = _leave_out_state  # of a state dict: the versions of its modules
