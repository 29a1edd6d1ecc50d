"""The contenders of the tables: each defence by its short name, with its settings in a profile.

One setting of each for all attacks of a data set and all sizes of the clean set. I-BAU is there
three times: with its default settings, as the authors' published code, and as the talk's
mathematics; fine-tuning takes two passes over 5,000 images. Of the others the settings
are those of `other_defences`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ibau_lite.defenses import IBAU, FineTuningConfig

from .other_defences import TALK, private, rows

__all__ = ["CONTENDERS", "RECIPES", "Contender", "contender"]


@dataclass(frozen=True)
class Contender:
    """A defence of `defenses.REGISTRY` with settings; `column` is its name in the talk, if any."""

    label: str
    defense: str
    config: Any
    column: str | None = None


_LABELS = {
    "ibau": "I-BAU",
    "ft": "fine-tuning",
    "naive": "naive",
    "fp": "Fine-Pruning",
    "nad": "NAD",
    "nc": "Neural Cleanse",
    "released": "I-BAU released",
    "tabor": "TABOR",
    "di": "DeepInspect",
    "exact": "I-BAU exact",
    "dp": "DP",
    "anp": "ANP",
    "ft_sam": "FT-SAM",
    "sau": "SAU",
}
RECIPES = ("I-BAU released", "I-BAU exact")
"""Labels of the other recipes of I-BAU, which are held against the talk's I-BAU as well."""

CONTENDERS: dict[str, tuple[str, str | None]] = {
    name: (label, TALK.get("I-BAU" if label in RECIPES else label))
    for name, label in _LABELS.items()
}
"""What can be asked for: short name -> (label in the tables, column of the talk)."""


def contender(name: str, profile: str, data: str) -> Contender:
    """A contender with its settings for a profile and a data set.

    Raises `ValueError` for a name that is not in `CONTENDERS`.
    """
    if name not in CONTENDERS:
        raise ValueError(f"defence: one of {', '.join(CONTENDERS)} is expected, got {name!r}")
    label, column = CONTENDERS[name]
    smoke, full, gtsrb, flip = (
        profile == "smoke",
        profile == "full",
        data == "gtsrb",
        data == "cifar10",
    )
    usual = {row.label: row for row in rows(profile, data)}
    if name == "ft" and full:
        tuning = FineTuningConfig(epochs=2, epoch_images=5000, flip=flip)
        return Contender(label, "fine_tuning", tuning, column)
    if label in usual:
        return Contender(label, usual[label].defense, usual[label].config, column)
    if name == "naive":
        return Contender(label, "naive", usual["I-BAU"].config, column)
    if name == "dp":
        # Not mirrored: its images carry the trigger already, which would be mirrored with them.
        return Contender(label, "dp", private(profile), column)
    if name == "released":
        # The talk's Table 2 was printed after 100 rounds.
        rounds = (100 if gtsrb else 5) if full else 2
        return Contender(label, "ibau", IBAU.released(gtsrb=gtsrb, rounds=rounds), column)
    rounds = 5 if full else 1
    exact = IBAU.exact(rounds=rounds, **({"batch_size": 200} if smoke else {}))
    return Contender(label, "ibau", exact, column)
