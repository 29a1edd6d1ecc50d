"""Two drawings in code, for images of every size: an owl for Blend, a seal for the watermark."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SKY, _DOT = (0.36, 0.80, 0.84), (0.97, 0.97, 0.90)
_BODY, _BELLY, _WING = (0.47, 0.29, 0.58), (0.95, 0.83, 0.62), (0.32, 0.18, 0.45)
_WHITE, _BLACK, _BEAK = (1.0, 1.0, 1.0), (0.06, 0.05, 0.12), (0.98, 0.60, 0.09)


def owl(channels: int, height: int, width: int) -> Tensor:
    """Draw a cartoon owl that fills the picture: [C, H, W] in [0, 1].

    Three channels are red, green and blue. One channel is their luminance. Any other number of
    channels takes the three colours in turn. Raises `ValueError` for fewer than 8 pixels on a side
    or no channel.

    >>> owl(3, 32, 32).shape
    torch.Size([3, 32, 32])
    """
    _check(channels, height, width)
    picture = torch.tensor(_SKY)[:, None, None].expand(3, height, width).clone()
    for row in range(-2, 3):
        for column in range(-2, 3):
            place = (0.5 * column + 0.25 * (row % 2), 0.5 * row)
            _ellipse(picture, place, (0.09, 0.09), _DOT)
    for side in (-1, 1):
        _ellipse(picture, (0.48 * side, -0.78), (0.17, 0.24), _BODY)  # ear tufts
        _ellipse(picture, (0.28 * side, 0.92), (0.20, 0.08), _BEAK)  # feet
    _ellipse(picture, (0, 0.08), (0.70, 0.86), _BODY)
    _ellipse(picture, (0, 0.42), (0.44, 0.46), _BELLY)
    for side in (-1, 1):
        _ellipse(picture, (0.62 * side, 0.32), (0.15, 0.42), _WING)
        _ellipse(picture, (0.31 * side, -0.32), (0.31, 0.31), _WHITE)
        _ellipse(picture, (0.25 * side, -0.30), (0.15, 0.17), _BLACK)
        _ellipse(picture, (0.25 * side + 0.05, -0.37), (0.05, 0.05), _WHITE)
    _ellipse(picture, (0, -0.04), (0.11, 0.16), _BEAK)
    if channels == 1:
        return (torch.tensor((0.299, 0.587, 0.114))[:, None, None] * picture).sum(0, keepdim=True)
    return picture[torch.arange(channels) % 3]


def seal(height: int, width: int) -> Tensor:
    """Draw the outline of a seal, a ring around two waves: booleans [H, W].

    It stands in the lower right corner and takes half of the shorter side; the lines are a tenth of
    it thick, at least one pixel. Raises `ValueError` for fewer than 8 pixels on a side.
    """
    _check(1, height, width)
    side = min(height, width) // 2
    margin = round(min(height, width) / 16)
    y, x = _grid(side, side)
    half_line = max(0.10, 1 / side)
    radius = (x.square() + y.square()).sqrt()
    drawn = (radius - (1 - half_line)).abs() <= half_line
    for middle in (-0.28, 0.28):
        wave = middle + 0.16 * torch.sin(2 * math.pi * x)
        drawn |= ((y - wave).abs() <= half_line) & (radius <= 1)
    mask = torch.zeros(height, width, dtype=torch.bool)
    bottom, right = height - margin, width - margin
    mask[bottom - side : bottom, right - side : right] = drawn
    return mask


def _check(channels: int, height: int, width: int) -> None:
    if channels < 1 or min(height, width) < 8:
        raise ValueError(
            "at least one channel and 8×8 pixels are expected for a drawing, "
            f"got {channels} of {height}×{width}"
        )


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixel centres, from −1 to 1: y as [H, 1], x as [1, W]."""
    y = (2 * torch.arange(height) + 1) / height - 1
    x = (2 * torch.arange(width) + 1) / width - 1
    return y[:, None], x[None, :]


def _ellipse(
    picture: Tensor,
    centre: tuple[float, float],
    axes: tuple[float, float],
    colour: tuple[float, float, float],
) -> None:
    """Paint an ellipse at (x, y) in [−1, 1]², its edge one pixel wide, onto [3, H, W] in place."""
    _, height, width = picture.shape
    y, x = _grid(height, width)
    distance = (((x - centre[0]) / axes[0]).square() + ((y - centre[1]) / axes[1]).square()).sqrt()
    pixels = min(axes) * min(height, width) / 2
    cover = ((1 - distance) * pixels + 0.5).clamp(0, 1)
    picture.lerp_(torch.tensor(colour)[:, None, None].expand_as(picture), cover.expand_as(picture))
