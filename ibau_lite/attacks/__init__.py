"""Backdoor attacks as values: what is stamped, who is stamped, how it is relabelled."""

from ibau_lite.attacks._badnets import badnets, badnets_all_to_all
from ibau_lite.attacks._blend import Blend, blend
from ibau_lite.attacks._control import Control, control
from ibau_lite.attacks._visibility import Visibility, visibility
from ibau_lite.attacks.dense import Additive, Overlay
from ibau_lite.attacks.named import named_trigger, one_target, seven_to_seven
from ibau_lite.attacks.optimised import (
    l0_inversion,
    l2_inversion,
    smooth,
    trojan_square,
    trojan_watermark,
)
from ibau_lite.attacks.pattern import Pattern
from ibau_lite.attacks.poisoning import (
    AllToAll,
    AllToOne,
    Attack,
    CleanLabel,
    PoisonedSet,
    Relabelling,
)
from ibau_lite.attacks.sinusoid import Sinusoid, sig
from ibau_lite.attacks.storage import load, save
from ibau_lite.attacks.triggers import Patch, Trigger
from ibau_lite.attacks.warping import Warp, wanet

__all__ = [
    "Additive",
    "AllToAll",
    "AllToOne",
    "Attack",
    "Blend",
    "CleanLabel",
    "Control",
    "Overlay",
    "Patch",
    "Pattern",
    "PoisonedSet",
    "Relabelling",
    "Sinusoid",
    "Trigger",
    "Visibility",
    "Warp",
    "badnets",
    "badnets_all_to_all",
    "blend",
    "control",
    "l0_inversion",
    "l2_inversion",
    "load",
    "named_trigger",
    "one_target",
    "save",
    "seven_to_seven",
    "sig",
    "smooth",
    "trojan_square",
    "trojan_watermark",
    "visibility",
    "wanet",
]
