"""The Gauss-Newton operator in δ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ibau_lite.hypergrad._gradient_graph import Objective, evaluate, leaves, pull_back
from ibau_lite.second_derivatives import twice_differentiable


@twice_differentiable()
def gauss_newton(
    outputs: Objective,
    loss: Callable[[Tensor], Tensor],
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    trace: bool = False,
) -> Callable[[Tensor], Tensor]:
    r"""v -> G v for f(δ, θ) = loss(outputs(δ, θ)), both given.

    .. math:: G = J^\top\, \nabla^2\mathrm{loss}\; J, \qquad
              J = \partial\,\mathrm{outputs} / \partial\delta, \qquad
              \nabla_1^2 f = G + \sum_i \partial_i\mathrm{loss}\; \nabla_1^2\,\mathrm{outputs}_i .

    G is positive semi-definite for a convex loss, and equals ∇₁² f wherever the outputs are
    piecewise linear in δ (ReLU, max-pooling). ``outputs`` gives a tensor of any shape, ``loss`` a
    scalar of it.

    v and G v have the shape of δ. J v is taken by differentiating Jᵀu in u (twice reverse), or with
    ``trace=True`` by `torch.func.linearize`: seconds to trace, then the cheapest product there is.
    Raises as `GradientGraph`. Source: Schraudolph 2002; Martens 2020.
    """
    d, params = leaves(delta, theta)
    params = {
        name: p.detach() for name, p in params.items()
    }  # constants: no graph is kept for them
    with torch.enable_grad():
        z = outputs(d, params)
        if not isinstance(z, Tensor) or not z.requires_grad:
            raise ValueError("outputs(delta, theta) must be a tensor that depends on delta")
        z_leaf = z.detach().requires_grad_(True)
        value = evaluate(lambda *_: loss(z_leaf), d, params, "loss(outputs)")
        (slope,) = torch.autograd.grad(value, z_leaf, create_graph=True, materialize_grads=True)
    push = _linearized(outputs, d, params) if trace else _double_reverse(z, d)

    def product(v: Tensor) -> Tensor:
        curved = pull_back(slope, [z_leaf], push(v), keep=True)[0]
        return pull_back(z, [d], curved, keep=True)[0]

    return product


def _double_reverse(z: Tensor, d: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> J v as the derivative of u -> ⟨Jᵀu, v⟩, which is linear in u."""
    with torch.enable_grad():
        u = torch.zeros_like(z, requires_grad=True)
        (pulled,) = torch.autograd.grad(z, d, u, create_graph=True, materialize_grads=True)
    return lambda v: pull_back(pulled, [u], v, keep=True)[0]


def _linearized(
    outputs: Objective, d: Tensor, params: dict[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    return torch.func.linearize(lambda x: outputs(x, params), d.detach())[1]
