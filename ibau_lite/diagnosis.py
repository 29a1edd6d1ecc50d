r"""Does a class stand out? What a defender can see of a backdoor without knowing its trigger.

A backdoor with one target is a short way to one class: a small universal perturbation takes every
image there. Any network has such ways, since a universal perturbation of some length misleads it.
So a length means nothing by itself, and each class is held against the others:

.. math:: \delta_k^S \approx \arg\min_{\delta \in S} \frac1m \sum_{i \le m}
          L\bigl(f_\theta(x_i + \delta), k\bigr), \qquad
          h_k^S = \frac1m \sum_{i \le m} L\bigl(f_\theta(x_i + \delta_k^S), y_i\bigr), \qquad
          s_k = \frac1{|\mathcal S|} \sum_{S \in \mathcal S} \frac{h_k^S}{\mathrm{med}_j\, h_j^S} .

A score of 1 is that of the median class. Source: Wang et al. 2019 (Neural Cleanse) look for a
trigger of every class and hold their sizes against the median; a fixed set and the loss in it, and
two sets at once, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._modes import usual_settings
from ibau_lite.data import LabelledImages
from ibau_lite.door import clean_on_device, private_copy
from ibau_lite.minimax import Ascent, Risk, images_for_each, scores, toward_each_class
from ibau_lite.sets import L1Ball, L2Ball, Region
from ibau_lite.speed import fold_batchnorm
from ibau_lite.streams import stream

__all__ = ["Diagnosis", "diagnose"]

_SETS: tuple[Region, ...] = (L2Ball(4.0), L1Ball(50.0))
_CLIMB = Ascent(8)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """How far each class stands out as the end of small perturbations.

    `heights` [S, K] are h, the mean loss at the perturbation toward each class in each set.
    `deltas` [S, C, H, W] are the perturbations toward `suspect`, the class with the largest of the
    `scores` [K]. The class `stands_out` if its score is at least `threshold`.

    A class that stands out need not be an attacker's, and an attacker's need not stand out:
    backdoors that lead each class elsewhere, or whose trigger is longer than the sets are wide, do
    not show here.
    """

    heights: Tensor = field(repr=False)
    deltas: Tensor = field(repr=False)
    sets: tuple[Region, ...]
    threshold: float = 2.0

    @property
    def scores(self) -> Tensor:
        """s [K]: the heights over their median, averaged over the sets."""
        return scores(self.heights)

    @property
    def suspect(self) -> int:
        """The class with the largest score."""
        return int(self.scores.argmax())

    @property
    def stands_out(self) -> bool:
        """Whether the largest score is at least `threshold`."""
        return float(self.scores.max()) >= self.threshold

    def __str__(self) -> str:
        score = f"{float(self.scores.max()):.2f} times as high as the median class"
        if self.stands_out:
            return f"class {self.suspect} stands out, {score}"
        return f"no class stands out (the highest, class {self.suspect}, is {score})"


@usual_settings()
def diagnose(
    model: nn.Module,
    clean: LabelledImages,
    *,
    sets: Sequence[Region] = _SETS,
    climb: Ascent = _CLIMB,
    seed: int = 0,
    progress: bool = False,
) -> Diagnosis:
    """Climb toward every class in every set, and see whether one class stands out.

    Args:
        model: any classifier with logits, which is not changed.
        clean: images [N, C, H, W] in [0, 1] with true labels [N]. A climb sees 400 / K of them for
            K classes, at least 20, the same for all.
        sets: where δ is sought: by default L2Ball(4), for a trigger that is spread thin, and
            L1Ball(50), for one of few pixels.
        climb: how δ is sought, by default in 8 steps. With K classes, S sets and m images a climb,
            all of them cost S·K·m·(`steps` + 2) image passes.
        seed: which images are drawn.

    Raises `ValueError` for no set or fewer than three classes, of which none can stand out, and as
    every defence for an unusable model or clean set.

    >>> from ibau_lite.models import small_cnn
    >>> from ibau_lite.testing import tiny_images
    >>> diagnose(small_cnn(4, width=2), tiny_images(), climb=Ascent(1)).heights.shape
    torch.Size([2, 4])
    """
    if not sets:
        raise ValueError("sets: at least one is expected")
    model = private_copy(model)
    clean = clean_on_device(model, clean)
    network = fold_batchnorm(model)
    theta = {name: p.detach() for name, p in network.named_parameters()}
    classes = _classes(network, clean)
    draws = stream(seed, "defense", "diagnosis")
    part = clean[torch.randperm(len(clean), generator=draws)[: images_for_each(classes)]]
    bar = tqdm(total=len(sets) * classes, disable=not progress, unit="climb", desc="diagnosis")
    risk = Risk(network, part.images, part.labels)
    deltas, heights = toward_each_class(risk, theta, sets, climb, bar.update)
    bar.close()
    suspect = int(scores(heights).argmax())
    return Diagnosis(heights, torch.stack([of_set[suspect] for of_set in deltas]), tuple(sets))


def _classes(network: nn.Module, clean: LabelledImages) -> int:
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        classes = int(network(clean.images[:1].to(dtype)).shape[1])
    if classes < 3:
        raise ValueError(f"of {classes} classes none can stand out: at least 3 are expected")
    return classes
