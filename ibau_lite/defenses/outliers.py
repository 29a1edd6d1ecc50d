r"""Which of K sizes is too small to be chance: median absolute deviations.

A class that a backdoor leads to is reached by a smaller change than the others. Both indices count
how many (normal-consistent) deviations a size lies from the median.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["anomaly_index", "left_anomaly_index", "small_outliers"]

_NORMAL = 1.4826  # MAD × this is the standard deviation, where the sizes are normal


def anomaly_index(sizes: Tensor) -> Tensor:
    r"""The index of Neural Cleanse, :math:`|s_t - \mathrm{med}| / (1.4826\,\mathrm{MAD})` [K].

    MAD = med |s − med|. Where it is 0 (more than half of the sizes are equal) a size that differs
    gets an infinite index. Raises `ValueError` for fewer than 3 sizes, of which none can stand out,
    or one that is not finite. Source: Wang et al. 2019, section IV-A.
    """
    return _index(sizes, two_sided=True)


def left_anomaly_index(sizes: Tensor) -> Tensor:
    r"""The left tail of the double MAD: as `anomaly_index`, but MAD over sizes up to the median.

    Large sizes say nothing about how small a size may be by chance, and the sizes of a generator's
    triggers are skewed. Sizes above the median get the index 0. Raises as `anomaly_index`.
    Source: Chen et al. 2019 (DeepInspect), section 3.3.
    """
    return _index(sizes, two_sided=False)


def small_outliers(sizes: Tensor, index: Tensor, threshold: float = 2.0) -> Tensor:
    """Positions whose size is below the median and whose index is above `threshold`."""
    return ((sizes < sizes.quantile(0.5)) & (index > threshold)).nonzero().flatten()


def _index(sizes: Tensor, *, two_sided: bool) -> Tensor:
    if sizes.ndim != 1 or len(sizes) < 3 or not bool(torch.isfinite(sizes).all()):
        raise ValueError(
            f"sizes: at least 3 finite numbers are expected, one a class, got {sizes.tolist()}"
        )
    away = sizes - sizes.quantile(0.5)
    tail = away if two_sided else away[away <= 0]
    deviation = _NORMAL * tail.abs().quantile(0.5)
    index = torch.where(away == 0, 0.0, away.abs() / deviation)
    return index if two_sided else torch.where(away > 0, 0.0, index)
