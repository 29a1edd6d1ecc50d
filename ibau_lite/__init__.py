"""Backdoor removal as a minimax problem: I-BAU, its theory, other defences, attacks and data.

    import ibau_lite as ib
    signs = ib.data.load("signs")
    defended = ib.ibau(model, signs.clean)

`ib.ibau` is the defence, `ib.IBAU` its settings, `ib.hypergradient` what it follows;
`ib.diagnose` tells whether a class stands out. The other rooms are imported when they are first
named.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from ibau_lite.diagnosis import diagnose
from ibau_lite.hypergrad import hypergradient
from ibau_lite.ibau import IBAU, ibau

if TYPE_CHECKING:
    from ibau_lite import (  # type: ignore[attr-defined]  # `theory` lies beside this folder
        attacks,
        checkpoints,
        curvature,
        data,
        defenses,
        diagnosis,
        hypergrad,
        metrics,
        minimax,
        models,
        plots,
        protocol,
        sets,
        solvers,
        speed,
        streams,
        testing,
        theory,
        training,
        widgets,
        zoo,
    )

__version__ = "0.1.0"

__all__ = [
    "IBAU",
    "attacks",
    "checkpoints",
    "curvature",
    "data",
    "defenses",
    "diagnose",
    "diagnosis",
    "hypergrad",
    "hypergradient",
    "ibau",
    "metrics",
    "minimax",
    "models",
    "plots",
    "protocol",
    "sets",
    "solvers",
    "speed",
    "streams",
    "testing",
    "theory",
    "training",
    "widgets",
    "zoo",
]


def __getattr__(name: str) -> ModuleType:
    """Import the room `name` on first use; AttributeError if there is no such room."""
    if name not in __all__:
        raise AttributeError(f"module 'ibau_lite' has no attribute {name!r}; rooms: {__all__}")
    return importlib.import_module(f"ibau_lite.{name}")


def __dir__() -> list[str]:
    """Rooms, whether imported yet or not, and the names of the module itself."""
    return sorted({*globals(), *__all__})
