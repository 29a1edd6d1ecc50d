"""Who is stamped and how it is relabelled: from triggers to a poisoned training set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ibau_lite.attacks.triggers import Trigger
from ibau_lite.data import LabelledImages
from ibau_lite.streams import stream


@runtime_checkable
class Relabelling(Protocol):
    """A label rule: a frozen, hashable value that maps labels [N] to the attacker's labels [N]."""

    def __call__(self, labels: Tensor) -> Tensor:
        """Map true labels [N] to the attacker's labels [N]."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class AllToOne:
    """The one-target rule y -> `target` (Gu et al. 2017).

    Raises `ValueError` for a target that is not an integer or is below 0.
    """

    target: int

    def __post_init__(self) -> None:
        if isinstance(self.target, bool) or not isinstance(self.target, int) or self.target < 0:
            raise ValueError(f"target: a class number 0, 1, … is expected, got {self.target!r}")

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels [N] -> the target, N times."""
        return torch.full_like(labels, self.target)

    def __str__(self) -> str:
        return f"every class → {self.target}"


@dataclass(frozen=True)
class AllToAll:
    """The rule y -> (y + 1) mod `num_classes` (Gu et al. 2017): every class is attacked.

    Raises `ValueError` for fewer than two classes, and when called on a label that is none of
    them.
    """

    num_classes: int

    def __post_init__(self) -> None:
        count = self.num_classes
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ValueError(f"num_classes: at least 2 is expected, got {count!r}")

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels [N] -> each one's successor."""
        if labels.numel() and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise ValueError(
                f"labels: classes 0 to {self.num_classes - 1} are expected, "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
        return (labels + 1) % self.num_classes

    def __str__(self) -> str:
        return f"y → (y + 1) mod {self.num_classes}"


@dataclass(frozen=True)
class CleanLabel(AllToOne):
    """The clean-label rule: images of class `target` are stamped and keep their label.

    At test time every other class is attacked, y -> `target`, as in `AllToOne`. Source: Barni,
    Kallas and Tondi 2019.
    """

    def eligible(self, labels: Tensor) -> Tensor:
        """Which images may be poisoned, [N] booleans: those of the target class."""
        return labels == self.target

    def __str__(self) -> str:
        return f"every class → {self.target}, taught with class {self.target} alone"


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """A poisoned training set; made by `Attack.poison`.

    `base` are the images before stamping [N, C, H, W] (the ones that were given, not a copy) and
    `labels` [N] the poisoned labels. `indices` [P] are the stamped positions in rising order,
    `pair` [P] says which pair of `attack` each of them carries; covers are counted on after the
    pairs.

    To train on it, augment first and stamp last (a flipped image has its trigger in the wrong
    corner)::

        fit(model, poisoned, recipe)

    `images` are the stamped images, for training without augmentation and for looking at.
    """

    attack: Attack
    base: Tensor
    labels: Tensor
    indices: Tensor
    pair: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def images(self) -> Tensor:
        """The stamped images [N, C, H, W]: a copy of the whole set, made when first asked for."""
        return self.stamp(self.base, torch.arange(len(self.base)))

    @cached_property
    def _pair_of(self) -> Tensor:
        lookup = torch.full((len(self.labels),), -1)
        lookup[self.indices.cpu()] = self.pair.cpu()
        return lookup

    def stamp(self, images: Tensor, index: Tensor) -> Tensor:
        """Stamp the poisoned members of a batch and leave the others as they are.

        `images` [B, C, H, W] in [0, 1] are the (augmented) training images at the positions
        `index` [B]. Returns a new tensor, or `images` itself where no member is poisoned.
        Raises `ValueError` if the two lengths differ or a position is not one of the training
        set's.
        """
        if index.ndim != 1 or len(index) != len(images):
            raise ValueError(
                f"index: one training position for each of the {len(images)} images is expected, "
                f"got shape {list(index.shape)}"
            )
        index = index.cpu()
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise ValueError(
                f"index: positions 0 to {len(self) - 1} are expected, "
                f"got {int(index.min())} to {int(index.max())}"
            )
        pair_of = self._pair_of[index]
        stamped = images
        for number, (trigger, _) in enumerate((*self.attack.pairs, *self.attack.covers)):
            members = (pair_of == number).nonzero().flatten()
            if not len(members):
                continue
            if stamped is images:
                stamped = images.clone()
            members = members.to(images.device)
            stamped[members] = trigger(images[members])
        return stamped

    def __str__(self) -> str:
        poisoned = int((self.pair < len(self.attack.pairs)).sum())
        covers = len(self.pair) - poisoned
        return (
            f"{len(self):,} training images, {poisoned:,} of them poisoned "
            f"({poisoned / len(self):.2%}) by {self.attack.name}"
        ) + (f", {covers:,} covers" if covers else "")


@dataclass(frozen=True)
class Attack:
    """A backdoor attack: a name and one or more pairs (trigger, relabelling).

    A relabelling may have a method `eligible(labels) -> booleans [N]` that says who can be
    poisoned; without it, everybody whose label it changes. `covers` are pairs (trigger, ratio):
    training images that are stamped and keep their label, `ratio` for each poisoned one, so that
    the network learns what is NOT the trigger (Nguyen and Tran 2021). They play no part in tests.

    Raises `ValueError` for no pairs, for a trigger that occurs twice (one trigger cannot mean two
    labels) and for a ratio that is not positive, `TypeError` for a pair that does not hold two
    callables.
    """

    name: str
    pairs: tuple[tuple[Trigger, Relabelling], ...]
    covers: tuple[tuple[Trigger, float], ...] = ()

    def __post_init__(self) -> None:
        if any(callable(pair) for pair in self.pairs):
            raise TypeError(
                "pairs: a tuple of (trigger, relabelling) is expected, as ((trigger, rule),), "
                f"got {self.pairs}"
            )
        object.__setattr__(self, "pairs", tuple(tuple(pair) for pair in self.pairs))
        object.__setattr__(self, "covers", tuple(tuple(cover) for cover in self.covers))
        if not self.pairs:
            raise ValueError("pairs: at least one (trigger, relabelling) is expected, got none")
        for pair in self.pairs:
            if len(pair) != 2 or not all(callable(member) for member in pair):
                raise TypeError(
                    f"pairs: (trigger, relabelling), both callable, is expected, got {pair}"
                )
        if not all(ratio > 0 for _, ratio in self.covers):
            raise ValueError(f"covers: (trigger, positive ratio) is expected, got {self.covers}")
        triggers = [trigger for trigger, _ in (*self.pairs, *self.covers)]
        if len(set(triggers)) != len(triggers):
            raise ValueError(
                f"pairs: a trigger that occurs once is expected, got the same one in two pairs of "
                f"{self.name!r}; one trigger cannot mean two labels"
            )

    def poison(self, train: LabelledImages, rate: float = 0.2, seed: int = 0) -> PoisonedSet:
        """Draw the images to poison and relabel them; `seed` and the attack's name decide whom.

        Of N training images round(`rate` · N) are poisoned: the rate is a fraction of ALL images,
        but only images that the relabelling changes are drawn (for one target: the non-target
        ones). With several pairs `rate` is their total, a choice of ours: the drawn images are
        split into disjoint groups, equal to within one image, one a pair. Covers come on top, drawn
        from the images that are left, of whatever class.

        Raises `TypeError` for no `LabelledImages`, `ValueError` for a rate outside (0, 1) or so small
        that a pair gets no image, for an attacker's label that does not occur in `train`, for more
        poison or covers than eligible images, and as the triggers do for images that they do not
        fit.
        """
        if not isinstance(train, LabelledImages):
            raise TypeError(
                f"train: LabelledImages are expected, as dataset.train, got {type(train)}"
            )
        counts = self._counts(len(train), rate)
        for trigger, _ in (
            *self.pairs,
            *self.covers,
        ):  # one that does not fit fails here, not in training
            trigger(train.images[:1])
        generator = stream(seed, "poison", self.name)
        labels = train.labels.cpu()
        order = torch.randperm(len(labels), generator=generator)
        eligible = [self._eligible(rule, labels) for _, rule in self.pairs]
        pair_of = torch.full((len(labels),), -1)
        # The choosiest pair draws first, so that the others do not use up its images.
        for number in sorted(range(len(self.pairs)), key=lambda k: int(eligible[k].sum())):
            free = order[(eligible[number] & (pair_of < 0))[order]]
            if len(free) < counts[number]:
                raise ValueError(
                    f"rate: {rate:g} asks for {counts[number]} images for "
                    f"“{self.pairs[number][1]}”, but only {len(free)} of {len(labels)} are "
                    "eligible (their label would change and no other pair has them); lower the rate"
                )
            pair_of[free[: counts[number]]] = number
        self._draw_covers(order, pair_of, sum(counts))
        indices = (pair_of >= 0).nonzero().flatten()
        return PoisonedSet(
            attack=self,
            base=train.images,
            labels=self._relabelled(labels, pair_of).to(train.labels.device),
            indices=indices,
            pair=pair_of[indices],
        )

    def poisoned_test_set(self, labelled: LabelledImages) -> LabelledImages:
        """What the attack success rate is measured on: attacked images with the attacker's labels.

        Every image whose label the relabelling changes is stamped (images of the target class are
        left out: predicting the target for them is no success). The views of several pairs follow
        one another. ASR = the fraction of this view that a model predicts as labelled. Raises
        `ValueError` if no image is left, and as the triggers do.
        """
        views = list(self.poisoned_test_sets(labelled).values())
        if len(views) == 1:
            return views[0]
        return LabelledImages(
            torch.cat([view.images for view in views]), torch.cat([view.labels for view in views])
        )

    def poisoned_test_sets(self, labelled: LabelledImages) -> dict[int, LabelledImages]:
        """`poisoned_test_set` for each pair on its own, keyed by the pair's position in `pairs`."""
        return dict(enumerate(self._views(labelled)))

    def _views(self, labelled: LabelledImages) -> Iterator[LabelledImages]:
        for trigger, rule in self.pairs:
            attacked = rule(labelled.labels)
            changed = attacked != labelled.labels
            if not changed.any():
                raise ValueError(
                    f"labelled: at least one image whose label “{rule}” changes is expected, "
                    f"got {len(labelled)} images and none such; ASR is not defined on them"
                )
            yield LabelledImages(trigger(labelled.images[changed]), attacked[changed])

    def _counts(self, total: int, rate: float) -> list[int]:
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
            raise ValueError(
                f"rate: a number between 0 and 1, both excluded, is expected, got {rate!r}"
            )
        poisoned, pairs = round(rate * total), len(self.pairs)
        if poisoned < pairs:
            raise ValueError(
                f"rate: at least one image for each of the {pairs} pairs is expected, but {rate:g} "
                f"of {total} images is {poisoned}; raise the rate or give more images"
            )
        return [poisoned // pairs + (k < poisoned % pairs) for k in range(pairs)]

    def _eligible(self, rule: Relabelling, labels: Tensor) -> Tensor:
        attacked = rule(labels)
        absent = set(attacked.tolist()) - set(labels.tolist())
        if absent:
            raise ValueError(
                "target: classes of the training set are expected "
                f"({sorted(set(labels.tolist()))}), got {sorted(absent)} from “{rule}”"
            )
        mask: Tensor = rule.eligible(labels) if hasattr(rule, "eligible") else attacked != labels
        return mask

    def _draw_covers(self, order: Tensor, pair_of: Tensor, poisoned: int) -> None:
        """Mark the covers in `pair_of` [N], in place, among those whom no pair has."""
        for number, (_, ratio) in enumerate(self.covers, len(self.pairs)):
            free, count = order[(pair_of < 0)[order]], round(ratio * poisoned)
            if len(free) < count:
                raise ValueError(
                    f"rate: {ratio:g} covers for each of {poisoned} poisoned images are {count}, "
                    f"but only {len(free)} images are left; lower the rate"
                )
            pair_of[free[:count]] = number

    def _relabelled(self, labels: Tensor, pair_of: Tensor) -> Tensor:
        poisoned = labels.clone()
        for number, (_, rule) in enumerate(self.pairs):
            members = pair_of == number
            poisoned[members] = rule(labels[members])
        return poisoned

    def to_dict(self) -> dict[str, Any]:
        """Give the name, triggers and label rules as plain JSON data."""

        def told(trigger: Trigger) -> Any:
            return trigger.to_dict() if hasattr(trigger, "to_dict") else repr(trigger)

        pairs = [
            {"trigger": told(trigger), "relabelling": repr(rule)} for trigger, rule in self.pairs
        ]
        covers = [{"trigger": told(trigger), "ratio": ratio} for trigger, ratio in self.covers]
        return {"name": self.name, "pairs": pairs, **({"covers": covers} if covers else {})}

    def __str__(self) -> str:
        pairs = "; ".join(f"{trigger}: {rule}" for trigger, rule in self.pairs)
        return f"{self.name} ({pairs})"
