"""The hypergradient by implicit differentiation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ibau_lite.hypergrad._gradient_graph import (
    GradientGraph,
    Objective,
    Parameters,
    evaluate,
    leaves,
    pull_back,
)
from ibau_lite.solvers import MatVec, Solution

Solver = Callable[[MatVec, Tensor], Solution]
"""(matvec, b) -> Solution, e.g. ``functools.partial(conjugate_gradient, max_iter=5)``."""

Sense = Literal["max", "min"]


def sign_of(sense: Sense) -> float:
    """+1 where `inner` is maximised over δ, -1 where it is minimised."""
    if sense not in ("max", "min"):
        raise ValueError(f"sense = {sense!r}; expected 'max' or 'min': what δ does to inner")
    return 1.0 if sense == "max" else -1.0


@dataclass(frozen=True, eq=False)
class Hypergradient:
    """dψ/dθ = direct + indirect, dicts like θ.

    ``direct`` is ∇₂ outer; ``indirect`` is (∇δ)ᵀ ∇₁ outer, None where it was not asked for; ``total`` their sum.
    ``value`` is outer(δ, θ). ``solution`` is what the solver answered, and ``residual`` its true relative residual
    ‖b - M x‖/‖b‖ in the system without damping, computed in the pass that also gives the mixed product.
    """

    direct: Parameters = field(repr=False)
    indirect: Parameters | None = field(repr=False)
    total: Parameters = field(repr=False)
    value: Tensor
    solution: Solution | None = None
    residual: Tensor | None = None


def hypergradient(
    outer: Objective,
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    solver: Solver | None,
    sense: Sense = "max",
) -> Hypergradient:
    r"""The gradient in θ of ψ(θ) = outer(δ(θ), θ), where δ(θ) maximises inner(·, θ).

    .. math:: \nabla\psi = \underbrace{\nabla_2\,\mathrm{outer}}_{\text{direct}}
              \;+\; \underbrace{\nabla^2_{21}\,\mathrm{inner}\; w}_{\text{indirect}}, \qquad
              M w = \nabla_1\,\mathrm{outer}, \quad M = -\nabla_1^2\,\mathrm{inner}.

    Only ∇₁ inner(δ, θ) = 0 is used. ``sense`` names what δ does to `inner` ("max" or "min") and only sets the sign
    of the operator that the solver sees, so that it is positive definite at a strict optimum: M = -∇₁² inner for "max",
    M = +∇₁² inner (and indirect = -∇²₂₁ inner w) for "min".

    ``delta``: any shape. ``theta``: dict of tensors. ``solver``: (matvec, b) -> `Solution`; ``None`` is the naive
    gradient, K = 0: the indirect term is not computed and costs nothing. Cost with K products: one forward and one backward
    of `outer`, one forward and one backward with graph of `inner` (neither, if ``outer is inner``), and K + 1 pulls.

    Raises TypeError and ValueError for unusable arguments. The solver warns where its answer may be wrong.
    Source: Grazzi et al. 2020, eq. (3)–(4); Zeng et al. 2022 (I-BAU), eq. (4).
    """
    sign = sign_of(sense)
    if solver is None:
        return _naive(outer, delta, theta)
    shared = outer is inner
    graph = GradientGraph(inner, delta, theta, theta_gradient=shared)
    if shared:
        value, g, direct = graph.value, graph.gradient, graph.theta_gradient
    else:
        value, g, direct = _gradients(outer, delta, theta)
    solution = solver(lambda v: -sign * graph.hessian(v), g)
    image, mixed = graph.pull(solution.x, keep=False)
    scale = torch.linalg.vector_norm(g)
    residual = torch.linalg.vector_norm(g + sign * image) / torch.where(scale > 0, scale, 1.0)
    indirect = {name: sign * m for name, m in mixed.items()}
    total = {name: direct[name] + indirect[name] for name in direct}
    return Hypergradient(direct, indirect, total, value, solution, residual)


def _gradients(
    outer: Objective, delta: Tensor, theta: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Parameters]:
    """outer, ∇₁ outer and ∇₂ outer in one backward pass."""
    d, t = leaves(delta, theta)
    with torch.enable_grad():
        value = evaluate(outer, d, t, "outer")
    g, *direct = pull_back(value, [d, *t.values()])
    return value.detach(), g, dict(zip(t, direct, strict=True))


def _naive(outer: Objective, delta: Tensor, theta: Mapping[str, Tensor]) -> Hypergradient:
    """∇₂ outer alone: δ is held constant, so that not even ∇₁ outer is computed."""
    _, t = leaves(delta, theta)
    with torch.enable_grad():
        value = evaluate(outer, delta.detach(), t, "outer")
    direct = dict(zip(t, pull_back(value, list(t.values())), strict=True))
    return Hypergradient(direct, None, direct, value.detach())
