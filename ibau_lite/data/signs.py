"""Drawn traffic signs: the dataset that needs no download, drawn from a seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from ibau_lite.data import npz, scenery
from ibau_lite.data.halves import Halves
from ibau_lite.data.sign_faces import FACE_NAMES, draw_faces

VERSION = 4  # raise it when a drawing changes: it is part of the name of the cached file

SIZE = 32  # pixels on a side of a finished image
_BLOCK = 120  # images that are drawn together from one random stream
_OVERSAMPLING = 2  # the sign is warped on a grid this many times finer, then averaged
_FACE_SIZE = 96
_HELD_OUT_SEED = 1_000_003  # another stream: no held-out image repeats a training image


def draw(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `count` images of signs in twelve classes, as if cropped from photographs.

    Returns images uint8 [count, 32, 32, 3] (RGB) and labels int64 [count]. The classes are as
    equally frequent as `count` permits. The same seed gives the same bits, and a longer run begins
    with the images of a shorter one. Raises `ValueError` for a negative `count` or `seed`.

    >>> images, labels = draw(24)
    >>> images.shape, np.bincount(labels).tolist()
    ((24, 32, 32, 3), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must not be negative, got {count} and {seed}")
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    labels = np.empty(count, np.int64)
    for index, start in enumerate(range(0, count, _BLOCK)):
        stop = min(start + _BLOCK, count)
        block_images, block_labels = _draw_block(default_rng(SeedSequence((seed, index))))
        images[start:stop] = block_images[: stop - start]
        labels[start:stop] = block_labels[: stop - start]
    return images, labels


def halves(n_train: int, n_held_out: int, folder: Path) -> Halves:
    """The signs in the form of every other dataset: always the same images for the same numbers.

    They are drawn once and kept as an archive in `folder`. If it cannot be written, they are drawn
    each time.
    """
    kept = folder / f"signs-v{VERSION}-{n_train}-{n_held_out}.npz"
    with contextlib.suppress(OSError, ValueError):  # absent or damaged: it can be drawn again
        return npz.read_halves(kept, "signs")
    source = f"signs (drawn, version {VERSION})"
    drawn = Halves(*draw(n_train), *draw(n_held_out, seed=_HELD_OUT_SEED), FACE_NAMES, source)
    with contextlib.suppress(OSError):
        npz.write_halves(kept, drawn)
    return drawn


def _draw_block(rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    order = [rng.permutation(len(FACE_NAMES)) for _ in range(_BLOCK // len(FACE_NAMES))]
    labels = np.concatenate(order).astype(np.int64)
    sign, alpha = _posed(rng, labels)
    noise = scenery.Textures(rng, SIZE)
    scene = scenery.backgrounds(rng, noise, _BLOCK, SIZE)
    scene = scene * (1 - 0.45 * _fallen_shadow(alpha)) * (1 - alpha) + _weathered(
        rng, noise, sign, alpha
    )
    scene = scenery.lit(rng, noise, scenery.overgrown(rng, noise, scene))
    scene = scenery.blurred(rng, scene, 0.25, 1.5)
    return scenery.photographed(rng, scene), labels


def _posed(rng: Generator, labels: NDArray[np.int64]) -> tuple[scenery.Array, scenery.Array]:
    """Warp one face for each label; returns colours × alpha [N, 3, H, W] and alpha [N, 1, H, W]."""
    from PIL import Image

    fine = _OVERSAMPLING * SIZE
    faces = draw_faces(_FACE_SIZE)
    layers = np.empty((len(labels), fine, fine, 4), np.uint8)
    poses = _poses(rng, len(labels), fine)
    for layer, label, coefficients in zip(layers, labels, poses, strict=True):
        face = faces[label].transform(
            (fine, fine), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR
        )
        layer[...] = np.frombuffer(face.tobytes(), np.uint8).reshape(fine, fine, 4)
    rows = layers[:, 0::2].astype(np.uint16) + layers[:, 1::2]
    sums = np.ascontiguousarray((rows[:, :, 0::2] + rows[:, :, 1::2]).transpose(0, 3, 1, 2))
    rgba = sums * np.float32(1 / (255 * _OVERSAMPLING**2))
    return rgba[:, :3], rgba[:, 3:]


def _poses(rng: Generator, n: int, fine: int) -> Iterator[tuple[float, ...]]:
    """For each image the eight numbers of Pillow's PERSPECTIVE: output pixel -> face pixel."""
    turn = rng.normal(0, 0.09, n).clip(-0.25, 0.25)
    half = rng.uniform(0.5, 0.98, n) * fine / 2  # half the width of the sign, in output pixels
    narrow = rng.uniform(0.86, 1.0, n)  # seen from the side
    room = 0.06 * fine + 0.5 * (fine / 2 - half)
    shift = rng.uniform(-1, 1, (2, n)) * room
    tilt = rng.normal(0, 0.05, (2, n)).clip(-0.12, 0.12)
    shear = rng.normal(0, 0.04, n).clip(-0.1, 0.1)
    middle = _FACE_SIZE / 2
    for i in range(n):
        c, s = np.cos(turn[i]), np.sin(turn[i])
        to_centre = np.array([[1, 0, -fine / 2 - shift[0, i]], [0, 1, -fine / 2 - shift[1, i]],
                              [0, 0, 1]])  # fmt: skip
        rotate = np.array([[c / narrow[i], s / narrow[i], 0], [-s, c, 0], [0, 0, half[i]]])
        lean = np.array([[1, shear[i], 0], [0, 1, 0], [tilt[0, i], tilt[1, i], 1]])
        to_face = np.array([[middle, 0, middle], [0, middle, middle], [0, 0, 1]])
        matrix = to_face @ lean @ rotate @ to_centre
        yield tuple((matrix / matrix[2, 2]).ravel()[:8].tolist())


def _fallen_shadow(alpha: scenery.Array) -> scenery.Array:
    """The sign's outline, one pixel down and softened: it lifts the sign from the background."""
    padded = np.pad(alpha, [(0, 0), (0, 0), (2, 0), (1, 1)])
    rows = (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) / 3
    return np.asarray((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 3, dtype=np.float32)


def _weathered(
    rng: Generator, noise: scenery.Textures, sign: scenery.Array, alpha: scenery.Array
) -> scenery.Array:
    """Fade the paint, dirty it, and let a soft highlight run over the metal."""
    n = len(sign)
    grey = sign.mean(axis=1, keepdims=True)
    paint = sign + scenery.column(rng, n, 0.0, 0.35) * (grey - sign)
    dirt = np.clip(noise.rough(rng, n) - 0.9, 0, 1)
    paint = paint * (1 - scenery.column(rng, n, 0.0, 0.45) * dirt)
    gloss = np.clip(noise.smooth(rng, n) - 0.4, 0, 1)
    shine = scenery.column(rng, n, 0.0, 0.3) * gloss
    return np.asarray(paint + shine * (0.95 * alpha - paint), dtype=np.float32)
