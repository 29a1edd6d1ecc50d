"""The bundled digits: all of them, once each, nothing smoothed."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from ibau_lite.data import digits


def test_every_digit_is_there_once_with_its_label() -> None:
    halves = digits.halves()
    assert halves.x_train.shape == (1000, 32, 32, 3)
    assert halves.x_test.shape == (797, 32, 32, 3)
    images = np.concatenate([halves.x_train, halves.x_test])
    labels = np.concatenate([halves.y_train, halves.y_test])
    small = images[:, ::4, ::4, 0] / (255 / 16)
    original = load_digits()
    ours = sorted(
        (image.round().astype(int).tolist(), int(k)) for image, k in zip(small, labels, strict=True)
    )
    theirs = sorted(
        (i.astype(int).tolist(), int(k))
        for i, k in zip(original.images, original.target, strict=True)
    )
    assert ours == theirs


def test_a_pixel_becomes_a_grey_block() -> None:
    images = digits.halves().x_train
    blocks = images.reshape(-1, 8, 4, 8, 4, 3)
    assert (blocks == blocks[:, :, :1, :, :1, :1]).all()
    assert images.min() == 0
    assert images.max() == 255


def test_the_division_is_always_the_same() -> None:
    assert np.array_equal(digits.halves().x_test, digits.halves().x_test)
