"""The talk's attacks by name: which trigger means which class, alone and all seven at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from ibau_lite.attacks._badnets import badnets
from ibau_lite.attacks._blend import Blend
from ibau_lite.attacks.optimised import (
    l0_inversion,
    l2_inversion,
    smooth,
    trojan_square,
    trojan_watermark,
)
from ibau_lite.attacks.poisoning import AllToOne, Attack
from ibau_lite.attacks.triggers import Trigger

ONE_TARGET: dict[str, int] = {
    "badnets": 8,
    "blend": 8,
    "l0_inv": 0,
    "l2_inv": 0,
    "smooth": 6,
    "trojan_sq": 2,
    "trojan_wm": 2,
}
"""Target of each trigger when it is alone. Blend's is ours: the talk has none."""

SEVEN_TARGETS: dict[str, int] = {
    "trojan_wm": 9,
    "trojan_sq": 2,
    "badnets": 0,
    "smooth": 1,
    "blend": 3,
    "l0_inv": 4,
    "l2_inv": 5,
}
"""Target of each trigger in the 7-trigger-7-target attack."""


class _Computed(Protocol):
    def __call__(
        self, network: nn.Module, images: Tensor, *, seed: int, progress: bool
    ) -> Trigger: ...


COMPUTED: dict[str, _Computed] = {
    "l0_inv": l0_inversion,
    "l2_inv": l2_inversion,
    "smooth": smooth,
    "trojan_sq": trojan_square,
    "trojan_wm": trojan_watermark,
}
"""The triggers that need a clean network, and the algorithm of each with its default settings."""


def named_trigger(
    name: str,
    network: nn.Module | None = None,
    images: Tensor | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Trigger:
    """Make one of the talk's seven triggers: drawn, or computed from a clean network.

    Those of `COMPUTED` need a clean `network` and training `images` [N, C, H, W] in [0, 1]; the
    others ignore both. Raises `ValueError` for another name or where the two are missing.
    """
    if name == "badnets":
        return badnets().pairs[0][0]
    if name == "blend":
        return Blend()
    if name not in COMPUTED:
        raise ValueError(f"name: one of {', '.join(ONE_TARGET)} is expected, got {name!r}")
    if network is None or images is None:
        raise ValueError(
            f"network, images: {name} is computed from a clean network and training images; "
            "give both"
        )
    return COMPUTED[name](network, images, seed=seed, progress=progress)


def one_target(name: str, trigger: Trigger, target: int | None = None) -> Attack:
    """The attack `name` of the talk with its target, or another `target`: y -> target.

    Raises `ValueError` for a name that is not in `ONE_TARGET` if no target is given.
    """
    if target is None and name not in ONE_TARGET:
        raise ValueError(
            f"name: one of {', '.join(ONE_TARGET)}, or a target, is expected, got {name!r}"
        )
    return Attack(name, ((trigger, AllToOne(ONE_TARGET[name] if target is None else target)),))


def seven_to_seven(triggers: Mapping[str, Trigger]) -> Attack:
    """The 7-trigger-7-target attack: the seven triggers at once, each with its own target.

    `triggers` maps the names of `SEVEN_TARGETS` to their triggers; the pairs are in that order. The
    poisoning rate is their total. Raises `ValueError` for other names, or two equal triggers.
    """
    if set(triggers) != set(SEVEN_TARGETS):
        raise ValueError(
            f"triggers: {', '.join(SEVEN_TARGETS)} are expected, got {', '.join(triggers)}"
        )
    pairs = tuple((triggers[name], AllToOne(target)) for name, target in SEVEN_TARGETS.items())
    return Attack("seven_to_seven", pairs)
