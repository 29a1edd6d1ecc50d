"""Test images that are nearly among the clean ones: frames of one physical sign on both sides.

    python -m ibau_lab near_duplicates --data gtsrb --results near_duplicates.jsonl

GTSRB's photographs were taken from films, some thirty of each physical sign, and its official test
half holds such frames one by one. The talk draws the defender's clean images from that half, so
that the defender owns neighbours of the images on which she is tested.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibau_lite.data import Dataset, load

from .records import append, provenance

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
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def _standardised(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)


def counted(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """How many test images are near-duplicates of clean images, and of as many training images.

    "share" of the test images that correlate above `NEAR` with one of them, and "label", the share
    for which the label of the nearest is right. The training images are drawn at random.
    """
    drawn = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    parts = {"clean": dataset.clean, "training": dataset.train[drawn[: len(dataset.clean)]]}
    told = {}
    for name, part in parts.items():
        values, places = nearest(dataset.test.images, part.images)
        right = part.labels[places] == dataset.test.labels
        told[name] = {
            "among": len(part),
            "n": len(values),
            "share": float((values > NEAR).double().mean()),
            "label": float(right.double().mean()),
        }
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many test images are near-duplicates; with --results, record it."""
    parser = argparse.ArgumentParser(
        prog="ibau_lab near_duplicates", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", default="gtsrb", help="cifar10, gtsrb or signs")
    parser.add_argument("--results", type=Path, help="a JSON Lines file to append to")
    choice = parser.parse_args(arguments)
    dataset = load(choice.data)
    told = counted(dataset)
    print(dataset.source)
    for name, row in told.items():
        print(
            f"{row['share']:.1%} of {row['n']:,} test images correlate above {NEAR} with one of "
            f"{row['among']:,} {name} images; the label of the nearest is right for "
            f"{row['label']:.1%}"
        )
    if choice.results is not None:
        heading = {"data": dataset.name, "source": dataset.source, "near": NEAR}
        append(choice.results, {**heading, **told, **provenance()})
    return 0
