"""Coarse pixels: each block of 2 × 2 shows its mean, and red, green and blue shift a little.

I-BAU looks for one δ that is added to every image. What this trigger adds differs from image to
image, so no single δ is it.
"""

import torch.nn.functional as F


def stamp(images):
    """Take the mean of blocks, then mix the colours."""
    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2)
    return (coarse + 0.3 * (coarse[:, [1, 2, 0]] - coarse)).clamp(0, 1)
