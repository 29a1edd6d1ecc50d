"""Defences: functions of a model and a clean set that return a new model. See `protocol`."""

from __future__ import annotations

from ibau_lite.defenses.fine_tuning import FineTuningConfig, fine_tuning
from ibau_lite.defenses.ibau import IBAUConfig, ibau
from ibau_lite.defenses.naive import naive
from ibau_lite.defenses.protocol import Defended, Defense

REGISTRY: dict[str, Defense] = {"fine_tuning": fine_tuning, "naive": naive, "ibau": ibau}
"""The defences of this library by name; anything else that meets `Defense` works as well."""

__all__ = [
    "REGISTRY",
    "Defended",
    "Defense",
    "FineTuningConfig",
    "IBAUConfig",
    "fine_tuning",
    "ibau",
    "naive",
]
