"""The hypergradient by differentiating the inner iteration itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from ibau_lite.hypergrad._hypergradient import Hypergradient, gradients
from ibau_lite.second_derivatives import refuse_once_differentiable, twice_differentiable

Step = Callable[[Tensor, Parameters], Tensor]
"""(delta, theta) -> the next delta, differentiable by autograd."""


def ascent_step(
    inner: Objective, size: float, project: Callable[[Tensor], Tensor] | None = None
) -> Step:
    r"""One differentiable step of (projected) gradient ascent on `inner`.

    .. math:: \delta \leftarrow \Pi(\delta + \alpha\,\nabla_1\,\mathrm{inner}(\delta, \theta)).

    ``size`` is α (negative: descent), ``project`` is Π, differentiable. ValueError for α = 0.
    """
    if not size:
        raise ValueError("size = 0; a step of no length never reaches the inner solution")

    def step(delta: Tensor, theta: Parameters) -> Tensor:
        tracked = torch.is_grad_enabled()
        with torch.enable_grad():
            point = delta if delta.requires_grad else delta.detach().requires_grad_(True)
            value = evaluate(inner, point, theta, "inner")
            if tracked:
                refuse_once_differentiable(value)
            (slope,) = torch.autograd.grad(
                value, point, create_graph=tracked, materialize_grads=True
            )
        moved = delta + size * slope
        return moved if project is None else project(moved)

    return step


@twice_differentiable()
def unrolled_hypergradient(
    outer: Objective,
    step: Step,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    steps: int,
    truncate: int | None = None,
) -> Hypergradient:
    r"""The gradient in θ of outer(δ_T, θ), through the last k steps of δ_{t+1} = step(δ_t, θ).

    .. math:: \nabla_2\,\mathrm{outer} + \sum_{t = T-k}^{T-1}
              \partial_2 \mathrm{step}_t^\top\, \partial_1 \mathrm{step}_{t+1}^\top \cdots
              \partial_1 \mathrm{step}_{T-1}^\top\, \nabla_1\,\mathrm{outer} .

    T = ``steps``, k = ``truncate`` (all T by default); δ_0 = ``delta`` is a constant. Its memory
    grows with k: every step keeps its activations. The result's ``delta`` is δ_T, its ``solution``
    None. At a fixed point, truncation to k steps of ascent equals `FixedPoint` with k iterations
    of the same step.

    Raises ValueError unless 0 <= k <= T, or where ``step`` changes the shape; TypeError as
    elsewhere. Source: Domke 2012; Shaban et al. 2019 for the truncation.
    """
    kept = steps if truncate is None else truncate
    if not 0 <= kept <= steps:
        raise ValueError(f"steps = {steps}, truncate = {truncate}; expected 0 <= truncate <= steps")
    _, params = leaves(delta, theta)
    d = delta.detach()
    with torch.no_grad():
        for _ in range(steps - kept):
            d = _advance(step, d, params).detach()
    with torch.enable_grad():
        for _ in range(kept):
            d = _advance(step, d, params)
    # Without a step that is kept, δ_T is a constant, and only `outer` can reach θ.
    if kept:
        check_reach(reaches(d, params), "step(delta, theta)")
    else:
        _, leaf = leaves(d, theta)
        check_reach(reaches(evaluate(outer, d, leaf, "outer"), leaf), "outer(delta, theta)")
    value, g, direct = gradients(outer, d, theta)
    indirect = dict(zip(params, pull_back(d, list(params.values()), g), strict=True))
    total = {name: direct[name] + indirect[name] for name in direct}
    return Hypergradient(direct, indirect, total, value, d.detach())


def _advance(step: Step, delta: Tensor, theta: Parameters) -> Tensor:
    moved = step(delta, theta)
    if moved.shape != delta.shape:
        raise ValueError(f"step gave shape {tuple(moved.shape)} for {tuple(delta.shape)}")
    return moved
