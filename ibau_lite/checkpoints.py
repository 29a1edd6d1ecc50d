"""Reading and writing the weights of a network: atomically, and without executing what is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

__all__ = ["load", "save"]

_METADATA_KEY = "ibau_lite"
_STATE_KEYS = ("net", "model", "state_dict", "model_state_dict")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile


def save(
    model: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the parameters and buffers of `model` to a safetensors file, entirely or not at all.

    The bytes go to a temporary file in the same folder (made if need be), which then takes the
    place of `path` in one step: whoever reads `path` sees the old file or the new one. `metadata`
    is anything that JSON can hold; `load` gives it back. Names have no DataParallel or compiler
    prefix, so the file loads into the bare network.

    Raises `TypeError` for metadata that JSON cannot hold or a state that is not made of tensors,
    and `ValueError` for weights that are NaN or infinite; then nothing is written.
    """
    path = Path(path)
    try:
        header = {"format": "pt", _METADATA_KEY: json.dumps(dict(metadata or {}))}
    except TypeError as error:
        raise TypeError(f"metadata: what JSON can hold is expected, got {metadata!r}") from error
    state = model.state_dict()
    if not _is_state(state):
        raise TypeError("model: a state_dict() of tensors is expected, got none or something else")
    state = _bare(state)
    _check_finite(state, "model")
    # Contiguous copies: safetensors writes neither channels-last nor shared memory.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    content = safetensors.torch.save(tensors, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Fill `model` in place with the weights in a file and return the file's metadata.

    Reads safetensors, a state dict saved by PyTorch, and a dict that holds one under `net` (as the
    authors of I-BAU released theirs), `model`, `state_dict` or `model_state_dict`; the metadata
    are then its other plain entries, such as `acc` and `epoch`. PyTorch files are read with
    `weights_only=True`: nothing in them is executed. Floating-point weights of another precision
    are converted, and a prefix that DataParallel or the compiler put before every name is taken
    off.

    Raises `ValueError`, and leaves the model as it was, bit for bit, for a file that is truncated,
    holds code or is none of these, whose names, shapes or kinds of number are not the model's (they
    are named), or that holds NaN or infinite weights. `FileNotFoundError` as usual.
    """
    path = Path(path)
    state, metadata = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    targets = _bare(model.state_dict())
    fitted = _fitted(_bare(state), targets, path)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(fitted[name])
    return metadata


def _is_safetensors(path: Path) -> bool:
    """Look for eight bytes of length and an opening brace; PyTorch's begin otherwise."""
    with open(path, "rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or head[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(header[_METADATA_KEY]) if _METADATA_KEY in header else header
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); download or write it again"
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: a JSON object as metadata is expected, got {metadata!r}")
    return state, metadata


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for a file that is not its own
        raise ValueError(
            f"{path}: not a file of weights, or truncated, or one that holds code (nothing in it "
            "was executed). Save the network's state_dict() instead. PyTorch said: "
            f"{_first_line(error)}"
        ) from error
    if isinstance(content, dict):
        if _is_state(content):
            return content, {}
        for key in _STATE_KEYS:
            if _is_state(content.get(key)):
                plain = (str, int, float, bool)
                rest = {k: v for k, v in content.items() if isinstance(v, plain)}
                return content[key], rest
    given = f"a dict with keys {list(content)}" if isinstance(content, dict) else type(content)
    raise ValueError(
        f"{path}: a state dict (tensors by name), or a dict that holds one under "
        f"{', '.join(_STATE_KEYS)}, is expected, got {given}"
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


def _fitted(
    state: Mapping[str, Tensor], targets: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
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
            problems.append(f"{name}: {list(given.shape)} where the model has {list(wanted.shape)}")
        elif _kind(given) != _kind(wanted):
            problems.append(f"{name}: {given.dtype} where the model has {wanted.dtype}")
    if problems:
        raise ValueError(
            f"{path} does not fit this model ({_some(problems, '; ')}). Build the network that the "
            "file was saved from: the same constructor, number of classes and image size"
        )
    fitted = {name: state[name].to(wanted.dtype) for name, wanted in targets.items()}
    _check_finite(fitted, path)  # after the conversion, which can overflow
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


def _check_finite(state: Mapping[str, Tensor], source: object) -> None:
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: finite weights are expected, got NaN or ∞ in {_some(broken)}")


def _some(items: Iterable[str], separator: str = ", ", most: int = 8) -> str:
    items = list(items)
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
