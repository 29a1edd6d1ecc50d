"""BatchNorm in evaluation mode is an affine map: fold it into the layer before it, exactly."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ibau_lite.speed import Geometry, convolution

__all__ = ["fold_batchnorm", "frozen"]

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def fold_batchnorm(model: nn.Module) -> nn.Module:
    r"""A view of `model` in evaluation mode in which every BatchNorm is folded away.

    .. math:: \mathrm{BN}(Wx + b) = (s W)\,x + (s\,(b - \mu) + \beta), \qquad
              s = \gamma / \sqrt{\sigma^2 + \epsilon} .

    The view computes s W and the new bias from W, b, γ, β at every call. It shares the parameters
    and buffers of `model` and their names, so that `torch.func.functional_call` and an optimiser
    treat the two alike: gradients in W, b, γ, β are those of the model, derivatives of any order
    and in forward mode included. What it saves is a pass over the activations for each norm, and
    the second derivatives of that pass.

    A norm is folded where it follows a convolution or linear layer whose output goes nowhere else;
    any other becomes the affine map s x + (β − s μ). The model is left as it is; the view stays in
    evaluation mode. Left alone are norms that keep no running statistics and subclasses with a
    `forward` of their own (a norm that also activates, a convolution that standardises its
    weights): they have no such form.

    Raises `ValueError` if a module is in training mode, where BatchNorm is not an affine map.
    Source: Ioffe & Szegedy 2015, section 3.1 (inference with the population statistics).
    """
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model must be in evaluation mode (model.eval()): in training mode BatchNorm "
            "depends on the whole batch and cannot be folded"
        )
    memo: dict[int, object] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    pairs = _pairs(copy.deepcopy(model, dict(memo)))  # a trace may leave proxies in attributes
    view = copy.deepcopy(model, memo)
    modules: dict[str, Any] = dict(view.named_modules())
    into = {norm: layer for layer, norm in pairs}
    for name, module in modules.items():
        if _computes(module, _NORMS) and module.running_mean is not None:
            # In the instance, not in a wrapping module: the names of the parameters must stay.
            vars(module)["forward"] = _Affine(module)
            if name in into:
                layer = modules[into[name]]
                vars(layer)["forward"] = _Folded(layer, module)
                vars(module)["forward"] = _identity
    return view


def frozen(model: nn.Module) -> nn.Module:
    """A copy to be read only: in evaluation mode, folded, no parameter asking for a gradient.

    On a processor its channels lie last, which makes a convolution faster. Gradients in the images
    are those of the model.
    """
    view: nn.Module = copy.deepcopy(model).eval().requires_grad_(False)
    if next(view.parameters()).device.type == "cpu":
        view = view.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fold_batchnorm(view)


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """(s, β − s μ), both [channels], differentiable in γ and β."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -scale * norm.running_mean
    return scale, shift if norm.bias is None else shift + norm.bias


class _Affine:
    """x [N, C, ...] ↦ s x + (β − s μ)."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        scale, shift = _scale_and_shift(self.norm)
        along = (-1, *(1,) * (x.ndim - 2))
        return x * scale.view(along) + shift.view(along)


class _Folded:
    """x ↦ (s W) x + (s b + β − s μ), in one convolution or product."""

    def __init__(self, layer: Any, norm: Any) -> None:
        self.layer, self.norm = layer, norm

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        scale, shift = _scale_and_shift(self.norm)
        if isinstance(layer, nn.Linear) and x.ndim > 2:
            # Of [N, C, …, L] the linear layer maps the last axis, the norm scales the second one.
            along = (-1, *(1,) * (x.ndim - 2))
            return F.linear(x, layer.weight, layer.bias) * scale.view(along) + shift.view(along)
        weight = layer.weight * scale.view(-1, *(1,) * (layer.weight.ndim - 1))
        bias = shift if layer.bias is None else shift + scale * layer.bias
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and x.ndim == 4
        if plain and not isinstance(layer.padding, str):
            walk = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
            return convolution(x, weight, walk) + bias[:, None, None]
        return layer._conv_forward(x, weight, bias)


def _identity(x: Tensor) -> Tensor:
    return x


def _computes(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether it computes what one of `kinds` does; a subclass may compute something else."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """(layer, norm) by name, where the norm reads the layer and nobody else does.

    Found in the traced graph of the model; empty where Python control flow forbids a trace.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # whatever the model's forward raises when it meets a tracer's proxy
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    once = {
        node.target for node in calls if sum(other.target == node.target for other in calls) == 1
    }
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module"):
            continue
        names = (str(before.target), str(node.target))
        layer, norm = (model.get_submodule(name) for name in names)
        known = _computes(layer, _LAYERS) and _computes(norm, _NORMS)
        between = layer._forward_hooks or norm._forward_pre_hooks  # they see the layer's own output
        if (
            known
            and not between
            and norm.running_mean is not None
            and {*names} <= once
            and len(before.users) == 1
        ):
            pairs.append(names)
    return pairs
