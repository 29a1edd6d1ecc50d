"""The visibility of a trigger, against a computation by hand and scikit-image."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from ibau_lite.attacks import Patch, visibility

skimage = pytest.importorskip("skimage.metrics")


def test_numbers_of_a_square_on_grey():
    seen = visibility(Patch.square(4, margin=1), torch.full((2, 3, 16, 16), 0.5))
    assert seen.l0 == 16 and seen.n == 2
    assert seen.l1 == pytest.approx(48 * 0.5)
    assert seen.l2 == pytest.approx(math.sqrt(48 * 0.25))
    assert seen.linf == pytest.approx(0.5)
    assert seen.psnr == pytest.approx(-10 * math.log10(48 * 0.25 / 768))


def test_means_over_images_are_scikit_images():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    patch = Patch.square(5)
    seen = visibility(patch, images)
    x, y = images.numpy(), patch(images).numpy()
    ssim = [
        skimage.structural_similarity(
            a.transpose(1, 2, 0), b.transpose(1, 2, 0), channel_axis=2, data_range=1.0
        )
        for a, b in zip(x, y)
    ]
    assert seen.ssim == pytest.approx(np.mean(ssim), abs=1e-6)
    assert seen.psnr == pytest.approx(skimage.peak_signal_noise_ratio(x, y, data_range=1.0))


def test_a_change_below_half_a_step_of_8_bits_is_none():
    def faint(images):
        return images + 1 / 600

    def plain(images):
        return images + 1 / 500

    images = torch.full((1, 1, 8, 8), 0.5)
    assert visibility(faint, images).l0 == 0
    assert visibility(plain, images).l0 == 64


def test_no_change_at_all():
    seen = visibility(Patch.square(4), torch.ones(1, 3, 8, 8))
    assert (seen.l0, seen.l2, seen.linf, seen.ssim) == (0, 0, 0, 1)
    assert seen.psnr == math.inf


def test_no_or_small_images_are_refused():
    for shape in ((0, 3, 16, 16), (1, 3, 6, 16)):
        with pytest.raises(ValueError, match="at least 7×7 pixels"):
            visibility(Patch.square(2), torch.zeros(shape))


def test_without_scikit_image_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        visibility(Patch.square(4), torch.ones(1, 3, 8, 8))
