"""What surrounds a drawn sign: textured backgrounds, light, blur and sensor noise.

Everything here is vectorised over a block of N images, float32 [N, H, W, C], and takes its
randomness from the generator that it is given. No matrix product and no convolution library is
used: the result does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Pairs of colours (dark, light) between which a texture varies: foliage, meadow, brick, concrete,
# asphalt, sand, sky, dusk, autumn leaves, painted wall. None is near black or near white.
_GROUNDS = np.array([
    [(44, 68, 34), (128, 158, 78)], [(84, 112, 48), (178, 186, 104)],
    [(112, 62, 48), (186, 122, 94)], [(116, 114, 110), (188, 184, 176)],
    [(66, 68, 74), (132, 134, 140)], [(150, 126, 92), (212, 190, 150)],
    [(98, 148, 202), (204, 222, 238)], [(126, 104, 134), (226, 172, 148)],
    [(120, 74, 34), (214, 150, 58)], [(96, 122, 130), (196, 202, 186)],
], dtype=np.float32) / 255  # fmt: skip
_SKIES = np.array([
    [(96, 150, 214), (206, 226, 242)], [(160, 172, 186), (222, 226, 228)],
    [(128, 120, 160), (238, 186, 150)], [(74, 120, 186), (168, 200, 232)],
], dtype=np.float32) / 255  # fmt: skip


def column(rng: Generator, n: int, low: float, high: float) -> Array:
    """N uniform numbers as [N, 1, 1, 1], one for each image of a block."""
    return rng.uniform(low, high, size=(n, 1, 1, 1)).astype(np.float32)


def _stretched(coarse: Array, size: int) -> Array:
    """Resize [N, k+1, k+1] to [N, size, size], linearly with smoothed steps."""
    cells = coarse.shape[1] - 1
    position = (np.arange(size, dtype=np.float32) + 0.5) * cells / size
    low = position.astype(np.int64)
    t = position - low
    t = (t * t * (3 - 2 * t)).astype(np.float32)
    rows = coarse[:, low] * (1 - t)[:, None] + coarse[:, low + 1] * t[:, None]
    out = rows[:, :, low] * (1 - t)
    out += rows[:, :, low + 1] * t
    return np.asarray(out, dtype=np.float32)


def texture(
    rng: Generator, n: int, size: int, roughness: Array | float = 0.6, finest: int = 32
) -> Array:
    """Value noise in octaves, [N, size, size, 1], of mean about 0 and deviation about 1.

    `roughness` [N, 1, 1, 1] or a number is the ratio of the amplitudes of successive octaves, and
    the last octave has `finest` cells on a side.
    """
    ratio = np.asarray(roughness, np.float32).reshape(-1, 1, 1)
    weight, power = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    total = np.zeros((n, size, size), np.float32)
    cells = 2
    while cells <= finest:
        grid = rng.standard_normal((n, cells + 1, cells + 1), dtype=np.float32)
        total += _stretched(weight * grid, size)
        power = power + 0.55 * weight**2
        weight, cells = weight * ratio, cells * 2
    total /= np.sqrt(power)
    return total[..., None]


def _mixed(palette: Array, amount: Array) -> Array:
    """Colours [N, H, W, 3] between palette[:, 0] and palette[:, 1] by amount [N, H, W, 1]."""
    dark, light = palette[:, None, None, 0], palette[:, None, None, 1]
    return np.asarray(dark + (light - dark) * np.clip(amount, 0, 1), dtype=np.float32)


def backgrounds(rng: Generator, n: int, size: int) -> Array:
    """Street scenes without detail: a textured ground, often a sky, sometimes a post."""
    pick = rng.integers(len(_GROUNDS), size=(2, n))
    rough = column(rng, n, 0.55, 1.0)
    field = 0.5 + column(rng, n, 0.2, 0.42) * texture(rng, n, size, rough)
    scene = _mixed(_GROUNDS[pick[0]], field)
    other = _mixed(_GROUNDS[pick[1]], 0.5 + 0.3 * texture(rng, n, size, 0.8))
    border = np.clip(0.5 + 2.5 * (texture(rng, n, size, 0.45, finest=8) - 0.3), 0, 1)
    scene += border * (other - scene)

    y = np.linspace(0, 1, size, dtype=np.float32)[None, :, None, None]
    x = np.linspace(-1, 1, size, dtype=np.float32)[None, None, :, None]
    horizon = column(rng, n, -0.7, 0.9) + column(rng, n, -0.2, 0.2) * x
    horizon = horizon + 0.06 * texture(rng, n, size, 0.9)
    sky = _mixed(_SKIES[rng.integers(len(_SKIES), size=n)], y + 0.15 * texture(rng, n, size, finest=8))
    scene += np.clip(12 * (horizon - y), 0, 1) * (sky - scene)

    across = (x - column(rng, n, -0.15, 0.15) - column(rng, n, -0.1, 0.1) * y)
    across = across / column(rng, n, 0.06, 0.13)
    post = np.clip(4 * (1 - np.abs(across)), 0, 1) * (y > 0.5) * (column(rng, n, 0, 1) < 0.6)
    metal = column(rng, n, 0.35, 0.7) * (1 + 0.25 * across)
    return np.asarray(scene + post * (metal - scene), dtype=np.float32)


def lit(rng: Generator, images: Array) -> Array:
    """Exposure, colour of the light, a gradient, soft cast shadows, and a veil of haze."""
    n, size = images.shape[:2]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle = column(rng, n, 0, 2 * np.pi)
    slope = np.cos(angle) * axis[None, None, :, None] + np.sin(angle) * axis[None, :, None, None]
    light = np.exp(column(rng, n, -0.75, 0.3)) * (1 + column(rng, n, 0, 0.25) * slope)
    shade = np.clip(0.5 + 3 * texture(rng, n, size, 0.45, finest=8), 0, 1)
    light = light * (1 - column(rng, n, 0.1, 0.45) * shade * (column(rng, n, 0, 1) < 0.35))
    warmth = column(rng, n, -0.1, 0.1)
    tint = np.concatenate([1 + warmth, 1 + 0.3 * column(rng, n, -0.1, 0.1), 1 - warmth], axis=-1)
    haze = column(rng, n, 0, 0.12)
    return np.asarray(images * light * tint * (1 - haze) + 0.8 * haze, dtype=np.float32)


def blurred(rng: Generator, images: Array, sharpest: float, softest: float) -> Array:
    """A Gaussian blur whose width, in pixels, differs from image to image and by direction."""
    for axis in (1, 2):
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
    """Sensor noise (a constant part and one that grows with brightness), then eight bits."""
    n = len(images)
    deviation = column(rng, n, 0.004, 0.02) + column(rng, n, 0.0, 0.03) * images
    noisy = images + deviation * rng.standard_normal(images.shape, dtype=np.float32)
    return np.asarray(np.clip(noisy * 255 + 0.5, 0, 255), dtype=np.uint8)
