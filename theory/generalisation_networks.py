r"""Theorem 3: a margin bound for networks under universal perturbations, nothing hidden in an Õ.

.. math:: A = \Bigl(\alpha_\delta^{2/3} + \sum_{i=1}^L \alpha_i^{2/3} + \beta_i^{2/3}\Bigr)^{3/2},
          \qquad \Lambda_i = \varrho_i \prod_{j>i} s_j \varrho_j,

with α_δ = Λ₀ √d C_δ √ln(2d), α_i = Λ_i b_i B_{i−1} √ln(2p_i), β_i = Λ_i b'_i √ln(2o_i), where
B_i = (∏_{j≤i} s_jϱ_j)(χ + C_δ) + a_i bounds the activations. The page generalisation_networks
proves it; with A/(γ√n) in hand, `covering.chaining` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .chain import Stage, chain
from .covering import chaining, combined, volume_entropy
from .margins import Bound, Choice, candidates, ramp_risk
from .spectral_norms import SpectralNorm

__all__ = [
    "Capacity",
    "Constants",
    "Layer",
    "capacity",
    "choose_margin",
    "complexity",
    "constants",
    "measured_from",
    "rounded",
]


@dataclass(frozen=True)
class Layer:
    """What Theorem 3 needs to know of one layer z ↦ σ(Wz + b).

    `norm` brackets ‖W‖ (s_i is its upper end); `lipschitz` is ϱ_i; `distance` is
    b_i = √κ Σ_o ‖w_o − w⁰_o‖₂ over the output units, or the filters of a convolution, κ the number
    of positions in which one input occurs; `bias_distance` is b'_i = √q Σ_o |b_o − b⁰_o|, q the
    positions that share a bias; `anchor` is a_i = ‖F_i(x₀)‖₂, the output for the anchor image.
    `weights` and `units` count the entries of W as stored and of b.
    """

    name: str
    norm: SpectralNorm
    lipschitz: float
    distance: float
    bias_distance: float
    anchor: float
    weights: int
    units: int

    @property
    def gain(self) -> float:
        """s_i ϱ_i."""
        return self.norm.upper * self.lipschitz


@dataclass(frozen=True)
class Constants:
    """All layers of a network, the norm of the anchor image, and d, the number of its pixels."""

    layers: tuple[Layer, ...]
    anchor: float
    dimension: int

    @property
    def product(self) -> float:
        """Λ₀ = ∏ s_i ϱ_i, a Lipschitz constant of the network."""
        return math.prod(layer.gain for layer in self.layers)


def constants(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    reference: nn.Module | None = None,
    anchor: float | Tensor = 0.5,
) -> Constants:
    """Read the constants of a network (in evaluation mode) for images of `shape` [C, H, W].

    `reference` is the network from which the distances are measured: one that does not depend on
    the sample, such as the poisoned network when the sample is the defender's; all weights zero by
    default. `anchor` is an image chosen in advance, or its grey value. Raises as `chain.chain`, and
    `ValueError` for a reference of other layers.
    """
    stages = chain(model, shape)
    z = torch.full((1, *shape), anchor) if isinstance(anchor, float) else anchor.reshape(1, *shape)
    z = z.double()
    length = float(torch.linalg.vector_norm(z))
    layers = []
    with torch.no_grad():
        for stage in stages:
            # A model that flattens first has no stage for that.
            z = z.flatten(1) if stage.affine.weight.ndim == 2 else z
            z = stage(z)
            layers.append(_layer(stage, z))
    found = Constants(tuple(layers), length, math.prod(shape))
    return found if reference is None else measured_from(found, model, reference, shape)


def measured_from(
    found: Constants, model: nn.Module, reference: nn.Module, shape: tuple[int, ...]
) -> Constants:
    """The constants `found` of `model`, its distances b_i and b'_i measured from `reference`.

    All else, the norms above all, is kept. Raises `ValueError` for a reference of other layers.
    """
    stages, others = chain(model, shape), chain(reference, shape)
    if [_sizes(stage) for stage in stages] != [_sizes(other) for other in others]:
        raise ValueError("reference: a network with the same layers is expected")
    layers = []
    for layer, stage, other in zip(found.layers, stages, others, strict=True):
        weight = stage.affine.weight - other.affine.weight
        bias = stage.affine.bias - other.affine.bias
        b, b_prime = _distances(stage, weight, bias)
        layers.append(replace(layer, distance=b, bias_distance=b_prime))
    return replace(found, layers=tuple(layers))


def _layer(stage: Stage, output: Tensor) -> Layer:
    affine = stage.affine
    length = float(torch.linalg.vector_norm(output))
    distances = _distances(stage, affine.weight, affine.bias)
    sizes = affine.weight.numel(), affine.bias.numel()
    return Layer(stage.name, affine.norm(), stage.lipschitz, *distances, length, *sizes)


def _distances(stage: Stage, weight: Tensor, bias: Tensor) -> tuple[float, float]:
    """√κ Σ_o ‖w_o‖₂ and √q Σ_o |b_o| of a difference of weights and of biases."""
    by_unit = torch.linalg.vector_norm(weight.flatten(1), dim=1).sum()
    return (
        math.sqrt(stage.affine.reuse) * float(by_unit),
        math.sqrt(stage.affine.positions) * float(bias.abs().sum()),
    )


def _sizes(stage: Stage) -> tuple[object, ...]:
    return (tuple(stage.affine.weight.shape), stage.affine.size, stage.affine.stride)


@dataclass(frozen=True)
class Capacity:
    """The terms of A: `delta` is α_δ, `weights` and `biases` the α_i and β_i, layer by layer.

    `product`, `c_delta` and `dimension` are kept for the cover of δ by volume.
    """

    delta: float
    weights: tuple[float, ...]
    biases: tuple[float, ...]
    product: float
    c_delta: float
    dimension: int

    @property
    def total(self) -> float:
        """A, with δ covered as one more layer."""
        return combined((self.delta, *self.weights, *self.biases))

    @property
    def network(self) -> float:
        """A without the term of δ: what moving the weights costs."""
        return combined((*self.weights, *self.biases))


def capacity(network: Constants, chi: float, c_delta: float) -> Capacity:
    """The terms of A for images with ‖x − x₀‖ ≤ `chi` (or χ_S on average) and ‖δ‖₂ ≤ `c_delta`.

    Raises `ValueError` for negative numbers.
    """
    if min(chi, c_delta) < 0:
        raise ValueError(f"chi and c_delta must be >= 0, got {chi} and {c_delta}")
    weights, biases = [], []
    growth, size = 1.0, chi + c_delta + network.anchor  # ∏_{j<i} s_jϱ_j and B_{i−1}
    for number, layer in enumerate(network.layers):
        onwards = layer.lipschitz * math.prod(later.gain for later in network.layers[number + 1 :])
        weights.append(onwards * layer.distance * size * math.sqrt(math.log(2 * layer.weights)))
        biases.append(onwards * layer.bias_distance * math.sqrt(math.log(2 * layer.units)))
        growth *= layer.gain
        size = growth * (chi + c_delta) + layer.anchor
    d = network.dimension
    delta = network.product * math.sqrt(d * math.log(2 * d)) * c_delta
    return Capacity(delta, tuple(weights), tuple(biases), network.product, c_delta, d)


def complexity(a: Capacity, gamma: float, n: int) -> float:
    r"""Twice the Rademacher complexity, 2 min(as a layer, by volume); at most 1, where it is empty.

    As a layer, H(u) = 2A²/(γu)². By volume, a share λ of the radius goes to a grid on the ball of
    δ: H(u) = d ln(1 + 2√2 C_δΛ₀/(λγu)) + 2A_W²/((1−λ)γu)², the better one where the weights have
    hardly moved. Raises `ValueError` unless γ > 0 and n >= 1.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")

    def as_layer(u: float) -> float:
        return 2 * (a.total / (gamma * u)) ** 2

    def by_volume(u: float) -> float:
        best = math.inf
        for share in (0.01, 0.03, 0.1, 0.3, 0.6) if a.network else (1.0,):
            grid = volume_entropy(
                math.sqrt(2) * a.c_delta * a.product, share * gamma * u, a.dimension
            )
            rest = 2 * (a.network / ((1 - share) * gamma * u)) ** 2 if a.network else 0.0
            best = min(best, grid + rest)
        return best

    return 2 * min(chaining(as_layer, n), chaining(by_volume, n))


