"""Networks to ship: float16 copies with their attacks and digests, for readers who do not train.

`ibau_lite.zoo` reads what is written here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ibau_lite import attacks, checkpoints
from ibau_lite.attacks import Attack
from ibau_lite.zoo import SUMS, sha256, stated_digests


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
    sums = stated_digests(folder) | {path.name: sha256(path) for path in (weights, trigger)}
    partial = folder / f".{SUMS}.tmp"
    partial.write_text("".join(f"{sums[file]}  {file}\n" for file in sorted(sums)), "utf-8")
    os.replace(partial, folder / SUMS)
    return weights, trigger
