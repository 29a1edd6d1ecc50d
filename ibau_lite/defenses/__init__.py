"""Defences: functions of a model and a clean set that return a new model. See `protocol`.

Import the names from here. A file with the name of its defence begins with an underscore.

>>> from ibau_lite.testing import tiny_images, tiny_network
>>> result = fine_tuning(tiny_network(), tiny_images(), config=FineTuningConfig(epochs=2))
>>> [row["round"] for row in result.history]
[1, 2]
"""

from __future__ import annotations

from ibau_lite.defenses._anp import ANPConfig, anp
from ibau_lite.defenses._deepinspect import DeepInspectConfig, deepinspect
from ibau_lite.defenses._dp import DPConfig, dp
from ibau_lite.defenses._fine_pruning import FinePruningConfig, fine_pruning
from ibau_lite.defenses._fine_tuning import FineTuningConfig, fine_tuning
from ibau_lite.defenses._ft_sam import FTSAMConfig, ft_sam
from ibau_lite.defenses._nad import NADConfig, nad
from ibau_lite.defenses._naive import naive
from ibau_lite.defenses._neural_cleanse import NeuralCleanseConfig, neural_cleanse
from ibau_lite.defenses._sau import SAUConfig, sau
from ibau_lite.defenses._tabor import TaborConfig, tabor
from ibau_lite.defenses.inversion import Inversion, InvertedTriggers
from ibau_lite.ibau import IBAU, Indirect, InnerObjective, ibau
from ibau_lite.protocol import (
    Defense,
    DefenseResult,
    Evaluator,
    Run,
    defense,
)

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
    "IBAU",
    "REGISTRY",
    "ANPConfig",
    "DPConfig",
    "DeepInspectConfig",
    "Defense",
    "DefenseResult",
    "Evaluator",
    "FTSAMConfig",
    "FinePruningConfig",
    "FineTuningConfig",
    "Indirect",
    "InnerObjective",
    "Inversion",
    "InvertedTriggers",
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
