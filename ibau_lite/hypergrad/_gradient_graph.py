"""∇₁ inner with its graph: built once, pulled back as often as a solver asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ibau_lite.second_derivatives import (
    refuse_once_differentiable,
    refuse_without_one,
    twice_differentiable,
)

Parameters = dict[str, Tensor]
"""theta: name -> tensor, as ``dict(model.named_parameters())``."""

Objective = Callable[[Tensor, Parameters], Tensor]
"""(delta, theta) -> scalar, differentiable twice by autograd."""


class GradientGraph:
    r"""g = ∇₁ f(δ, θ) together with the graph that computed it (reverse over reverse).

    .. math:: A v = \nabla_\delta \langle \nabla_1 f, v\rangle = \nabla_1^2 f\, v, \qquad
              B v = \nabla_\theta \langle \nabla_1 f, v\rangle = \nabla^2_{21} f\, v .

    One graph serves every Hessian product and the mixed product, and one backward pass gives both
    (`pull`). The graph keeps the activations of f alive until the object is dropped.
    ``theta_gradient=True`` takes ∇₂ f in the same first pass (attribute ``theta_gradient``).

    Raises TypeError (delta, theta) and ValueError (f gives no differentiable scalar).
    Source: Pearlmutter 1994, *Fast exact multiplication by the Hessian*.
    """

    def __init__(
        self,
        function: Objective,
        delta: Tensor,
        theta: Mapping[str, Tensor],
        *,
        theta_gradient: bool = False,
        name: str = "inner",
    ) -> None:
        self.delta, self.theta = leaves(delta, theta)
        inputs = [self.delta, *self.theta.values()] if theta_gradient else [self.delta]
        with torch.enable_grad(), twice_differentiable():
            value = evaluate(function, self.delta, self.theta, name)
            refuse_once_differentiable(value)
            gradients = torch.autograd.grad(
                value, inputs, create_graph=True, materialize_grads=True
            )
        self.value = value.detach()
        self.reaches_theta = reaches(value, self.theta)
        self._gradient = gradients[0]
        self.gradient = gradients[0].detach()
        slopes = [g.detach() for g in gradients[1:]]
        self.theta_gradient = dict(zip(self.theta, slopes, strict=True)) if slopes else {}

    def hessian(self, v: Tensor) -> Tensor:
        """A v = ∇₁² f v: shape of δ to shape of δ."""
        return pull_back(self._gradient, [self.delta], v, keep=True)[0]

    def mixed(self, v: Tensor, *, keep: bool = True) -> Parameters:
        """B v = ∇²₂₁ f v: shape of δ to a dict like θ; ``keep`` as in `pull`."""
        pulled = pull_back(self._gradient, list(self.theta.values()), v, keep=keep)
        return dict(zip(self.theta, pulled, strict=True))

    def pull(self, v: Tensor, *, keep: bool = True) -> tuple[Tensor, Parameters]:
        """(A v, B v) in one backward pass; ``keep=False`` frees the graph: only for the last
        one."""
        inputs = [self.delta, *self.theta.values()]
        image, *mixed = pull_back(self._gradient, inputs, v, keep=keep)
        return image, dict(zip(self.theta, mixed, strict=True))


def leaves(delta: Tensor, theta: Mapping[str, Tensor]) -> tuple[Tensor, Parameters]:
    """δ and θ as fresh leaves of autograd, on the same memory; TypeError where they cannot be."""
    if not isinstance(delta, Tensor) or not delta.is_floating_point():
        raise TypeError("delta must be a tensor of a floating dtype")
    if not isinstance(theta, Mapping) or not theta:
        raise TypeError(
            "theta must be a non-empty dict name -> tensor, as dict(model.named_parameters())"
        )
    wrong = [name for name, p in theta.items() if not p.is_floating_point()]
    if wrong:
        raise TypeError(f"theta holds tensors without a derivative: {wrong}; leave buffers out")
    return (
        delta.detach().requires_grad_(True),
        {name: p.detach().requires_grad_(True) for name, p in theta.items()},
    )


def evaluate(function: Objective, delta: Tensor, theta: Parameters, name: str) -> Tensor:
    """function(delta, theta); ValueError, naming it, where that is no differentiable scalar."""
    value = function(delta, theta)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}(delta, theta) gave {got}; expected a tensor with one element")
    if not value.requires_grad:
        raise ValueError(
            f"{name}(delta, theta) depends on neither argument in autograd's eyes; use them as "
            "given (torch.func.functional_call(model, theta, ...)), without detach or no_grad"
        )
    return value.reshape(())


def reaches(value: Tensor, theta: Parameters) -> bool:
    """Whether the graph of `value` ends at an entry of θ."""
    wanted = {id(p) for p in theta.values()}
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if id(getattr(node, "variable", None)) in wanted:
            return True
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    return False


def check_reach(reached: bool, name: str) -> None:
    """Raise ValueError where θ was not reached: the derivative would be zero without a word."""
    if not reached:
        raise ValueError(
            f"{name} reaches no entry of theta; expected a function of both arguments: use the "
            "theta that is given, as torch.func.functional_call(model, theta, (x + delta,)), where "
            "model(x + delta) uses the parameters that the model holds"
        )


def pull_back(
    output: Tensor, inputs: list[Tensor], cotangent: Tensor | None = None, *, keep: bool = False
) -> tuple[Tensor, ...]:
    """(∂output/∂input)ᵀ cotangent for every input, zeros where there is no dependence."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(i) for i in inputs)
    try:
        return torch.autograd.grad(
            output, inputs, cotangent, retain_graph=keep, materialize_grads=True
        )
    except RuntimeError as error:
        refuse_without_one(error)
        raise
