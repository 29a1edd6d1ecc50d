"""The second derivatives of an objective from one graph: those of `hypergrad`, faster."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ibau_lite.hypergrad import (
    Objective,
    Parameters,
    SecondDerivatives,
    _check_reached,
    _point,
    _scalar,
)
from ibau_lite.second_derivatives import refuse_once_differentiable, twice_differentiable

__all__ = ["DoubleBackward"]


class DoubleBackward(SecondDerivatives):
    r"""`SecondDerivatives` by autograd's own double backward: one graph of ∇₁ f for all products.

    .. math:: A v = \nabla_\delta \langle \nabla_1 f, v\rangle, \qquad
              B v = \nabla_\theta \langle \nabla_1 f, v\rangle .

    `torch.func` evaluates f once for the Hessian and once for the mixed product; here one forward
    and one backward pass serve both, and ∇₂ f as well, and the last product and the mixed one are
    one pass. The numbers are the same to rounding. Errors are the same.
    """

    @twice_differentiable()
    def __init__(
        self,
        function: Objective,
        delta: Tensor,
        theta: Mapping[str, Tensor],
        *,
        theta_gradient: bool = False,
    ) -> None:
        delta, theta = _point(delta, theta)
        self._delta = delta.requires_grad_(True)
        self._theta = {name: p.requires_grad_(True) for name, p in theta.items()}
        inputs = [self._delta, *self._theta.values()] if theta_gradient else [self._delta]
        with torch.enable_grad():
            value = _scalar(function, "inner")(self._delta, self._theta)
            refuse_once_differentiable(value)
            first, *slopes = torch.autograd.grad(
                value, inputs, create_graph=True, materialize_grads=True
            )
        _check_reached(value, self._theta, "inner")
        self.value, self.gradient, self._first = value.detach(), first.detach(), first
        self.theta_gradient = {
            name: slope.detach() for name, slope in zip(self._theta, slopes, strict=False)
        }

    def hessian(self, v: Tensor) -> Tensor:
        """A v: shape of δ to shape of δ."""
        return self._pull([self._delta], v)[0]

    def mixed(self, v: Tensor) -> Parameters:
        """B v: shape of δ to a dict like θ."""
        return dict(zip(self._theta, self._pull([*self._theta.values()], v), strict=True))

    def last(self, v: Tensor, *, hessian: bool) -> tuple[Tensor | None, Parameters]:
        """(A v or None, B v) in one pass, which frees the graph."""
        asked = [self._delta] if hessian else []
        found = self._pull([*asked, *self._theta.values()], v, keep=False)
        image = found[0] if hessian else None
        return image, dict(zip(self._theta, found[len(asked) :], strict=True))

    @staticmethod
    def outer_gradients(
        function: Objective, delta: Tensor, theta: Parameters
    ) -> tuple[Tensor, Tensor, Parameters]:
        """(f, ∇₁ f, ∇₂ f) of the outer function, in one backward pass."""
        value, (g, *slopes) = _slopes(function, delta, theta, [delta, *theta.values()])
        return value, g, dict(zip(theta, slopes, strict=True))

    @staticmethod
    def outer_theta_gradient(
        function: Objective, delta: Tensor, theta: Parameters
    ) -> tuple[Tensor, Parameters]:
        """(f, ∇₂ f) of the outer function."""
        value, slopes = _slopes(function, delta, theta, [*theta.values()], constant=True)
        return value, dict(zip(theta, slopes, strict=True))

    @twice_differentiable()
    def _pull(self, inputs: list[Tensor], v: Tensor, *, keep: bool = True) -> tuple[Tensor, ...]:
        """(∂∇₁f/∂input)ᵀ v for every input, zeros where there is no dependence."""
        if not self._first.requires_grad:
            return tuple(torch.zeros_like(i) for i in inputs)
        return torch.autograd.grad(
            self._first, inputs, v, retain_graph=keep, materialize_grads=True
        )


def _slopes(
    function: Objective,
    delta: Tensor,
    theta: Parameters,
    inputs: list[Tensor],
    *,
    constant: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(f, its derivatives in `inputs`, which are δ and θ); with `constant` f may have none."""
    for each in inputs:
        each.requires_grad_(True)
    with torch.enable_grad():
        value = _scalar(function, "outer", constant=constant)(delta, theta)
    if not value.requires_grad:
        return value, tuple(torch.zeros_like(each) for each in inputs)
    return value.detach(), torch.autograd.grad(value, inputs, materialize_grads=True)
