"""Certified constants of Theorem 1 for softplus networks: proved bounds, from weights alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibau_lite.minimax import Risk

from .convergence import Constants

__all__ = ["Jet", "certified_constants"]

# sup |s'|, |s''|, |s'''| of softplus, and norms of the derivatives of the cross-entropy in the
# logits (lemma lem-jet of convergence.md).
SOFTPLUS = (1.0, 1 / 4, 1 / (6 * math.sqrt(3)))
CROSS_ENTROPY = (math.sqrt(2), 1 / 2, math.sqrt(2) / (3 * math.sqrt(3)))


@dataclass(frozen=True)
class Jet:
    """Bounds on a layer h(δ, θ) and its derivatives, one number an image: tensors [n].

    ``a`` = (‖h‖, ‖D_δ h‖, ‖D²_δ h‖, ‖D³_δ h‖) and ``t`` = (‖D_θ h‖, ‖D_θ D_δ h‖, ‖D_θ D²_δ h‖) at
    most.
    """

    a: tuple[Tensor, Tensor, Tensor, Tensor]
    t: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def input(images: Tensor, radius: float) -> Jet:
        """The input x + δ for images [n, …] and ‖δ‖ ≤ radius."""
        size = images.flatten(1).norm(dim=1) + radius
        one, zero = torch.ones_like(size), torch.zeros_like(size)
        return Jet((size, one, zero, zero), (zero, zero, zero))

    def linear(self, weight: Tensor, bias: Tensor | None) -> Jet:
        """Through z = Wh + b, where W and b belong to θ."""
        norm = torch.linalg.matrix_norm(weight, ord=2)
        a0, *higher = (norm * a for a in self.a)
        if bias is not None:
            a0 = a0 + bias.norm()
        own = self.a[0].square() + (0 if bias is None else 1)
        t0, t1, t2 = self.t
        return Jet(
            (a0, *higher),
            (
                ((norm * t0).square() + own).sqrt(),
                ((norm * t1).square() + self.a[1].square()).sqrt(),
                ((norm * t2).square() + self.a[2].square()).sqrt(),
            ),
        )

    def through(self, phi: tuple[float, float, float], size: Tensor) -> Jet:
        """Through a map φ with ‖Dᵏφ‖ ≤ `phi`[k - 1], and ‖φ(h)‖ ≤ `size`: Faà di Bruno."""
        p1, p2, p3 = phi
        _, a1, a2, a3 = self.a
        t0, t1, t2 = self.t
        return Jet(
            (size, p1 * a1, p2 * a1**2 + p1 * a2, p3 * a1**3 + 3 * p2 * a1 * a2 + p1 * a3),
            (
                p1 * t0,
                p2 * t0 * a1 + p1 * t1,
                p3 * t0 * a1**2 + p2 * (t0 * a2 + 2 * t1 * a1) + p1 * t2,
            ),
        )

    def softplus(self, units: int) -> Jet:
        """Through ln(1 + eᶻ) in each of `units` coordinates."""
        return self.through(SOFTPLUS, self.a[0] + math.sqrt(units) * math.log(2))


def certified_constants(risk: Risk, radius: float, solution: Tensor | None = None) -> Constants:
    r"""The constants of Theorem 1 for H = `risk` on {‖δ‖ ≤ radius}, certified.

    .. math:: \mu_H = 2c - \overline{(\phi_2 a_1^2 + \phi_1 a_2)}, \quad
              L_H = 2c + \overline{\phi_1 a_2}, \quad \dots

    with c = ``risk.penalty`` and bars for means over the images (page `convergence.md`, lemma
    lem-jet). By default F = H; with ``solution`` = δ(θ), F is the same risk without its penalty,
    for which M = 2c‖δ(θ)‖. The network must be linear layers with softplus between them, as
    `models.mlp` makes; derivatives in θ are those in all its weights and biases.

    Raises TypeError for another layer, and ValueError where μ_H ≤ 0: a larger penalty helps.
    """
    if risk.clamp or risk.stamped is not None:
        raise ValueError("the bounds are for x + δ on every image: neither clamp nor stamped")
    jet = _logits(risk.model, Jet.input(risk.images.double(), radius))
    loss = jet.through(CROSS_ENTROPY, jet.a[0])
    convex = float((CROSS_ENTROPY[1] * jet.a[1] ** 2).mean())
    curved = float((CROSS_ENTROPY[0] * jet.a[2]).mean())
    c2 = 2 * risk.penalty
    if not convex + curved < c2:
        raise ValueError(
            f"penalty = {risk.penalty:.6g}; certified strong concavity needs one above "
            f"{(convex + curved) / 2:.6g} for this network"
        )
    mixed, third = float(loss.t[1].mean()), float(loss.a[3].mean())
    return Constants(
        mu_H=c2 - convex - curved,
        L_H=c2 + curved,
        eta_1=c2 + curved if solution is None else convex + curved,
        eta_2=mixed,
        rho_1=third,
        rho_2=float(loss.t[2].mean()),
        L_21=mixed,
        M=0.0 if solution is None else c2 * float(solution.norm()),
        kind="certified",
    )


def _logits(network: nn.Module, jet: Jet) -> Jet:
    """The jet of the logits; TypeError for a layer that the lemma does not cover."""
    units = 0
    for layer in _layers(network):
        if isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias.detach().double()
            jet, units = jet.linear(layer.weight.detach().double(), bias), layer.out_features
        elif isinstance(layer, nn.Softplus) and layer.beta == 1:
            # beyond `threshold` torch returns z itself, within e⁻²⁰ of ln(1 + eᶻ)
            jet = jet.softplus(units)
        elif not isinstance(layer, nn.Flatten):
            raise TypeError(
                f"{type(layer).__name__} has no certified constants; expected linear layers with "
                "softplus between them, as models.mlp(..., smooth=True)"
            )
    return jet


def _layers(network: nn.Module) -> Iterable[nn.Module]:
    if isinstance(network, nn.Sequential):
        for child in network:
            yield from _layers(child)
    else:
        yield network
