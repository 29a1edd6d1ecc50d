"""What surrounds a drawn sign: textured backgrounds, light, blur and sensor noise.

Every function works on a block of N images at once, float32 [N, C, H, W], and draws its random
numbers from the generator that it is given. It uses no matrix product and no convolution library,
so that the result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Pairs of colours (dark, light) between which a texture varies: foliage, meadow, brick, concrete,
# asphalt, sand, sky, dusk, autumn leaves, painted wall. None is near black or near white.
_GROUNDS: Array = np.array([
    [(44, 68, 34), (128, 158, 78)], [(84, 112, 48), (178, 186, 104)],
    [(112, 62, 48), (186, 122, 94)], [(116, 114, 110), (188, 184, 176)],
    [(66, 68, 74), (132, 134, 140)], [(150, 126, 92), (212, 190, 150)],
    [(98, 148, 202), (204, 222, 238)], [(126, 104, 134), (226, 172, 148)],
    [(120, 74, 34), (214, 150, 58)], [(96, 122, 130), (196, 202, 186)],
], dtype=np.float32) / np.float32(255)  # fmt: skip
_SKIES: Array = np.array([
    [(96, 150, 214), (206, 226, 242)], [(160, 172, 186), (222, 226, 228)],
    [(128, 120, 160), (238, 186, 150)], [(74, 120, 186), (168, 200, 232)],
], dtype=np.float32) / np.float32(255)  # fmt: skip


def column(rng: Generator, n: int, low: float, high: float) -> Array:
    """N uniform numbers as [N, 1, 1, 1], one for each image of a block."""
    return rng.uniform(low, high, size=(n, 1, 1, 1)).astype(np.float32)


class Textures:
    """A bank of noise fields from which every image of a block cuts its own windows.

    Drawing a few large fields and cutting from them is many times faster than drawing noise for
    each image. `smooth` noise has soft patches. `rough` noise has detail down to a pixel. Both have
    mean about 0 and deviation about 1.
    """

    def __init__(self, rng: Generator, size: int, fields: int = 24, side: int = 64) -> None:
        self._size = size
        half = np.full((fields, 1, 1), 0.45, np.float32)
        self._smooth = _octaves(rng, side, half, first=side // 16, last=side // 4)
        ratio = rng.uniform(0.6, 1.0, size=(fields, 1, 1)).astype(np.float32)
        self._rough = _octaves(rng, side, ratio, first=side // 16, last=side)

    def smooth(self, rng: Generator, n: int) -> Array:
        """Soft patches, [N, 1, size, size]."""
        return self._windows(rng, self._smooth, n)

    def rough(self, rng: Generator, n: int) -> Array:
        """Detail at every scale, [N, 1, size, size]."""
        return self._windows(rng, self._rough, n)

    def _windows(self, rng: Generator, fields: Array, n: int) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(fields, (self._size,) * 2, axis=(1, 2))
        field, top, left = (rng.integers(length, size=n) for length in windows.shape[:3])
        return np.asarray(windows[field, top, left][:, None], dtype=np.float32)


def _octaves(rng: Generator, side: int, ratio: Array, first: int, last: int) -> Array:
    """Value noise [fields, side, side]: octaves of `first`, 2 `first`, … `last` cells on a side.

    `ratio` [fields, 1, 1] is the ratio of the amplitudes of successive octaves.
    """
    total, power = np.zeros((len(ratio), side, side), np.float32), np.zeros_like(ratio)
    weight, cells = np.ones_like(ratio), first
    while cells <= last:
        grid = rng.standard_normal((len(ratio), cells + 1, cells + 1), dtype=np.float32)
        total += _stretched(weight * grid, side)
        power += 0.55 * weight**2
        weight, cells = weight * ratio, cells * 2
    return np.asarray(total / np.sqrt(power), dtype=np.float32)


def _stretched(coarse: Array, side: int) -> Array:
    """Resize [fields, k+1, k+1] to [fields, side, side], linearly with smoothed steps."""
    cells = coarse.shape[1] - 1
    position = (np.arange(side, dtype=np.float32) + 0.5) * cells / side
    low = position.astype(np.int64)
    t = position - low
    t = (t * t * (3 - 2 * t)).astype(np.float32)
    rows = coarse[:, low] * (1 - t)[:, None] + coarse[:, low + 1] * t[:, None]
    return np.asarray(rows[:, :, low] * (1 - t) + rows[:, :, low + 1] * t, dtype=np.float32)


def _mixed(palette: Array, amount: Array) -> Array:
    """Colours [N, 3, H, W] between palette[:, 0] and palette[:, 1] by amount [N, 1, H, W]."""
    dark, light = palette[:, 0, :, None, None], palette[:, 1, :, None, None]
    return np.asarray(dark + (light - dark) * np.clip(amount, 0, 1), dtype=np.float32)


def backgrounds(rng: Generator, noise: Textures, n: int, size: int) -> Array:
    """Street scenes without detail: a textured ground, often a sky, sometimes a post."""
    pick = rng.integers(len(_GROUNDS), size=(2, n))
    field = 0.5 + column(rng, n, 0.2, 0.42) * noise.rough(rng, n)
    scene = _mixed(_GROUNDS[pick[0]], field)
    other = _mixed(_GROUNDS[pick[1]], 0.5 + 0.3 * noise.rough(rng, n))
    border = np.clip(0.5 + 2.5 * (noise.smooth(rng, n) - 0.3), 0, 1)
    scene += border * (other - scene)

    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size, dtype=np.float32)
    horizon = column(rng, n, -0.7, 0.9) + column(rng, n, -0.2, 0.2) * x
    horizon = horizon + 0.06 * noise.rough(rng, n)
    sky = _mixed(_SKIES[rng.integers(len(_SKIES), size=n)], y + 0.15 * noise.smooth(rng, n))
    scene += np.clip(12 * (horizon - y), 0, 1) * (sky - scene)

    across = x - column(rng, n, -0.15, 0.15) - column(rng, n, -0.1, 0.1) * y
    across = across / column(rng, n, 0.06, 0.13)
    post = np.clip(4 * (1 - np.abs(across)), 0, 1) * (y > 0.5) * (column(rng, n, 0, 1) < 0.6)
    metal = column(rng, n, 0.35, 0.7) * (1 + 0.25 * across)
    return np.asarray(scene + post * (metal - scene), dtype=np.float32)


def overgrown(rng: Generator, noise: Textures, images: Array, share: float = 0.4) -> Array:
    """Leaves in front of a `share` of the images, growing in from one side."""
    n, size = len(images), images.shape[-1]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle = column(rng, n, 0, 2 * np.pi)
    side = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
    cover = noise.rough(rng, n) + 2.2 * side - column(rng, n, 0.2, 2.6)
    leaves = _mixed(_GROUNDS[rng.integers(2, size=n)], 0.5 + 0.4 * noise.rough(rng, n))
    visible = np.clip(3 * cover, 0, 1) * (column(rng, n, 0, 1) < share)
    return np.asarray(images + visible * (leaves - images), dtype=np.float32)


def lit(rng: Generator, noise: Textures, images: Array) -> Array:
    """Exposure, colour of the light, a gradient, soft cast shadows, and a veil of haze."""
    n, size = len(images), images.shape[-1]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle = column(rng, n, 0, 2 * np.pi)
    slope = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
    light = np.exp(column(rng, n, -0.95, 0.3)) * (1 + column(rng, n, 0, 0.25) * slope)
    shade = np.clip(0.5 + 3 * noise.smooth(rng, n), 0, 1)
    light = light * (1 - column(rng, n, 0.1, 0.45) * shade * (column(rng, n, 0, 1) < 0.35))
    warmth = column(rng, n, -0.1, 0.1)
    tint = np.concatenate([1 + warmth, 1 + 0.3 * column(rng, n, -0.1, 0.1), 1 - warmth], axis=1)
    haze = column(rng, n, 0, 0.12)
    return np.asarray(images * light * tint * (1 - haze) + 0.8 * haze, dtype=np.float32)


def blurred(rng: Generator, images: Array, sharpest: float, softest: float) -> Array:
    """A Gaussian blur whose width, in pixels, differs from image to image and by direction."""
    for axis in (2, 3):
        width = column(rng, len(images), sharpest, softest)
        taps = [np.exp(-0.5 * (k / width) ** 2) for k in range(3)]
        total = taps[0] + 2 * taps[1] + 2 * taps[2]
        padding = [(0, 0)] * 4
        padding[axis] = (2, 2)
        padded = np.pad(images, padding, mode="edge")
        window = [slice(None)] * 4
        blurry = np.zeros_like(images)
        for k in range(5):
            window[axis] = slice(k, k + images.shape[axis])
            blurry += (taps[abs(k - 2)] / total) * padded[tuple(window)]
        images = blurry
    return images


def photographed(rng: Generator, images: Array) -> NDArray[np.uint8]:
    """Sensor noise, part of it growing with brightness; then eight bits, [N, H, W, C]."""
    n = len(images)
    deviation = column(rng, n, 0.004, 0.045) + column(rng, n, 0.0, 0.04) * images
    noisy = images + deviation * rng.standard_normal(images.shape, dtype=np.float32)
    pixels = np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
