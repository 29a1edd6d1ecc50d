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

__all__ = ["SHIPPED", "SUMS", "Shipped", "digest", "receive", "ship", "shipped_attack", "stock"]

SHIPPED = Path(__file__).parent / "networks"
"""The folder of the networks that come with the package."""

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


def stock(folder: str | Path) -> frozenset[str]:
    """The names of the networks that were shipped to a folder."""
    end = ".attack.safetensors"
    return frozenset(file.removesuffix(end) for file in _sums(Path(folder)) if file.endswith(end))


def digest(folder: str | Path, name: str) -> str | None:
    """The stated SHA-256 of a network's weights; None for one that was not shipped."""
    return _sums(Path(folder)).get(f"{name}.safetensors")


def receive(folder: str | Path, name: str, model: nn.Module) -> Shipped:
    """Fill `model` with the shipped weights, in its own number type, and read the attack.

    Raises `FileNotFoundError` for a name that was not shipped, `ValueError` for a file whose digest
    is not the stated one, and as `checkpoints.load` and `attacks.load`.
    """
    metadata = checkpoints.load(_verified(Path(folder), f"{name}.safetensors"), model)
    model.eval()
    return Shipped(model, shipped_attack(folder, name), metadata)


def shipped_attack(folder: str | Path, name: str) -> Attack:
    """The attack of a shipped network, without the network; raises as `receive`."""
    return attacks.load(_verified(Path(folder), f"{name}.attack.safetensors"))


def _verified(folder: Path, file: str) -> Path:
    sums, path = _sums(folder), folder / file
    if file not in sums:
        known = ", ".join(sorted(stock(folder))) or "no networks"
        raise FileNotFoundError(
            f"{path}: not shipped; there are {known}. Build it with python -m ibau_lite zoo build"
        )
    if _sha256(path) != sums[file]:
        raise ValueError(f"{path}: not the file that {folder / SUMS} states; fetch it again")
    return path


def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {file: digest for digest, file in (line.split(maxsplit=1) for line in lines)}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
