"""The hypergradient by implicit differentiation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ibau_lite.hypergrad._gradient_graph import (
    Objective,
    Parameters,
    check_reach,
    evaluate,
    leaves,
    pull_back,
    reaches,
)
from ibau_lite.hypergrad._implicit_system import ImplicitSystem, Sense, Solver, sign_of
from ibau_lite.sets import Constraint
from ibau_lite.solvers import Solution


@dataclass(frozen=True, eq=False)
class Hypergradient:
    """dψ/dθ = direct + indirect, as dicts like θ.

    ``direct`` is ∇₂ outer; ``indirect`` is ∇δ(θ)ᵀ ∇₁ outer, None where it was not asked for;
    ``total`` their sum. ``value`` is outer(δ, θ), ``delta`` the δ it was taken at. ``solution`` is
    what the solver answered. ``residual`` is ‖P g - M w‖/‖P g‖, the true relative residual with the
    exact Hessian and without damping, taken in the same pass as the mixed product (see
    ``certify``).
    """

    direct: Parameters = field(repr=False)
    indirect: Parameters | None = field(repr=False)
    total: Parameters = field(repr=False)
    value: Tensor
    delta: Tensor = field(repr=False)
    solution: Solution | None = None
    residual: Tensor | None = None


def hypergradient(
    outer: Objective,
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    solver: Solver | None,
    constraint: Constraint | None = None,
    sense: Sense = "max",
    hessian: Callable[[Tensor], Tensor] | None = None,
    certify: bool = True,
) -> Hypergradient:
    r"""The gradient in θ of ψ(θ) = outer(δ(θ), θ), where δ(θ) maximises inner(·, θ).

    .. math:: \nabla\psi = \underbrace{\nabla_2\,\mathrm{outer}}_{\text{direct}}
              + \underbrace{\nabla^2_{21}\,\mathrm{inner}\; P w}_{\text{indirect}}, \qquad
              M w = P\,\nabla_1\,\mathrm{outer}, \quad
              M = P\,(\lambda I - \nabla_1^2\,\mathrm{inner})\,P .

    Without a constraint P = I, λ = 0: the indirect term is -B A⁻¹ g, and all that is used of δ is
    ∇₁ inner(δ, θ) = 0. With one (`Sphere`, `L2Ball`, `LinfBall`) it is the derivative of the KKT
    system. ``sense="min"`` is for a δ that minimises `inner` (see `ImplicitSystem`). Where δ is
    only near δ(θ) and outer = inner, the error is of second order in the distance, that of the
    direct term alone of first order.

    ``delta``: any shape; ``theta``: dict of tensors; ``solver``: (matvec, b) -> `Solution`, or None
    for the naive gradient (K = 0), which pays for nothing but ∇₂ outer. ``hessian``: v ->
    approximate ∇₁² inner v, for the solve only.

    Cost with K products: forward and backward of `outer`, forward and backward with graph of
    `inner` (once for both if ``outer is inner``), and K + 1 backward passes through that graph. The
    last one gives the mixed product, and with ``certify`` the true residual as well, for half a
    product more. Raises TypeError and ValueError for unusable arguments: `inner` must reach θ
    (without a solver, `inner` or `outer`), while an `outer` of δ alone is fine. The solver warns of
    a wrong answer.

    Source: Grazzi et al. 2020 (AID); Zeng et al. 2022, *Adversarial unlearning of backdoors via
    implicit hypergradient* (I-BAU); the KKT form: Fiacco 1976, on sensitivity in programming.
    """
    sign_of(sense)
    if solver is None:
        return _naive(outer, inner, delta, theta)
    shared = outer is inner
    system = ImplicitSystem(
        inner, delta, theta,
        sense=sense, constraint=constraint, hessian=hessian, theta_gradient=shared,
    )  # fmt: skip
    if shared:
        graph = system.graph
        value, g, direct = graph.value, graph.gradient, graph.theta_gradient
    else:
        value, g, direct = gradients(outer, delta, theta)
    solution = system.solve(solver, g)
    assert isinstance(solution.x, Tensor)
    indirect, residual = system.pull(g, solution.x, certify=certify)
    total = {name: direct[name] + indirect[name] for name in direct}
    return Hypergradient(direct, indirect, total, value, delta.detach(), solution, residual)


def gradients(
    outer: Objective, delta: Tensor, theta: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Parameters]:
    """outer, ∇₁ outer and ∇₂ outer in one backward pass."""
    d, t = leaves(delta, theta)
    with torch.enable_grad():
        value = evaluate(outer, d, t, "outer")
    g, *direct = pull_back(value, [d, *t.values()])
    return value.detach(), g, dict(zip(t, direct, strict=True))


def _naive(
    outer: Objective, inner: Objective, delta: Tensor, theta: Mapping[str, Tensor]
) -> Hypergradient:
    """∇₂ outer alone: δ is a constant, and not even ∇₁ outer is pulled back."""
    d, t = leaves(delta, theta)
    with torch.enable_grad():
        value = evaluate(outer, d, t, "outer")
    if not reaches(value, t):  # fine for an outer function of δ alone, if the inner one knows θ
        with torch.enable_grad():
            check_reach(reaches(evaluate(inner, d, t, "inner"), t), "inner(delta, theta)")
    direct = dict(zip(t, pull_back(value, list(t.values())), strict=True))
    return Hypergradient(direct, None, direct, value.detach(), d.detach())
