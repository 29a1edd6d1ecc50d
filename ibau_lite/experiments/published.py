"""What the talk reports: its tables as data, in per cent and seconds as printed there.

Source: the slides of Zeng, Chen, Park, Mao, Jin, Jia, *Adversarial Unlearning of Backdoors via
Implicit Hypergradient* (ICLR 2022): Tables 1 and 2 (their BadNets rows) and Table 6.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SECONDS", "Published", "one_trigger"]


@dataclass(frozen=True)
class Published:
    """One printed result: clean accuracy and attack success rate in per cent, and its table."""

    data: str
    attack: str
    defense: str
    accuracy: float
    attack_success_rate: float
    table: str


# (data set, attack, table) and then (defence, ACC %, ASR %) in the order of the columns.
_ONE_TRIGGER = {
    ("cifar10", "badnets", "Table 1"): (
        ("no defence", 84.94, 98.28),
        ("NC", 83.42, 8.76),
        ("DI", 82.12, 48.50),
        ("TABOR", 83.78, 8.12),
        ("FP", 82.22, 96.66),
        ("NAD", 78.72, 11.66),
        ("DP", 11.08, 21.77),
        ("I-BAU", 83.35, 12.30),
    ),
    ("gtsrb", "badnets", "Table 2"): (
        ("no defence", 97.69, 99.18),
        ("TABOR", 98.99, 4.16),
        ("FP", 99.34, 60.19),
        ("NAD", 15.19, 9.08),
        ("DP", 6.46, 100.0),
        ("I-BAU", 99.38, 3.32),
    ),
}

SECONDS: dict[str, dict[str, float]] = {
    "cifar10": {
        "NC": 384.92,
        "DI": 394.38,
        "TABOR": 1123.31,
        "FP": 45.33,
        "NAD": 79.90,
        "I-BAU": 6.82,
    },
    "gtsrb": {
        "NC": 1864.96,
        "DI": 472.21,
        "TABOR": 3529.70,
        "FP": 83.78,
        "NAD": 79.14,
        "I-BAU": 7.84,
    },
}
"""Table 6: average time in seconds for a defence to be effective, one trigger and one target."""


def one_trigger(data: str, attack: str = "badnets") -> tuple[Published, ...]:
    """The row of an attack in Table 1 (CIFAR-10) or 2 (GTSRB), one entry a defence.

    Raises `KeyError` for a data set or an attack that is not transcribed.
    """
    for (known_data, known_attack, table), row in _ONE_TRIGGER.items():
        if (known_data, known_attack) == (data, attack):
            return tuple(Published(data, attack, *entry, table) for entry in row)
    known = ", ".join(f"{d} with {a}" for d, a, _ in _ONE_TRIGGER)
    raise KeyError(f"{data} with {attack} is not transcribed; known: {known}")
