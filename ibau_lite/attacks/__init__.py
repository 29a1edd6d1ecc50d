"""Backdoor attacks as values: what is stamped, who is stamped, how it is relabelled."""

from ibau_lite.attacks.badnets import badnets, badnets_all_to_all
from ibau_lite.attacks.poisoning import AllToAll, AllToOne, Attack, Poisoned, Relabelling
from ibau_lite.attacks.triggers import Patch, Trigger

__all__ = [
    "AllToAll",
    "AllToOne",
    "Attack",
    "Patch",
    "Poisoned",
    "Relabelling",
    "Trigger",
    "badnets",
    "badnets_all_to_all",
]
