"""Test images that are nearly among the clean ones: frames of one physical sign on both sides.

    python -m ibau_lab.near_duplicates --data gtsrb

GTSRB's photographs were taken from films, some thirty of each physical sign, and its official test
half holds such frames one by one. The talk draws the defender's clean images from that half, so
that the defender owns neighbours of the images on which she is tested.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from ibau_lite.data import load

__all__ = ["NEAR", "main", "nearest"]

NEAR = 0.95
"""From this correlation on two images count as near-duplicates."""


def nearest(images: Tensor, among: Tensor, *, chunk: int = 500) -> tuple[Tensor, Tensor]:
    """The largest correlation of each image with one of `among`, and which one that is.

    ρ(x, z) = ⟨x − x̄, z − z̄⟩ / (‖x − x̄‖ ‖z − z̄‖) over all numbers of an image, x̄ their mean: equal
    for images that differ in brightness and contrast alone; 0 with an image of one colour.
    `images` [N, C, H, W] and `among` [M, C, H, W] → [N] in [−1, 1] and positions [N]. Raises
    `ValueError` for shapes that differ, or where `among` is empty.
    """
    if images.shape[1:] != among.shape[1:] or not len(among):
        raise ValueError(
            "images, among: images of one shape, and at least one to compare with, are expected, "
            f"got {list(images.shape)} and {list(among.shape)}"
        )
    theirs = _standardised(among)
    found = [(_standardised(part) @ theirs.T).max(1) for part in images.split(chunk)]
    values, places = (
        torch.cat(parts) for parts in zip(*((f.values, f.indices) for f in found), strict=True)
    )
    return values, places


def _standardised(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many test images are near-duplicates, and how often their neighbour knows them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="gtsrb", help="cifar10, gtsrb or signs")
    choice = parser.parse_args(arguments)
    dataset = load(choice.data)
    print(dataset.source)
    test = dataset.test
    drawn = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    parts = {"clean": dataset.clean, "training": dataset.train[drawn[: len(dataset.clean)]]}
    for name, part in parts.items():
        values, places = nearest(test.images, part.images)
        right = (part.labels[places] == test.labels).float().mean()
        print(
            f"{(values > NEAR).float().mean():.1%} of {len(test):,} test images correlate above "
            f"{NEAR} with one of {len(part):,} {name} images; the label of the nearest is right "
            f"for {right:.1%}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
