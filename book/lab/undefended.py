"""The talk's poisoned networks before any defence: the rows that the zoo is held against.

Source: the slides' columns "No Defense" of Tables 1 (CIFAR-10), 2 (GTSRB), 3 (seven triggers, where
ASR is the printed average) and 4 (Trojan WM at lower rates), in per cent as printed.
"""

from __future__ import annotations

from .published import PUBLISHED

UNDEFENDED: dict[tuple[str, str], tuple[float, float]] = {
    (entry.data, entry.attack if entry.rate == 0.2 else f"{entry.attack}_{100 * entry.rate:g}"): (
        entry.accuracy,
        entry.attack_success_rate,
    )
    for entry in PUBLISHED
    if entry.defense == "no defence" and entry.clean == 5000
    if entry.accuracy is not None and entry.attack_success_rate is not None
}
"""(data, network of the zoo) -> (ACC, ASR)."""
