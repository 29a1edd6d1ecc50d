r"""Spectral norms of layers, bracketed: a Ritz value from below, a certificate from above.

For a zero-padded convolution on H×W images no matrix is formed. Put the image on a torus large
enough that the padding does not wrap onto it: the layer is then a part of the rows and columns of a
circular convolution, whose norm is a maximum over frequencies ω (Sedghi, Gupta and Long 2019),

.. math:: \|W\| \;\le\; \max_\omega \sigma_{\max}\bigl(\hat K(\omega)\bigr), \qquad
          \hat K(\omega)_{oc} = \sum_t K_{oct}\, e^{-i \omega \cdot t} .
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ibau_lite.solvers import lanczos

__all__ = ["SpectralNorm", "of_convolution", "of_matrix"]

_DENSE = 600  # inputs up to which a convolution is written out as a matrix: its norm is then exact
_ROUNDING = 1e-9  # relative; double precision errs by far less on every layer that fits in memory
Pair = tuple[int, int]


@dataclass(frozen=True)
class SpectralNorm:
    """lower ≤ ‖W‖ ≤ upper. Theorem 3 uses `upper`; `lower` says how much that gives away."""

    lower: float
    upper: float


def of_matrix(weight: Tensor) -> SpectralNorm:
    """The largest singular value of a matrix [m, d]: both ends equal up to rounding."""
    if weight.ndim != 2:
        raise ValueError(f"weight: a matrix is expected, got shape {list(weight.shape)}")
    value = float(torch.linalg.matrix_norm(weight.detach().double(), ord=2))
    return SpectralNorm(value * (1 - _ROUNDING), value * (1 + _ROUNDING))


def of_convolution(
    weight: Tensor,
    size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    products: int = 20,
    seed: int = 0,
) -> SpectralNorm:
    """The norm of z ↦ conv2d(z, weight) on [C, H, W] with (H, W) = `size` and zero padding.

    `weight` [O, C, h, w]. The lower end is the largest Ritz value of WᵀW after `products` products
    with the layer itself, padding and stride included; the upper end is the circular bound of this
    module (a stride leaves rows out, which lowers a norm). Where the image has at most 600 entries
    the matrix is written out, and both ends are its norm. Raises `ValueError` for a weight that is
    not [O, C, h, w], or an image on which the kernel does not fit.
    """
    if weight.ndim != 4:
        raise ValueError(f"weight: [O, C, h, w] is expected, got shape {list(weight.shape)}")
    weight = weight.detach().double()
    torus = []
    for side, kernel, pad, gap in zip(size, weight.shape[2:], padding, dilation, strict=True):
        reach = gap * (kernel - 1) + 1
        if side + 2 * pad < reach:
            raise ValueError(f"a kernel of reach {reach} does not fit {side} + 2·{pad} pixels")
        torus.append(max(side + pad, side + 2 * pad - reach + 1, reach))
    shape = (1, weight.shape[1], *size)

    def forward(z: Tensor) -> Tensor:
        return F.conv2d(z, weight, stride=stride, padding=padding, dilation=dilation)

    inputs = weight[0, :, 0, 0].numel() * size[0] * size[1]
    if inputs <= _DENSE:
        units = torch.eye(inputs, dtype=torch.float64).view(-1, *shape[1:])
        return of_matrix(forward(units).flatten(1))
    upper = _circular(weight, (torus[0], torus[1]), dilation)
    lower = _largest_ritz(forward, shape, products, seed)
    return SpectralNorm(lower * (1 - _ROUNDING), upper * (1 + _ROUNDING))


def _circular(weight: Tensor, torus: Pair, dilation: Pair) -> float:
    """max over the frequencies of the torus of σ_max of the symbol [O, C]."""
    outputs, inputs, height, width = weight.shape
    spread = weight.new_zeros(outputs, inputs, *torus)
    rows, columns = dilation[0] * (height - 1) + 1, dilation[1] * (width - 1) + 1
    spread[:, :, : rows : dilation[0], : columns : dilation[1]] = weight
    symbol = torch.fft.rfft2(spread).flatten(2).permute(2, 0, 1)  # the other half is conjugate
    return float(torch.linalg.svdvals(symbol).max())


def _largest_ritz(
    forward: Callable[[Tensor], Tensor], shape: tuple[int, ...], products: int, seed: int
) -> float:
    """√ of the largest Ritz value of WᵀW."""
    point = torch.zeros(shape, dtype=torch.float64)
    _, pull = torch.func.vjp(forward, point)  # type: ignore[misc]

    def matvec(v: Tensor) -> Tensor:
        return pull(forward(v.view(shape)))[0].flatten()

    dim = point.numel()
    ritz = lanczos(matvec, dim, min(products, dim), seed=seed, dtype=torch.float64)
    return max(0.0, float(ritz.values.max())) ** 0.5
