"""The Hessian in δ seen as a whole: its eigenvalues, and its Gauss-Newton part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from ibau_lite.hypergrad import Objective, SecondDerivatives, _point, _scalar
from ibau_lite.second_derivatives import twice_differentiable
from ibau_lite.solvers import Ritz, lanczos

__all__ = ["Spectrum", "gauss_newton", "spectrum"]


@twice_differentiable()
def gauss_newton(
    outputs: Objective,
    loss: Callable[[Tensor], Tensor],
    delta: Tensor,
    theta: Mapping[str, Tensor],
) -> Callable[[Tensor], Tensor]:
    r"""v -> G v for f(δ, θ) = loss(outputs(δ, θ)), both given.

    .. math:: G = J^\top\, \nabla^2\mathrm{loss}\; J, \qquad
              J = \partial\,\mathrm{outputs} / \partial\delta, \qquad
              \nabla_1^2 f = G + \sum_i \partial_i\mathrm{loss}\; \nabla_1^2\,\mathrm{outputs}_i .

    G is positive semi-definite for a convex loss, and equals ∇₁² f wherever the outputs are
    piecewise linear in δ (ReLU, max-pooling). ``outputs`` gives a tensor of any shape, ``loss`` a
    scalar of it; v and G v have the shape of δ. A product is a forward pass with a tangent and a
    backward pass. Raises as `SecondDerivatives`. Source: Schraudolph 2002; Martens 2020.
    """
    delta, theta = _point(delta, theta)

    def of_delta(d: Tensor) -> Tensor:
        z = outputs(d, theta)
        if not isinstance(z, Tensor) or not z.requires_grad:
            raise ValueError("outputs(delta, theta) must be a tensor that depends on delta")
        return z

    z, pull = vjp(of_delta, delta)[:2]
    curve = vjp(lambda u: grad(_scalar(lambda a, _: loss(a), "loss(outputs)"))(u, theta), z)[1]

    @twice_differentiable()
    def product(v: Tensor) -> Tensor:
        pushed = jvp(lambda d: outputs(d, theta), (delta,), (v,))[1]
        image: Tensor = pull(curve(pushed)[0])[0]
        return image

    return product


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Ritz values of a Hessian, from one or several Lanczos runs.

    ``values`` [n] ascending and ``weights`` [n] of sum one: the measure Σ weights·δ(x - values)
    that stands for the density of the eigenvalues. ``minimum`` and ``maximum`` are the extreme Ritz
    values; the true extremes lie beyond them, and an eigenvalue lies within ``minimum_error``
    (``maximum_error``) of each. ``runs``: the Lanczos runs, with their Ritz vectors.
    """

    values: Tensor
    weights: Tensor
    minimum: float
    maximum: float
    minimum_error: float
    maximum_error: float
    runs: tuple[Ritz, ...] = field(repr=False)

    @property
    def negative_fraction(self) -> float:
        """The estimated fraction of eigenvalues below zero."""
        return float(self.weights[self.values < 0].sum())

    def density(self, grid: Tensor, width: float | None = None) -> Tensor:
        """The density on ``grid``: every weight spread as a Gaussian of standard deviation
        ``width``.

        By default 1 % of the range of the values. It integrates to one over the real line.
        """
        if width is None:
            width = 0.01 * (self.maximum - self.minimum) or 1.0
        if not width > 0:
            raise ValueError(f"width = {width}; expected > 0")
        z = (grid.reshape(-1, 1) - self.values.to(grid)) / width
        bells = torch.exp(-0.5 * z * z) / (width * math.sqrt(2 * math.pi))
        return (bells @ self.weights.to(grid)).reshape(grid.shape)


def spectrum(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    steps: int = 40,
    probes: int = 1,
    seed: int = 0,
    hessian: Callable[[Tensor], Tensor] | None = None,
) -> Spectrum:
    r"""Extreme eigenvalues and density of A = ∇₁² inner(δ, θ), by stochastic Lanczos quadrature.

    .. math:: \frac1d \operatorname{tr} f(A) \approx
              \frac1m \sum_{j \le m} \sum_i w^{(j)}_i f(\theta^{(j)}_i),

    with ``probes`` = m random starting vectors and ``steps`` products each (at most d).
    ``hessian``: v -> A v, in place of the exact product. Raises as `SecondDerivatives` and
    `lanczos`.
    Source: Golub and Meurant 2010; Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019.
    """
    if steps < 1 or probes < 1:
        raise ValueError(f"steps = {steps}, probes = {probes}; expected at least one of each")
    product = hessian or SecondDerivatives(inner, delta, theta).hessian
    runs = tuple(
        lanczos(
            lambda v: product(v.reshape(delta.shape)).reshape(-1),
            delta.numel(),
            min(steps, delta.numel()),
            seed=seed + j,
            dtype=delta.dtype,
            device=delta.device,
        )
        for j in range(probes)
    )
    values, order = torch.cat([run.values for run in runs]).sort()
    low = min(runs, key=lambda run: float(run.values[0]))
    high = max(runs, key=lambda run: float(run.values[-1]))
    return Spectrum(
        values=values,
        weights=torch.cat([run.weights for run in runs])[order] / probes,
        minimum=float(low.values[0]),
        maximum=float(high.values[-1]),
        minimum_error=float(low.errors[0]),
        maximum_error=float(high.errors[-1]),
        runs=runs,
    )
