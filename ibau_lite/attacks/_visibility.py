"""How visible a trigger is: six numbers for what it changes, averaged over images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ibau_lite.attacks.triggers import Trigger, check_images


@dataclass(frozen=True)
class Visibility:
    """Means over images of the distance between T(x) and x.

    `l0` counts the pixels (positions, not channels) that change by more than 1/510, half a step of
    an 8-bit image; `l1`, `l2`, `linf` are norms over all numbers of an image in [0, 1]; `psnr` is
    −10 log₁₀ of the mean squared difference, in decibels (higher is fainter; infinite where nothing
    changes); `ssim` is the structural similarity, 1 for equal images.
    """

    l0: float
    l1: float
    l2: float
    linf: float
    psnr: float
    ssim: float
    n: int


def visibility(trigger: Trigger, images: Tensor) -> Visibility:
    """Measure a trigger on `images` [N, C, H, W] in [0, 1].

    PSNR is of the mean over images of the squared difference: one image that a trigger leaves
    alone (a white square on white) would otherwise make it infinite. SSIM is scikit-image's, with
    its 7×7 windows. Raises `ValueError` for no images or fewer than 7 pixels on a side, and as
    the trigger does.
    """
    check_images(images)
    if not len(images) or min(images.shape[2:]) < 7:
        raise ValueError(
            f"images: at least one, of at least 7×7 pixels, is expected, got {list(images.shape)}"
        )
    from skimage.metrics import structural_similarity  # slow to import, and needed nowhere else

    stamped = trigger(images)
    change = (stamped - images).double()
    squares = change.square()
    ssim = [
        structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=1.0)
        for x, y in zip(images.detach().cpu(), stamped.detach().cpu(), strict=True)
    ]
    return Visibility(
        l0=float((change.abs().amax(1) > 1 / 510).sum((1, 2)).double().mean()),
        l1=float(change.abs().sum((1, 2, 3)).mean()),
        l2=float(squares.sum((1, 2, 3)).sqrt().mean()),
        linf=float(change.abs().amax((1, 2, 3)).mean()),
        psnr=float(-10 * torch.log10(squares.mean())),
        ssim=sum(map(float, ssim)) / len(ssim),
        n=len(images),
    )
