"""Poisoned networks that come with the library, so that nobody has to train one first.

    model, attack, metadata = ib.zoo.load("gtsrb", "badnets")

Each is two files: the weights, rounded to float16, and the attack. `SHA256SUMS` beside them states
their digests, and a file that has another digest is refused.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ibau_lite import attacks, checkpoints
from ibau_lite.attacks import Attack
from ibau_lite.models import small_vgg

__all__ = [
    "FOLDER",
    "SUMS",
    "PoisonedModel",
    "digest",
    "load",
    "load_attack",
    "load_from",
    "names",
    "sha256",
    "stated_digests",
]

FOLDER = Path(__file__).parent / "networks"
"""The folder of the networks that come with the library."""

SUMS = "SHA256SUMS"
"""The file of digests in a folder of networks, as `sha256sum --check` reads it."""

_NETWORKS = {
    "cifar10": functools.partial(small_vgg, 10),
    "gtsrb": functools.partial(small_vgg, 43),
}


class PoisonedModel(NamedTuple):
    """A poisoned network, the attack that poisoned it, and what was noted when it was trained."""

    model: nn.Module
    attack: Attack
    metadata: dict[str, Any]


def load(data: str, attack: str) -> PoisonedModel:
    """A network that comes with the library, in evaluation mode on the CPU, with its attack.

    `data` is "cifar10" or "gtsrb"; `attack` is the name of an attack, or "clean" for the network
    that was not poisoned. The network maps float32 images `[N, 3, 32, 32]` in [0, 1] to logits
    `[N, 10]` or `[N, 43]`. `metadata["settings"]` holds what it was trained on and how,
    `metadata["report"]` its ACC and ASR. Raises `ValueError` for another data set and for a file
    whose SHA-256 is not the stated one, `FileNotFoundError` for an attack that has no network here.
    """
    if data not in _NETWORKS:
        raise ValueError(f"data: {' or '.join(_NETWORKS)} is expected, got {data!r}")
    return load_from(FOLDER, f"{data}-cpu-{attack}", _NETWORKS[data](seed=0))


def names(folder: str | Path) -> frozenset[str]:
    """The names of the networks in a folder."""
    end = ".attack.safetensors"
    return frozenset(
        file.removesuffix(end) for file in stated_digests(folder) if file.endswith(end)
    )


def digest(folder: str | Path, name: str) -> str | None:
    """The stated SHA-256 of a network's weights; None for one that is not there."""
    return stated_digests(folder).get(f"{name}.safetensors")


def load_from(folder: str | Path, name: str, model: nn.Module) -> PoisonedModel:
    """Fill `model` with the weights of a folder, in its own number type, and read the attack.

    Raises `FileNotFoundError` for a name that is not there, `ValueError` for a file whose SHA-256
    is not the stated one, and as `checkpoints.load` and `attacks.load`.
    """
    metadata = checkpoints.load(_verified(Path(folder), f"{name}.safetensors"), model)
    model.eval()
    return PoisonedModel(model, load_attack(folder, name), metadata)


def load_attack(folder: str | Path, name: str) -> Attack:
    """The attack of a network of a folder, without the network; raises as `load_from`."""
    return attacks.load(_verified(Path(folder), f"{name}.attack.safetensors"))


def stated_digests(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of each file that `SUMS` of a folder names; empty where there is no `SUMS`."""
    path = Path(folder) / SUMS
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {file: digest for digest, file in (line.split(maxsplit=1) for line in lines)}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _verified(folder: Path, file: str) -> Path:
    sums, path = stated_digests(folder), folder / file
    if file not in sums:
        known = ", ".join(sorted(names(folder))) or "no networks"
        raise FileNotFoundError(f"{path}: no such network; there are {known}")
    if sha256(path) != sums[file]:
        raise ValueError(f"{path}: not the file that {folder / SUMS} states; fetch it again")
    return path
