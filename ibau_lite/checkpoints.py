"""Reading and writing the weights of a network: as a whole, and without executing what is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibau_lite import tensor_files, torch_files
from ibau_lite.files import Refused, read_regular, refusing, replacing, shown

__all__ = ["load", "save"]

_METADATA_KEY = "ibau_lite"
_STATE_KEYS = ("net", "model", "state_dict", "model_state_dict")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile
_MOST_BYTES = 64 * 2**20  # of a file, beside _MOST_NUMBER for each number of the model:
_MOST_NUMBER = 32  # float64 weights, Adam's two averages, and one more copy


def save(
    model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the parameters and buffers of `model` to a safetensors file, entirely or not at all.

    The bytes go to a temporary file in the same folder (which is made if need be). It then replaces
    `path` in one step, so that a reader of `path` sees the old file or the new one. `metadata` is
    anything that JSON can hold, in at most 1 MiB; `load` gives it back. Names have no prefix of
    DataParallel or of the compiler, so the file loads into the bare network. Equal weights and
    metadata give equal bytes. The file contains a SHA-256 of all other bytes.

    Raises `TypeError` for metadata that JSON cannot hold, and for a state that is not made of
    tensors. Raises `ValueError` for weights that are NaN or infinite, and for more metadata. In
    these cases nothing is written. Raises `OSError` for a full disk; the file that was there is
    left.

    >>> import tempfile
    >>> from ibau_lite.models import mlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(mlp(4, [], 2, seed=0), path := Path(folder) / "net.safetensors", {"epoch": 3})
    ...     load(path, mlp(4, [], 2, seed=1))
    {'epoch': 3}
    """
    try:
        text = json.dumps(dict(metadata or {}), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"metadata: what JSON can hold is expected, got {shown(metadata)}"
        ) from error
    state = model.state_dict()
    if not _is_state(state):
        raise TypeError("model: a state_dict() of tensors is expected, got none or something else")
    state = _bare(state)
    if broken := _not_finite(state):
        raise ValueError(f"model: finite weights are expected, got NaN or ∞ in {broken}")
    # Contiguous copies: safetensors writes neither channels-last nor shared memory.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    content = tensor_files.pack(tensors, _METADATA_KEY, text)
    with replacing(path) as file:
        file.write(content)


def load(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Fill `model` in place with the weights in a file and return the file's metadata.

    Three forms are read: safetensors, a state dict saved by PyTorch, and a dict that holds one
    under `net` (as the authors of I-BAU released theirs), `model`, `state_dict` or
    `model_state_dict`. In the last case the metadata are the other plain entries, such as `acc` and
    `epoch`. Nothing in a file is executed. Floating-point weights of another precision are
    converted. A prefix that DataParallel or the compiler put before every name is removed.

    Each of these checks comes before memory is taken for the next. The file is a regular file, of
    at most 64 MiB and 32 bytes for each number of the model. Its header or pickle has at most 1 MiB
    and 4 KiB for each tensor of the model, and nothing in it is compressed. Then come the SHA-256,
    if `save` wrote one; names, shapes and kinds of number; NaN and infinite weights. So loading
    takes at most three times the file's size, a hundred times its header's, and the model.

    Raises `ValueError` if one of these checks fails, and for a file that is truncated, holds code
    or has another form. The model then stays as it was, bit for bit. Raises `FileNotFoundError` as
    usual.
    """
    path = Path(path)
    targets = _bare(model.state_dict())
    numbers = sum(target.numel() for target in targets.values())
    content = read_regular(path, _MOST_BYTES + _MOST_NUMBER * numbers)
    with refusing(path, "not a whole file of weights; download or write it again"):
        if path.suffix == ".safetensors" or content[8:9] == b"{":  # after eight bytes of length
            state, metadata = _from_safetensors(content, len(targets))
        else:
            state, metadata = _from_torch(content, len(targets))
        fitted = _fitted(_bare(state), targets)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(fitted[name])
    return metadata


def _from_safetensors(content: bytes, names: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state, header = tensor_files.unpack(content, _METADATA_KEY, names)
    metadata = json.loads(header[_METADATA_KEY]) if _METADATA_KEY in header else header
    if not isinstance(metadata, dict):
        raise Refused(f"a JSON object as metadata is expected, got {shown(metadata)}")
    return state, metadata


def _from_torch(content: bytes, names: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    found = torch_files.read(content, names)
    if isinstance(found, dict):
        if _is_state(found):
            return found, {}
        for key in _STATE_KEYS:
            if _is_state(found.get(key)):
                plain = (str, int, float, bool)
                return found[key], {k: v for k, v in found.items() if isinstance(v, plain)}
    given = (
        f"a dict with keys {_some(map(shown, found))}"
        if isinstance(found, dict)
        else f"a {type(found).__name__}"
    )
    raise Refused(
        f"a state dict (tensors by name), or a dict that holds one under {', '.join(_STATE_KEYS)}, "
        f"is expected, got {given}"
    )


def _is_state(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take a wrapper's prefix off the names, where every name has it."""
    bare = dict(state)
    for prefix in _WRAPPER_PREFIXES:
        if bare and all(name.startswith(prefix) for name in bare):
            bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _fitted(state: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the file's tensors to the model's number types, once all are known to fit."""
    problems = []
    missing, extra = targets.keys() - state.keys(), state.keys() - targets.keys()
    if missing:
        problems.append(f"missing: {_some(sorted(missing))}")
    if extra:
        problems.append(f"not in the model: {_some(sorted(extra))}")
    for name in (name for name in targets if name in state):
        given, wanted = state[name], targets[name]
        if given.shape != wanted.shape:
            problems.append(
                f"{name}: {shown(list(given.shape))} where the model has {list(wanted.shape)}"
            )
        elif _kind(given) != _kind(wanted):
            problems.append(f"{name}: {given.dtype} where the model has {wanted.dtype}")
    if problems:
        raise Refused(
            f"it does not fit this model ({_some(problems, '; ')}). Build the network that the "
            "file was saved from: the same constructor, number of classes and image size"
        )
    fitted = {name: state[name].to(wanted.dtype) for name, wanted in targets.items()}
    if broken := _not_finite(fitted):  # after the conversion, which can overflow
        raise Refused(f"finite weights are expected, got NaN or ∞ in {broken}")
    return fitted


def _kind(tensor: Tensor) -> str:
    """Tell what converts into what; sparse, quantised and empty (meta) tensors do not."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return f"{tensor.layout} {tensor.device.type} {tensor.dtype}"
    if tensor.is_floating_point():
        return "floating"
    if tensor.is_complex():
        return "complex"
    return "boolean" if tensor.dtype == torch.bool else "integer"


def _not_finite(state: Mapping[str, Tensor]) -> str:
    return _some(name for name, value in state.items() if not value.isfinite().all())


def _some(items: Iterable[str], separator: str = ", ", most: int = 8) -> str:
    items = list(items)
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(shown(item, 1000) for item in items[:most]) + more
