"""The talk's poisoned networks before any defence: the rows that the zoo is held against.

Source: the slides' columns "No Defense" of Tables 1 (CIFAR-10), 2 (GTSRB), 3 (seven triggers, where
ASR is the printed average) and 4 (Trojan WM at lower rates), in per cent as printed.
"""

from __future__ import annotations

__all__ = ["SEVEN", "UNDEFENDED"]

UNDEFENDED: dict[tuple[str, str], tuple[float, float]] = {
    ("cifar10", "badnets"): (84.94, 98.28),
    ("cifar10", "blend"): (84.82, 99.78),
    ("cifar10", "l0_inv"): (85.36, 100.0),
    ("cifar10", "l2_inv"): (85.26, 100.0),
    ("cifar10", "smooth"): (85.34, 99.24),
    ("cifar10", "trojan_sq"): (84.76, 99.66),
    ("cifar10", "trojan_wm"): (84.92, 99.96),
    ("cifar10", "all_to_all"): (86.38, 85.02),
    ("cifar10", "seven_to_seven"): (85.96, 98.37),
    ("cifar10", "trojan_wm_5"): (86.58, 99.88),
    ("cifar10", "trojan_wm_0.5"): (86.42, 98.58),
    ("gtsrb", "badnets"): (97.69, 99.18),
    ("gtsrb", "blend"): (97.44, 99.91),
    ("gtsrb", "l0_inv"): (97.72, 100.0),
    ("gtsrb", "l2_inv"): (97.57, 99.91),
    ("gtsrb", "smooth"): (97.87, 99.89),
    ("gtsrb", "trojan_sq"): (98.12, 99.98),
    ("gtsrb", "trojan_wm"): (97.84, 100.0),
    ("gtsrb", "all_to_all"): (97.10, 95.42),
    ("gtsrb", "seven_to_seven"): (97.18, 99.37),
}
"""(data, network of the zoo) -> (ACC, ASR)."""

SEVEN: dict[str, dict[str, float]] = {
    "cifar10": {
        "trojan_wm": 99.92,
        "trojan_sq": 99.42,
        "badnets": 94.5,
        "smooth": 97.08,
        "blend": 98.12,
        "l0_inv": 100.0,
        "l2_inv": 99.54,
    },
    "gtsrb": {
        "trojan_wm": 99.49,
        "trojan_sq": 99.59,
        "badnets": 98.19,
        "smooth": 99.89,
        "blend": 99.15,
        "l0_inv": 100.0,
        "l2_inv": 99.33,
    },
}
"""ASR of each trigger of the 7-trigger-7-target networks (Table 3)."""
