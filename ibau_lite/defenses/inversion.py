r"""Trigger inversion: for every class t, the smallest stamp that sends other images to t.

A candidate is a mask m in [0, 1] and a pattern p in [0, 1]. An image carries it as

.. math:: x' = (1 - m) \odot x + m \odot p .

All classes are searched at once, as one batch of stamped images. The result is that of one class
after the other, because a network in evaluation mode reads each image by itself and Adam moves each
number by itself. Neural Cleanse and TABOR are this search with different penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite._modes import usual_settings
from ibau_lite.data import LabelledImages
from ibau_lite.logits import check_logits, check_reads_alone, read
from ibau_lite.speed import frozen

__all__ = ["CandidateTriggers", "Inversion", "InvertedTriggers", "LossTerm", "mask_size"]


@dataclass(frozen=True, eq=False)
class CandidateTriggers:
    """What a term of the loss can use: K candidate triggers on one batch of B clean images.

    `masks` [K, 1, H, W] and `patterns` [K, C, H, W] in [0, 1] belong to the classes `targets` [K].
    `images` [B, C, H, W] and `labels` [B] are the batch. `model` is frozen, in evaluation mode.
    """

    model: nn.Module
    masks: Tensor
    patterns: Tensor
    targets: Tensor
    images: Tensor
    labels: Tensor

    def logits(self, images: Tensor) -> Tensor:
        """Logits [K, B, classes] of images [K, B, C, H, W]."""
        return self.model(images.flatten(0, 1)).unflatten(0, images.shape[:2])


LossTerm = Callable[[CandidateTriggers], Tensor]
"""A term of the loss: one number [K] for each candidate."""


def mask_size(candidates: CandidateTriggers) -> Tensor:
    r"""The penalty of Neural Cleanse, :math:`\|m\|_1` [K] in pixels."""
    return candidates.masks.flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class InvertedTriggers:
    """The best trigger for each of K classes.

    `masks` [K, 1, H, W] and `patterns` [K, C, H, W] are the smallest that succeeded on a batch (the
    last ones, if none did). `sizes` [K] are their ‖m‖₁ in pixels (H·W, the whole image, if none
    did). `found` [K] says which did. `success` [K] is the fraction of the first `checked` clean
    images, those of other classes, that the stamp sends to its class. `path` [steps, K] is ‖m‖₁
    along the search.
    """

    targets: tuple[int, ...]
    masks: Tensor = field(repr=False)
    patterns: Tensor = field(repr=False)
    sizes: Tensor
    found: Tensor
    success: Tensor
    path: Tensor = field(repr=False)

    def stamp(self, images: Tensor, which: Tensor) -> Tensor:
        """Stamp images [B, C, H, W], the b-th with the trigger number `which[b]` of the K."""
        masks, patterns = self.masks[which], self.patterns[which]
        return ((1 - masks) * images + masks * patterns).to(images.dtype)


@dataclass(frozen=True)
class Inversion:
    r"""Settings of the search. A call minimises for each class t, over tanh-shaped m and p,

    .. math:: \frac1{|B_t|}\sum_{i \in B_t} L(f((1 - m) x_i + m p), t) + c_t\,R(m, p) + T(m, p)

    by Adam (`lr`, `betas`), with a new batch of `batch_size` clean images at each of `steps` steps.
    B_t are the images of the batch whose class is not t. R is `penalty`, and T an optional further
    `term`.

    The weight c_t starts at 0. It counts batches on which at least `success` of the images are
    predicted as t. After `patience` such batches in a row it becomes `cost`, and later it is
    multiplied by `up`. After as many failures in a row it is divided by `down`. The smallest mask
    that succeeded is kept. Its success is measured on the first `checked` clean images. `chunk` is
    the largest number of stamped images in one forward pass. It decides the memory, not the result.

    Our choices where the paper leaves them open: all classes start at the same uniformly random m
    and p and see the same batches, so that only the class differs. One step is one batch. Images of
    class t do not count for t. Raises `ValueError` for settings outside their range.
    Source: Wang et al. 2019 (Neural Cleanse), section IV.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> search = Inversion(steps=3)
    >>> found = search(tiny_network(), tiny_images(), generator=torch.Generator().manual_seed(0))
    >>> found.masks.shape, found.path.shape
    (torch.Size([4, 1, 8, 8]), torch.Size([3, 4]))
    """

    steps: int = 300
    batch_size: int = 32
    lr: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    success: float = 0.99
    cost: float = 1e-3
    patience: int = 5
    up: float = 2.0
    down: float = 2.0**1.5
    checked: int = 1000
    chunk: int = 512

    def __post_init__(self) -> None:
        check_kinds(self)
        counts = ("steps", "batch_size", "patience", "checked", "chunk")
        check_ranges(
            self, **dict.fromkeys(counts, "[1, ∞)"), lr="(0, ∞)", cost="(0, ∞)",
            success="(0, 1]", up="(1, ∞)", down="(1, ∞)", betas="[0, 1)",
        )  # fmt: skip

    @usual_settings()
    def __call__(
        self,
        model: nn.Module,
        clean: LabelledImages,
        targets: Sequence[int] | None = None,
        *,
        penalty: LossTerm = mask_size,
        term: LossTerm | None = None,
        generator: torch.Generator,
        progress: bool = False,
    ) -> InvertedTriggers:
        """Search the classes `targets` (default: all classes of the model) on the clean images.

        The model is read, not changed. The images must be on its device. `generator` (a CPU one)
        draws the start and the batches. Raises `ValueError` for a class that the model lacks, and
        for a model that mixes images or gives probabilities (see `ibau_lite.logits`).
        """
        check_reads_alone(model)
        network = frozen(model)
        first = next(network.parameters())
        images, labels = clean.images.to(first.dtype), clean.labels
        classes = _classes(network, images, targets)
        wanted = torch.tensor(classes, device=labels.device)
        masks, patterns = (
            _start(shape, len(classes), images, generator) for shape in (1, images.shape[1])
        )
        adam = torch.optim.Adam([masks, patterns], lr=self.lr, betas=self.betas)
        best = _Best(masks, patterns)
        cost = _Cost(self, masks)
        groups = torch.arange(len(classes), device=labels.device)
        groups = groups.split(max(1, self.chunk // min(self.batch_size, len(clean))))
        batches = _Batches(len(clean), self.batch_size, generator)
        path = []
        for _ in tqdm(range(self.steps), disable=not progress, unit="step", desc="inversion"):
            index = next(batches).to(labels.device)
            batch = images[index], labels[index]
            rows = [
                _gradients(
                    network, batch, masks[g], patterns[g], wanted[g], cost.now[g], penalty, term
                )
                for g in groups
            ]
            masks.grad, patterns.grad, hit_rate = (
                torch.cat(parts) for parts in zip(*rows, strict=True)
            )
            sizes = best.update(hit_rate >= self.success)
            cost.update(hit_rate >= self.success)
            path.append(sizes)
            adam.step()
        found = torch.isfinite(best.sizes)
        some, their_labels = images[: self.checked], labels[: self.checked]
        success = [
            _success(
                network, some, their_labels, best.masks[g], best.patterns[g], wanted[g], self.chunk
            )
            for g in groups
        ]
        area = float(images.shape[2] * images.shape[3])
        return InvertedTriggers(
            classes,
            best.masks,
            best.patterns,
            torch.where(found, best.sizes, area),
            found,
            torch.cat(success),
            torch.stack(path),
        )


class _Best:
    """The smallest successful mask of each class, with its pattern."""

    def __init__(self, masks: Tensor, patterns: Tensor) -> None:
        self._raw = masks, patterns
        self.masks, self.patterns = _unit(masks.detach()), _unit(patterns.detach())
        self.sizes = torch.full_like(masks.detach()[:, 0, 0, 0], torch.inf)

    def update(self, succeeded: Tensor) -> Tensor:
        """Take in the present candidates; return their sizes ‖m‖₁ [K]."""
        masks, patterns = (_unit(raw.detach()) for raw in self._raw)
        sizes = masks.flatten(1).sum(1)
        # Until the first success the last candidate stands in, so that there is one to look at.
        better = (succeeded & (sizes < self.sizes)) | (~succeeded & self.sizes.isinf())
        self.sizes = torch.where(better & succeeded, sizes, self.sizes)
        where = better[:, None, None, None]
        self.masks = torch.where(where, masks, self.masks)
        self.patterns = torch.where(where, patterns, self.patterns)
        return sizes


class _Cost:
    """The weight c of the penalty, one a class: up after successes, down after failures."""

    def __init__(self, settings: Inversion, like: Tensor) -> None:
        self._settings = settings
        self.now = like.new_zeros(len(like))
        self._wins = self._losses = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def update(self, succeeded: Tensor) -> None:
        s = self._settings
        self._wins = torch.where(succeeded, self._wins + 1, 0)
        self._losses = torch.where(succeeded, 0, self._losses + 1)
        up, down = self._wins >= s.patience, self._losses >= s.patience
        raised = torch.where(self.now == 0, s.cost, self.now * s.up)
        self.now = torch.where(up, raised, torch.where(down, self.now / s.down, self.now))
        self._wins = torch.where(up, 0, self._wins)
        self._losses = torch.where(down, 0, self._losses)


class _Batches:
    """Endless batches of positions: pass after pass, each in a new order."""

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self._count, self._size, self._generator = count, size, generator
        self._queue: list[Tensor] = []

    def __next__(self) -> Tensor:
        if not self._queue:
            order = torch.randperm(self._count, generator=self._generator)
            parts = order.split(self._size)
            # A short last batch would make success cheap: it is left out where there are others.
            self._queue = [part for part in parts if len(part) == len(parts[0])]
        return self._queue.pop(0)


def _classes(model: nn.Module, images: Tensor, targets: Sequence[int] | None) -> tuple[int, ...]:
    with torch.no_grad():
        check_logits(logits := read(model, images[:16]))
    count = logits.shape[1]
    classes = tuple(range(count)) if targets is None else tuple(targets)
    if not classes or not all(0 <= t < count for t in classes):
        raise ValueError(f"targets: classes 0 to {count - 1} of the model, got {classes}")
    return classes


def _start(channels: int, classes: int, images: Tensor, generator: torch.Generator) -> nn.Parameter:
    """One start for all classes, uniform in (0, 1) after tanh: raw values [K, channels, H, W]."""
    shape = (1, channels, *images.shape[2:])
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    raw = torch.atanh((2 * uniform - 1) * 0.999).to(images)
    return nn.Parameter(raw.repeat(classes, 1, 1, 1))


def _unit(raw: Tensor) -> Tensor:
    return (raw.tanh() + 1) / 2


def _stamp(images: Tensor, masks: Tensor, patterns: Tensor) -> Tensor:
    """Every image with every trigger: [B, C, H, W], [K, …] → [K, B, C, H, W]."""
    masks, patterns = masks[:, None], patterns[:, None]
    return (1 - masks) * images + masks * patterns


def _share(right: Tensor, counts: Tensor) -> Tensor:
    """Mean [K] of `right` [K, B] over what counts; 0 where nothing does."""
    return (right * counts).sum(1) / counts.sum(1).clamp_min(1)


def _gradients(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    masks: Tensor,
    patterns: Tensor,
    targets: Tensor,
    cost: Tensor,
    penalty: LossTerm,
    term: LossTerm | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the loss in the raw masks and patterns, and the fraction read as t [K]."""
    images, labels = batch
    raw = [part.detach().requires_grad_(True) for part in (masks, patterns)]
    with torch.enable_grad():
        stamps = [_unit(part) for part in raw]
        here = CandidateTriggers(model, stamps[0], stamps[1], targets, images, labels)
        logits = here.logits(_stamp(images, *stamps))
        counts = (labels != targets[:, None]).to(logits.dtype)
        wanted = targets[:, None].expand(-1, len(images))
        entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        loss = _share(entropy.view_as(counts), counts) + cost * penalty(here)
        if term is not None:
            loss = loss + term(here)
        gradients = torch.autograd.grad(loss.sum(), raw)
    hits = (logits.argmax(2) == wanted).to(logits.dtype)
    return gradients[0], gradients[1], _share(hits, counts)


def _success(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    masks: Tensor,
    patterns: Tensor,
    targets: Tensor,
    chunk: int,
) -> Tensor:
    """The fraction of all images of other classes that each stamp sends to its class [K]."""
    predicted = []
    size = max(1, chunk // len(targets))
    with torch.no_grad():
        for part in images.split(size):
            here = CandidateTriggers(model, masks, patterns, targets, part, labels)
            predicted.append(here.logits(_stamp(part, masks, patterns)).argmax(2))
    right = torch.cat(predicted, 1) == targets[:, None]
    return _share(right.to(images.dtype), (labels != targets[:, None]).to(images.dtype))
