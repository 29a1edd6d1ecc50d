"""A network as Theorem 3 sees it: affine layers with Lipschitz maps between, f = … σ₁(W₁x + b₁).

Convolutions are layers as they are, BatchNorm in evaluation mode becomes part of the layer before
it, pooling counts as a non-linearity. What is not a chain is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .spectral_norms import Pair, SpectralNorm, of_convolution, of_matrix

__all__ = ["Affine", "Stage", "chain", "lipschitz"]

_Norm = nn.modules.batchnorm._BatchNorm
_ONE = (nn.Identity, nn.Flatten, nn.ReLU, nn.Tanh, nn.Softplus)


@dataclass(frozen=True, eq=False)
class Affine:
    """z ↦ Wz + b in double precision: a matrix [O, d] or a convolution [O, C, h, w], zero-padded.

    `reuse` is κ, the number of output positions in which one input entry can occur; `positions` is
    q, the number of places that share a bias. Both are 1 for a matrix.
    """

    weight: Tensor
    bias: Tensor
    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def reuse(self) -> int:
        if self.weight.ndim == 2:
            return 1
        return _windows(_pair(self.weight.shape[2:]), self.stride, self.dilation)

    @property
    def positions(self) -> int:
        if self.weight.ndim == 2:
            return 1
        sides = zip(
            self.size, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        )
        return math.prod((n + 2 * p - g * (h - 1) - 1) // s + 1 for n, h, s, p, g in sides)

    def __call__(self, z: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return F.linear(z, self.weight, self.bias)
        return F.conv2d(z, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def norm(self) -> SpectralNorm:
        """‖W‖ as an operator on inputs of this size, from both sides."""
        if self.weight.ndim == 2:
            return of_matrix(self.weight)
        return of_convolution(
            self.weight,
            self.size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )


@dataclass(frozen=True, eq=False)
class Stage:
    """One affine layer and what follows it up to the next: z ↦ σ(Wz + b), Lip(σ) ≤ `lipschitz`."""

    name: str
    affine: Affine
    after: tuple[Callable[[Tensor], Tensor], ...]
    lipschitz: float

    def __call__(self, z: Tensor) -> Tensor:
        z = self.affine(z)
        for step in self.after:
            z = step(z)
        return z


def lipschitz(module: nn.Module, shape: tuple[int, ...]) -> float:
    """A Lipschitz constant in ‖·‖₂ of a layer without weights, on inputs of `shape`.

    Exact for each activation; max-pooling: √(windows that share a pixel), 1 if they do not overlap;
    average pooling: the spectral norm of its matrix. Raises `TypeError` for any other layer.
    """
    if isinstance(module, _ONE) or (isinstance(module, nn.Dropout) and not module.training):
        return 1.0
    if isinstance(module, nn.ELU):
        return max(1.0, float(module.alpha))
    if isinstance(module, nn.LeakyReLU):
        return max(1.0, abs(float(module.negative_slope)))
    if isinstance(module, nn.Sigmoid):
        return 0.25
    if isinstance(module, nn.MaxPool2d):
        steps = (module.kernel_size, module.stride, module.dilation)
        return math.sqrt(_windows(*(_pair(step) for step in steps)))
    if isinstance(module, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        units = torch.eye(shape[1] * shape[2], dtype=torch.float64).view(-1, 1, *shape[1:])
        return of_matrix(module(units).flatten(1)).upper
    raise TypeError(
        f"no Lipschitz constant is known for {type(module).__name__}; known are ReLU, LeakyReLU, "
        "ELU, Softplus, Tanh, Sigmoid, dropout in evaluation mode, flattening and pooling"
    )


def chain(model: nn.Module, shape: tuple[int, ...]) -> tuple[Stage, ...]:
    """Take a network in evaluation mode apart into stages, for inputs of `shape` [C, H, W].

    The stages compute what the model computes, in double precision. Raises `ValueError` for a
    module in training mode, and `TypeError` for a network that is not a chain of convolutions
    (zero-padded, not grouped), linear layers, BatchNorm after one of these, activations, pooling.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("the model must be in evaluation mode: model.eval()")
    z = torch.zeros(1, *shape, dtype=torch.float64)
    stages: list[Stage] = []
    for name, module in _in_order(model):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            stages.append(Stage(name, _affine(module, tuple(z.shape[1:])), (), 1.0))
            z = stages[-1](z)
        elif isinstance(module, _Norm):
            if not stages or stages[-1].after or module.running_mean is None:
                raise TypeError(
                    f"{name}: a BatchNorm with running statistics right after a convolution or "
                    "linear layer is expected"
                )
            last = stages[-1]
            stages[-1] = Stage(last.name, _folded(last.affine, module), (), 1.0)
        else:
            constant = lipschitz(module, tuple(z.shape[1:]))
            z = module(z)
            if stages:
                last = stages[-1]
                after: tuple[Callable[[Tensor], Tensor], ...] = (*last.after, module)
                stages[-1] = replace(last, after=after, lipschitz=last.lipschitz * constant)
            elif not isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout)):
                raise TypeError(f"{name}: an affine layer is expected before the first activation")
    if not stages:
        raise TypeError("the model has no convolution and no linear layer")
    return tuple(stages)


def _in_order(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers by name, if each reads only the one before."""
    graph = fx.symbolic_trace(model).graph
    layers: list[tuple[str, nn.Module]] = []
    last: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and last is None:
            last = node
            continue
        inputs = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
        if inputs != [last]:
            raise TypeError(
                f"{node.name} reads {inputs}: a chain is expected, in which every layer reads the "
                "one before it (networks with shortcuts are outside the theorem)"
            )
        last = node
        if node.op == "call_module":
            layers.append((str(node.target), model.get_submodule(str(node.target))))
        elif node.op == "call_method" and node.target == "flatten" and node.args[1:] == (1,):
            layers.append((node.name, nn.Flatten()))
        elif node.op != "output":
            raise TypeError(f"{node.name}: layers and flatten(1) are expected, got {node.target}")
    return layers


def _affine(module: nn.Conv2d | nn.Linear, shape: tuple[int, ...]) -> Affine:
    weight = module.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().double()
    if isinstance(module, nn.Linear):
        return Affine(weight, bias)
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise TypeError(f"{module}: one group, zero padding and a padding in pixels are expected")
    return Affine(
        weight,
        bias,
        (shape[1], shape[2]),
        _pair(module.stride),
        _pair(module.padding),
        _pair(module.dilation),
    )


def _folded(affine: Affine, norm: _Norm) -> Affine:
    """(sW, s(b − μ) + β) with s = γ/√(σ² + ε); see `ibau_lite.speed` for networks that run."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = scale * (affine.bias - norm.running_mean.double())
    if norm.bias is not None:
        bias = bias + norm.bias.detach().double()
    weight = affine.weight * scale.view(-1, *(1,) * (affine.weight.ndim - 1))
    return Affine(weight, bias, affine.size, affine.stride, affine.padding, affine.dilation)


def _windows(kernel: Pair, stride: Pair, dilation: Pair) -> int:
    """In how many windows one pixel can lie: ⌈h/s⌉ along an axis, or h if the taps have gaps."""
    sides = zip(kernel, stride, dilation, strict=True)
    return math.prod(-(-h // s) if gap == 1 else h for h, s, gap in sides)


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
