r"""A convolution whose second derivatives cost what they must.

PyTorch's own convolution, differentiated twice, works out the gradient in the weights at every
product with a Hessian in the *input*, wanted or not: a third of each product (torch 2.13 runs
twice as many convolutions as layers, whether the weights require gradients or not).
Here a convolution and its transpose are each other's derivative in the input, and the gradient in
the weights is taken only when the backward pass at hand was asked for something that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Geometry", "convolution"]


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks; not a tuple, which `torch.func` would take apart."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def convolution(images: Tensor, weight: Tensor, geometry: Geometry = Geometry()) -> Tensor:
    """The 2-D convolution of `images` [N, C, H, W] with `weight` [D, C/groups, h, w], zero-padded.

    The same values and derivatives (of any order, forward mode and `torch.func` transforms
    included) as `torch.nn.functional.conv2d`. Under autocast both are cast as PyTorch would do it,
    here rather than within: the derivatives must meet the operands that were multiplied.
    """
    kind = images.device.type
    if torch.is_autocast_enabled(kind) and torch.float64 not in (images.dtype, weight.dtype):
        lower = torch.get_autocast_dtype(kind)
        images, weight = images.to(lower), weight.to(lower)
    return _Convolution.apply(images, weight, geometry)


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        g = geometry
        return torch.conv2d(images, weight, None, g.stride, g.padding, g.dilation, g.groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        back = spread = None
        if _wanted(ctx, 0):
            back = _Transpose.apply(slope, weight, ctx.geometry, *images.shape[2:])
        if _wanted(ctx, 1):
            spread = _weight_gradient(images, weight, slope, ctx.geometry)
        return back, spread, None

    @staticmethod
    def jvp(ctx: Any, images_dot: Any, weight_dot: Any, _: Any) -> Tensor:
        images, weight = ctx.saved_tensors
        along = _sum(
            None if images_dot is None else convolution(images_dot, weight, ctx.geometry),
            None if weight_dot is None else convolution(images, weight_dot, ctx.geometry),
        )
        return along


class _Transpose(torch.autograd.Function):
    """The adjoint in the images: gradients [N, D, h', w'] back to [N, C, H, W]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        slope: Tensor, weight: Tensor, geometry: Geometry, height: int, width: int
    ) -> Tensor:
        g = geometry
        # Rows and columns beyond the last full stride: the convolution never saw them.
        left_over = [
            full - ((rows - 1) * s - 2 * p + d * (k - 1) + 1)
            for full, rows, s, p, d, k in zip(
                (height, width),
                slope.shape[2:],
                g.stride,
                g.padding,
                g.dilation,
                weight.shape[2:],
                strict=True,
            )
        ]
        return F.conv_transpose2d(
            slope, weight, None, g.stride, g.padding, left_over, g.groups, g.dilation
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, inputs[:3])
        ctx.size = inputs[3:]

    @staticmethod
    def backward(ctx: Any, images: Tensor) -> tuple[Tensor | None, ...]:
        slope, weight = ctx.saved_tensors
        back = spread = None
        if _wanted(ctx, 0):
            back = convolution(images, weight, ctx.geometry)
        if _wanted(ctx, 1):
            spread = _weight_gradient(images, weight, slope, ctx.geometry)
        return back, spread, None, None, None

    @staticmethod
    def jvp(ctx: Any, slope_dot: Any, weight_dot: Any, *_: Any) -> Tensor:
        slope, weight = ctx.saved_tensors
        return _sum(
            None
            if slope_dot is None
            else _Transpose.apply(slope_dot, weight, ctx.geometry, *ctx.size),
            None
            if weight_dot is None
            else _Transpose.apply(slope, weight_dot, ctx.geometry, *ctx.size),
        )


def _keep(ctx: Any, inputs: tuple[Any, ...]) -> None:
    first, weight, ctx.geometry = inputs
    ctx.save_for_backward(first, weight)
    ctx.save_for_forward(first, weight)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor:
    if first is None or second is None:
        found = second if first is None else first
        assert found is not None
        return found
    return first + second


def _weight_gradient(images: Tensor, weight: Tensor, slope: Tensor, geometry: Geometry) -> Tensor:
    """Σ over the batch of images ⋆ slope, in PyTorch's own (again differentiable) backward."""
    return torch.ops.aten.convolution_backward(
        slope, images, weight, None, geometry.stride, geometry.padding, geometry.dilation, False,
        [0, 0], geometry.groups, [False, True, False],
    )[1]  # fmt: skip


def _wanted(ctx: Any, position: int) -> bool:
    """Whether the backward pass at hand needs the gradient of this input.

    `ctx.needs_input_grad` says only that the input requires a gradient at all; a product with a
    Hessian in δ asks for δ alone, through weights that do require one.
    """
    if not ctx.needs_input_grad[position]:
        return False
    node = ctx.next_functions[position][0]
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):
        return True  # outside a plain backward pass (torch.func), or an older torch: compute it
