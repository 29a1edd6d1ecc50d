"""Networks to ship: float16 copies with their attacks and digests, for readers who do not train."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ibau_lite import attacks, checkpoints
from ibau_lite.attacks import Attack

__all__ = ["SUMS", "Shipped", "receive", "ship"]

SUMS = "SHA256SUMS"
"""The file of digests in a folder of shipped networks, as `sha256sum --check` reads it."""


@dataclass(frozen=True, eq=False)
class Shipped:
    """A network that was received, the attack that poisoned it, and what was recorded of it."""

    model: nn.Module = field(repr=False)
    attack: Attack
    metadata: dict[str, Any] = field(repr=False)


def ship(
    model: nn.Module,
    attack: Attack,
    folder: str | Path,
    name: str,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write `name`.safetensors, the weights in float16, and `name`.attack.safetensors; give both.

    Their SHA-256 replace the older ones in `SUMS`. The model is left as it is. Raises `ValueError`
    for weights beyond the range of float16, and as `checkpoints.save` and `attacks.save`.
    """
    folder = Path(folder)
    weights, trigger = (folder / f"{name}{end}" for end in (".safetensors", ".attack.safetensors"))
    checkpoints.save(copy.deepcopy(model).half(), weights, metadata)
    attacks.save(attack, trigger)
    sums = _sums(folder) | {path.name: _sha256(path) for path in (weights, trigger)}
    partial = folder / f".{SUMS}.tmp"
    partial.write_text("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)), "utf-8")
    os.replace(partial, folder / SUMS)
    return weights, trigger


def receive(folder: str | Path, name: str, model: nn.Module) -> Shipped:
    """Fill `model` with the shipped weights, in its own number type, and read the attack.

    Raises `FileNotFoundError` for a name that was not shipped, `ValueError` for a file whose digest
    is not the stated one, and as `checkpoints.load` and `attacks.load`.
    """
    folder = Path(folder)
    sums = _sums(folder)
    paths = [folder / f"{name}{end}" for end in (".safetensors", ".attack.safetensors")]
    for path in paths:
        if path.name not in sums:
            known = sorted(f.removesuffix(".attack.safetensors") for f in sums if ".attack." in f)
            raise FileNotFoundError(
                f"{path}: not shipped; there are {', '.join(known) or 'no networks'}. Build it "
                "with python -m ibau_lite zoo build"
            )
        if _sha256(path) != sums[path.name]:
            raise ValueError(f"{path}: not the file that {folder / SUMS} states; fetch it again")
    metadata = checkpoints.load(paths[0], model)
    model.eval()
    return Shipped(model, attacks.load(paths[1]), metadata)


def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {file: digest for digest, file in (line.split(maxsplit=1) for line in lines)}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
