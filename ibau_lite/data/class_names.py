"""What the classes of the known datasets are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ibau_lite.files import shown

MAX_CLASSES = 100_000
"""How many classes there can be: a single label must not decide how much memory is taken."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

GTSRB = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70",
    "speed limit 80", "end of speed limit 80", "speed limit 100", "speed limit 120",
    "no overtaking", "no overtaking for lorries", "priority at next crossing", "priority road",
    "yield", "stop", "no vehicles", "no lorries", "no entry", "danger", "bend to the left",
    "bend to the right", "double bend", "uneven road", "slippery road", "road narrows",
    "road works", "traffic signals", "pedestrians", "children", "bicycles", "ice or snow",
    "wild animals", "end of all limits", "turn right ahead", "turn left ahead", "ahead only",
    "ahead or right", "ahead or left", "keep right", "keep left", "roundabout",
    "end of no overtaking", "end of no overtaking for lorries",
)  # fmt: skip

KNOWN: dict[str, tuple[str, ...]] = {"cifar10": CIFAR10, "gtsrb": GTSRB}


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that came without any: "class 0", "class 1", …

    Raises ValueError, before any name is made, for more than `MAX_CLASSES`.
    """
    if count > MAX_CLASSES:
        raise ValueError(
            f"labels must lie in 0 … {MAX_CLASSES - 1} where classes have no names, got {count - 1}"
        )
    return tuple(f"class {k}" for k in range(count))


def printable(names: Sequence[object] | NDArray[Any]) -> tuple[str, ...]:
    """Names that a file or folder gives, as they can be shown: printable, 100 characters at most.

    Raises ValueError for more than `MAX_CLASSES`.
    """
    if len(names) > MAX_CLASSES:
        raise ValueError(f"at most {MAX_CLASSES:,} classes are expected, got {len(names):,}")
    return tuple(shown(str(name), 100) for name in names)
