"""When a defender should stop, and which round she should keep, judged by what she can measure."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.metrics import predict

__all__ = ["EarlyStopping", "EarlyStoppingMonitor"]


@dataclass(frozen=True)
class EarlyStopping:
    """Keep the round that withstands the worst δ best, among those that lost little accuracy.

    `held_out` is the fraction of the clean set that is set aside for this choice and takes no other
    part. `drop`: a round is admissible if its accuracy there is at most this much below the first.
    `patience`: stop after this many rounds in a row that were no better than the best.

    No test image takes part, and nothing that only the attacker knows (trigger, target, ASR).
    Raises `ValueError` for settings outside their range.
    """

    held_out: float = 0.2
    drop: float = 0.03
    patience: int = 1

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(self, held_out="(0, 1)", drop="[0, 1]", patience="[1, ∞)")


class EarlyStoppingMonitor:
    """Measures a network after each round, and remembers the best.

    `worst` finds a δ for the present network. A call returns two accuracies on the held-out images:
    as they are, and with that δ added to all of them (clipped to [0, 1] with `clamp`).
    """

    def __init__(
        self,
        model: nn.Module,
        held_out: LabelledImages,
        rule: EarlyStopping,
        worst: Callable[[], Tensor],
        *,
        clamp: bool = False,
    ) -> None:
        self.model, self.held_out, self.rule, self.worst = model, held_out, rule, worst
        self.clamp = clamp
        self.floor = self._accuracy(None) - rule.drop
        self.best: tuple[bool, float] | None = None
        self.rounds = self.waited = self.kept_round = 0

    def __call__(self) -> dict[str, float]:
        accuracy = self._accuracy(None)
        withstood = self._accuracy(self.worst())
        admissible = accuracy >= self.floor
        score = (admissible, withstood if admissible else accuracy)
        self.rounds += 1
        if self.best is None or score > self.best:
            self.best, self.waited, self.kept_round = score, 0, self.rounds
            self.kept = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        else:
            self.waited += 1
        return {"held_out_accuracy": accuracy, "worst_case_accuracy": withstood}

    @property
    def has_seen_enough(self) -> bool:
        return self.waited >= self.rule.patience

    def restore(self) -> None:
        """Give the network the parameters of the best round; warns if none was admissible."""
        if self.best is not None and not self.best[0]:
            warnings.warn(
                f"every round lost more than {self.rule.drop:.1%} of accuracy on the held-out "
                "images: the most accurate one is kept; lower lr, or the fraction stamped",
                RuntimeWarning,
                stacklevel=3,
            )
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.kept[name])

    def _accuracy(self, delta: Tensor | None) -> float:
        images = self.held_out.images if delta is None else self.held_out.images + delta
        images = images.clamp(0, 1) if self.clamp else images
        labels = self.held_out.labels
        return float((predict(self.model, images).to(labels.device) == labels).float().mean())