def rounded(network: Constants, ratio: float = 2 ** (1 / 8)) -> tuple[Constants, float]:
    """Round every constant that training has chosen up to a grid; return them and −Σ ln w(m).

    The grid is ratio^m over all integers m, with weights w(m) = 2/(3(1+|m|)(2+|m|)) of sum one:
    the price, added to ln(1/ξ), of using constants that were not fixed in advance. Numbers below
    2^−40 count as that. Raises `ValueError` unless the ratio is above 1.
    """
    price = 0.0

    def up(value: float) -> float:
        nonlocal price
        m = _cell(value, ratio)
        price -= math.log(_weight(m))
        return float(ratio**m)

    layers = [
        replace(
            layer,
            norm=SpectralNorm(layer.norm.lower, up(layer.norm.upper)),
            distance=up(layer.distance),
            bias_distance=up(layer.bias_distance),
            # The output for the anchor image is no activation that a layer is applied to.
            anchor=up(layer.anchor) if number + 1 < len(network.layers) else layer.anchor,
        )
        for number, layer in enumerate(network.layers)
    ]
    return replace(network, layers=tuple(layers)), price


def choose_margin(
    network: Constants,
    margin: Tensor,
    *,
    chi: float,
    c_delta: float,
    xi: float = 0.05,
    gammas: Iterable[float] | None = None,
    ratio: float = 2 ** (1 / 8),
) -> Choice:
    """The smallest bound over γ for a network found by training (the corollary of the page).

    `margin` [n] are the margins of the sample at x + δ for the δ in question, any with
    ‖δ‖ ≤ `c_delta`; `chi` bounds ‖x − x₀‖ for every image, and is not read off the sample. Raises
    as `capacity`, `complexity` and `rounded`.
    """
    safe, price = rounded(network, ratio)
    a, n = capacity(safe, chi, c_delta), len(margin)
    best: Choice | None = None
    for gamma in candidates(margin).tolist() if gammas is None else gammas:
        m = -_cell(1 / gamma, ratio)
        cell = ratio**m  # at most γ
        log_weight = price - math.log(_weight(m))
        bound = Bound(
            float(ramp_risk(margin, cell)),
            complexity(a, cell, n),
            math.sqrt((math.log(1 / xi) + log_weight) / (2 * n)),
        )
        if best is None or bound.total < best.bound.total:
            best = Choice(gamma, bound)
    if best is None:
        raise ValueError("gammas: at least one is expected, got none")
    return best


def _cell(value: float, ratio: float) -> int:
    """The smallest m with value ≤ ratio^m."""
    if not ratio > 1:
        raise ValueError(f"ratio: a number above 1 is expected, got {ratio}")
    m = math.ceil(math.log(max(value, 2.0**-40), ratio) - 1e-9)
    return m if value <= ratio**m else m + 1


def _weight(m: int) -> float:
    """2/(3(1+|m|)(2+|m|)): over all integers it sums to one."""
    return 2 / (3 * (1 + abs(m)) * (2 + abs(m)))
