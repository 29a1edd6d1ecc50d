"""Backdoor attacks as values: what is stamped, who is stamped, how it is relabelled."""

from ibau_lite.attacks.badnets import badnets, badnets_all_to_all
from ibau_lite.attacks.blend import Blend, blend
from ibau_lite.attacks.control import Control, control
from ibau_lite.attacks.dense import Additive, Overlay
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
    Poisoned,
    Relabelling,
)
from ibau_lite.attacks.sinusoid import Sinusoid, sig
from ibau_lite.attacks.storage import load, save
from ibau_lite.attacks.talk import one_target, seven_to_seven, trigger
from ibau_lite.attacks.triggers import Patch, Trigger
from ibau_lite.attacks.visibility import Visibility, visibility
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
    "Poisoned",
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
    "one_target",
    "save",
    "seven_to_seven",
    "sig",
    "smooth",
    "trigger",
    "trojan_square",
    "trojan_watermark",
    "visibility",
    "wanet",
]
