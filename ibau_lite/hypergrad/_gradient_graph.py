"""∇₁ inner with its graph: built once, pulled back as often as a solver asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
"""theta: name -> tensor, as ``dict(model.named_parameters())``."""

Objective = Callable[[Tensor, Parameters], Tensor]
"""(delta, theta) -> scalar, differentiable twice by autograd."""


def leaves(delta: Tensor, theta: Mapping[str, Tensor]) -> tuple[Tensor, Parameters]:
    """Detached copies (of the handle, not of the memory) that autograd differentiates with respect to."""
    if not isinstance(delta, Tensor) or not delta.is_floating_point():
        raise TypeError("delta must be a tensor of a floating dtype")
    if not isinstance(theta, Mapping) or not theta:
        raise TypeError("theta must be a non-empty dict name -> tensor, as dict(model.named_parameters())")
    wrong = [name for name, p in theta.items() if not p.is_floating_point()]
    if wrong:
        raise TypeError(f"theta holds tensors that cannot be differentiated: {wrong}; leave buffers out of it")
    return (
        delta.detach().requires_grad_(True),
        {name: p.detach().requires_grad_(True) for name, p in theta.items()},
    )


def evaluate(function: Objective, delta: Tensor, theta: Parameters, name: str) -> Tensor:
    """function(delta, theta); ValueError, naming it, where that is no differentiable scalar."""
    value = function(delta, theta)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}(delta, theta) gave {shape}; expected a tensor with one element")
    if not value.requires_grad:
        raise ValueError(
            f"{name}(delta, theta) does not depend on delta or theta in autograd's eyes; use the arguments "
            "as given (torch.func.functional_call(model, theta, ...)), without detach or no_grad"
        )
    return value.reshape(())


def pull_back(
    output: Tensor, inputs: list[Tensor], cotangent: Tensor | None = None, *, keep: bool = False
) -> tuple[Tensor, ...]:
    """(∂output/∂input)ᵀ cotangent for every input, zeros where there is no dependence."""
    if not output.requires_grad:
        return tuple(torch.zeros_like(i) for i in inputs)
    return torch.autograd.grad(output, inputs, cotangent, retain_graph=keep, materialize_grads=True)


class GradientGraph:
    r"""g = ∇₁ f(δ, θ) together with the graph that computed it (reverse over reverse).

    .. math:: \langle \nabla_1 f, v\rangle \;\xrightarrow{\ \nabla_\delta\ }\; A v = \nabla_1^2 f\,v, \qquad
              \langle \nabla_1 f, v\rangle \;\xrightarrow{\ \nabla_\theta\ }\; B v = \nabla^2_{21} f\,v .

    One graph serves every Hessian product and the mixed product; both come out of ONE backward pass in `pull`.
    The graph keeps the activations of f alive until the object is dropped. ``theta_gradient=True``
    also takes ∇₂ f (detached) in the same pass.

    Raises TypeError (delta, theta) and ValueError (f gives no differentiable scalar).
    Source: Pearlmutter 1994 (exact products with the Hessian).
    """

    def __init__(
        self, function: Objective, delta: Tensor, theta: Mapping[str, Tensor], *,
        theta_gradient: bool = False, name: str = "inner",
    ) -> None:
        self.delta, self.theta = leaves(delta, theta)
        inputs = [self.delta, *self.theta.values()] if theta_gradient else [self.delta]
        with torch.enable_grad():
            value = evaluate(function, self.delta, self.theta, name)
            gradients = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
        self.value = value.detach()
        self._gradient = gradients[0]
        self.gradient = gradients[0].detach()
        self.theta_gradient = {n: g.detach() for n, g in zip(self.theta, gradients[1:], strict=False)}

    def hessian(self, v: Tensor) -> Tensor:
        """A v = ∇₁² f v: shape of δ to shape of δ."""
        return pull_back(self._gradient, [self.delta], v, keep=True)[0]

    def mixed(self, v: Tensor) -> Parameters:
        """B v = ∇²₂₁ f v: shape of δ to a dict like θ."""
        return self.pull(v)[1]

    def pull(self, v: Tensor, *, keep: bool = True) -> tuple[Tensor, Parameters]:
        """(A v, B v) in one backward pass; ``keep=False`` frees the graph, so let it be the last."""
        image, *mixed = pull_back(self._gradient, [self.delta, *self.theta.values()], v, keep=keep)
        return image, dict(zip(self.theta, mixed, strict=True))
