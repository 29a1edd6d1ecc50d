"""Randomness: one stream of random numbers for each purpose, derived from a seed.

Two uses of one seed must not draw the same numbers. If the attacker drew whom to poison from the
permutation that orders the training images, the poisoned images would all stand at the start of an
epoch. So nobody seeds a generator with the bare seed: the purpose is part of it.
"""

from __future__ import annotations

import hashlib
from numbers import Integral

import torch

__all__ = ["PURPOSES", "VERSION", "derived_seed", "stream"]

VERSION = 2
"""Rises whenever a seed comes to mean other numbers. It is a part of every key of a kept result."""

PURPOSES: dict[str, str] = {
    "weights": "the initial weights of a network",
    "order": "the order of the training images, in each stage of a training",
    "augmentation": "flips and shifts, in each stage of a training",
    "dropout": "what dropout drops, in each stage of a training",
    "poison": "which images an attack poisons",
    "trigger": "the optimisation of a trigger",
    "defense": "what a defence draws: its batches, stamped images, starts and noise",
}
"""The purposes, and what each one's numbers decide."""


def derived_seed(seed: int, purpose: str, *detail: str | int) -> int:
    """The seed, in [0, 2⁶³), that stands for `seed` and a purpose.

    It is made of the first 63 bits of SHA-256(VERSION, seed, purpose, detail…). `detail` tells
    apart what has one purpose: the name of an attack, the number of a stage. Raises `ValueError`
    for a purpose that is not in `PURPOSES` and for a negative seed, `TypeError` for a seed that is
    not a whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed: a whole number is expected, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed: 0 or more is expected, got {seed}")
    if purpose not in PURPOSES:
        raise ValueError(f"purpose: one of {', '.join(PURPOSES)} is expected, got {purpose!r}")
    text = repr((VERSION, int(seed), purpose, *map(str, detail)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(
    seed: int, purpose: str, *detail: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator of its own for (seed, purpose, detail…).

    The same arguments give the same numbers, on a CPU on every machine; other arguments give
    unrelated ones. Raises as `derived_seed`.

    >>> order, poison = stream(0, "order", 0), stream(0, "poison", "badnets")
    >>> bool((torch.randperm(50, generator=order) == torch.randperm(50, generator=poison)).all())
    False
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, *detail))
