"""Handwritten digits: the real 8×8 images that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from ibau_lite.data.halves import Halves

CLASS_NAMES = tuple("0123456789")

_HELD_OUT = 797  # of 1,797 images; scikit-learn ships them in one piece, without a test half
_SCALE = 4


def halves() -> Halves:
    """All 1,797 digits as 32×32 RGB: 1,000 for training, 797 held out, always the same ones.

    Each pixel becomes a block of 4×4 equal pixels: nothing is smoothed or invented. The division
    is fixed (drawn once, from seed 0), as the official halves of other datasets are. Source: the
    test part of Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998). Raises
    ImportError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'the "digits" come with scikit-learn: pip install scikit-learn'
        ) from error
    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(small.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)[..., None], 3, axis=-1)
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    held_out, train = np.sort(order[:_HELD_OUT]), np.sort(order[_HELD_OUT:])
    return Halves(images[train], labels[train], images[held_out], labels[held_out], CLASS_NAMES,
                  "digits (scikit-learn, 8x8 shown as 32x32)")  # fmt: skip
