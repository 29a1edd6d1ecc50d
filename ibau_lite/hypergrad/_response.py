"""The response Jacobian ∇δ(θ), dense or by its products."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

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
from ibau_lite.second_derivatives import refuse_once_differentiable, twice_differentiable
from ibau_lite.sets import INTERIOR, Constraint
from ibau_lite.solvers import Solution


@twice_differentiable()
def response_jacobian(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    constraint: Constraint | None = None,
    sense: Sense = "max",
    chunk_size: int | None = None,
) -> Parameters:
    r"""How the inner solution answers a change of θ, exactly, from dense matrices.

    .. math:: \nabla\delta(\theta) = -A^{-1} B^\top, \qquad A = \nabla_1^2\,\mathrm{inner},\quad
              B = \nabla^2_{21}\,\mathrm{inner},

    and with a constraint ∇δ = [P (λI - A) P + (I - P)]⁻¹ P Bᵀ (for ``sense="max"``). Gives a dict
    like θ of tensors [*delta.shape, *parameter.shape]. With d and p the numbers of coordinates it
    takes d pulled-back rows of A and Bᵀ, ``chunk_size`` at a time, d(d + p) numbers and O(d³)
    operations: for small problems, and to check everything else.

    `inner` must be made of operations that `torch.func` can transform. Raises TypeError (delta,
    theta) and ValueError (no scalar; A singular, so that δ(θ) is not differentiable here).
    Source: the implicit function theorem; Zeng et al. 2022 call it the response Jacobian.
    """
    sign = sign_of(sense)
    delta, params = leaves(delta, theta)
    with torch.enable_grad():
        value = evaluate(inner, delta, params, "inner")
    refuse_once_differentiable(value)
    check_reach(reaches(value, params), "inner(delta, theta)")
    delta, params = delta.detach(), {name: p.detach() for name, p in params.items()}
    gradient = torch.func.grad(lambda d, t: inner(d, t).reshape(()), argnums=0)
    rows = torch.func.jacrev(gradient, argnums=(0, 1), chunk_size=chunk_size)
    hessian, mixed = rows(delta, params)

    d = delta.numel()
    tangent = INTERIOR
    if constraint is not None:
        tangent = constraint.tangent(delta, sign * gradient(delta, params))
    eye = torch.eye(d, dtype=delta.dtype, device=delta.device)
    projector = torch.stack([tangent.project(e.reshape(delta.shape)).reshape(d) for e in eye])
    shifted = tangent.multiplier * eye - sign * hessian.reshape(d, d)
    operator = projector @ shifted @ projector + (eye - projector)
    factors, pivots, failed = torch.linalg.lu_factor_ex(operator)
    if bool(failed != 0) or not bool(torch.isfinite(factors).all()):
        raise ValueError(
            "the Hessian of inner in delta is singular or not finite here, so that δ(θ) has no "
            "derivative; is inner strictly concave at delta, and is the constraint the right one?"
        )
    right = sign * projector
    return {
        name: torch.linalg.lu_solve(factors, pivots, right @ m.reshape(d, -1)).reshape(m.shape)
        for name, m in mixed.items()
    }


def response_vjp(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    cotangent: Tensor,
    *,
    solver: Solver,
    constraint: Constraint | None = None,
    sense: Sense = "max",
) -> tuple[Parameters, Solution]:
    r"""∇δ(θ)ᵀ u for a u like δ, as a dict like θ, and what the solver answered.

    .. math:: \nabla\delta(\theta)^\top u = -B A^{-1} u .

    One graph, K products and one mixed pull; arguments and errors as in `hypergradient`.
    """
    system = ImplicitSystem(inner, delta, theta, sense=sense, constraint=constraint)
    solution = system.solve(solver, cotangent)
    assert isinstance(solution.x, Tensor)
    return system.pull(cotangent, solution.x, certify=False)[0], solution


def response_jvp(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    tangent: Mapping[str, Tensor],
    *,
    solver: Solver,
    constraint: Constraint | None = None,
    sense: Sense = "max",
) -> tuple[Tensor, Solution]:
    r"""∇δ(θ) t for a t like θ, as a tensor like δ, and what the solver answered.

    .. math:: \nabla\delta(\theta)\, t = -A^{-1} B^\top t, \qquad
              B^\top t = \nabla_\delta \langle \nabla_2\,\mathrm{inner}, t\rangle .

    Arguments and errors as in `hypergradient`; ValueError where t is not built like θ.
    """
    if {n: t.shape for n, t in tangent.items()} != {n: p.shape for n, p in theta.items()}:
        raise ValueError("tangent must have the names and shapes of theta")
    system = ImplicitSystem(inner, delta, theta, sense=sense, constraint=constraint)
    solution = system.solve(solver, system.sign * _mixed_transpose(inner, delta, theta, tangent))
    assert isinstance(solution.x, Tensor)
    return system.tangent.project(solution.x), solution


def inverse_hvp(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    vector: Tensor,
    *,
    solver: Solver,
    constraint: Constraint | None = None,
    sense: Sense = "max",
) -> Solution:
    r"""A⁻¹ v, the inverse-Hessian-vector product in δ: a `Solution` whose x is like δ.

    .. math:: A x = v, \qquad A = \nabla_1^2\,\mathrm{inner},

    with a constraint (A - λI) x = P v on the tangent space. The solver sees the operator that is
    positive definite at a strict optimum, -A for ``sense="max"``, so that its damping μ solves
    (A - μI) x = v there and (A + μI) x = v for "min". Arguments and errors as in `hypergradient`.
    """
    system = ImplicitSystem(inner, delta, theta, sense=sense, constraint=constraint)
    solution = system.solve(solver, vector)
    assert isinstance(solution.x, Tensor)
    return dataclasses.replace(solution, x=-system.sign * system.tangent.project(solution.x))


@twice_differentiable()
def _mixed_transpose(
    inner: Objective, delta: Tensor, theta: Mapping[str, Tensor], tangent: Mapping[str, Tensor]
) -> Tensor:
    """Bᵀ t, reverse over reverse with the roles of δ and θ exchanged."""
    d, params = leaves(delta, theta)
    with torch.enable_grad():
        value = evaluate(inner, d, params, "inner")
        slopes = torch.autograd.grad(
            value, list(params.values()), create_graph=True, materialize_grads=True
        )
        named = zip(params, slopes, strict=True)
        along = torch.stack([(slope * tangent[name]).sum() for name, slope in named]).sum()
    return pull_back(along, [d])[0]
