"""Defences: functions of a model and a clean set that return a new model. See `protocol`."""

from __future__ import annotations

from ibau_lite.defenses.anp import ANPConfig, anp
from ibau_lite.defenses.deepinspect import DeepInspectConfig, deepinspect
from ibau_lite.defenses.dp import DPConfig, dp
from ibau_lite.defenses.early_stopping import EarlyStopping
from ibau_lite.defenses.fine_pruning import FinePruningConfig, fine_pruning
from ibau_lite.defenses.fine_tuning import FineTuningConfig, fine_tuning
from ibau_lite.defenses.ft_sam import FTSAMConfig, ft_sam
from ibau_lite.defenses.ibau import IBAUConfig, ibau
from ibau_lite.defenses.inversion import Inversion, Inverted
from ibau_lite.defenses.nad import NADConfig, nad
from ibau_lite.defenses.naive import naive
from ibau_lite.defenses.neural_cleanse import NeuralCleanseConfig, neural_cleanse
from ibau_lite.defenses.protocol import (
    Defended,
    Defense,
    Evaluator,
    Run,
    defense,
)
from ibau_lite.defenses.sau import SAUConfig, sau
from ibau_lite.defenses.tabor import TaborConfig, tabor

REGISTRY: dict[str, Defense] = {
    "fine_tuning": fine_tuning,
    "naive": naive,
    "ibau": ibau,
    "neural_cleanse": neural_cleanse,
    "tabor": tabor,
    "deepinspect": deepinspect,
    "fine_pruning": fine_pruning,
    "nad": nad,
    "dp": dp,
    "anp": anp,
    "ft_sam": ft_sam,
    "sau": sau,
}
"""The defences of this library by name; anything else that meets `Defense` works as well.

`dp` trains anew and wants the poisoned training set: `functools.partial(dp, train=…)`.
"""

__all__ = [
    "REGISTRY",
    "ANPConfig",
    "DPConfig",
    "DeepInspectConfig",
    "Defended",
    "Defense",
    "EarlyStopping",
    "Evaluator",
    "FTSAMConfig",
    "FinePruningConfig",
    "FineTuningConfig",
    "IBAUConfig",
    "Inversion",
    "Inverted",
    "NADConfig",
    "NeuralCleanseConfig",
    "Run",
    "SAUConfig",
    "TaborConfig",
    "anp",
    "deepinspect",
    "defense",
    "dp",
    "fine_pruning",
    "fine_tuning",
    "ft_sam",
    "ibau",
    "nad",
    "naive",
    "neural_cleanse",
    "sau",
    "tabor",
]
