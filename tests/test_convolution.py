"""The lean convolution: the values and derivatives of PyTorch's, for two thirds of the work."""

from __future__ import annotations

import pytest
import torch
from ibau_lite.speed import Geometry, convolution
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

GEOMETRIES = {
    "plain": Geometry(),
    "padded": Geometry(padding=(1, 1)),
    "strides that leave a rest": Geometry((2, 3), (1, 0)),
    "dilated groups": Geometry((2, 1), (0, 2), (1, 2), 2),
}


def example(geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(2, 4, 7, 8, generator=draws).double().requires_grad_(True)
    shape = (6, 4 // geometry.groups, 3, 3)
    return images, torch.rand(shape, generator=draws).double().requires_grad_(True)


def native(images: torch.Tensor, weight: torch.Tensor, g: Geometry) -> torch.Tensor:
    return torch.conv2d(images, weight, None, g.stride, g.padding, g.dilation, g.groups)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_first_and_second_derivatives_in_both_modes(geometry):
    images, weight = example(geometry)

    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return convolution(x, w, geometry)

    assert torch.equal(call(images, weight), native(images, weight, geometry))
    assert gradcheck(call, (images, weight), check_forward_ad=True)
    assert gradgradcheck(call, (images, weight), check_fwd_over_rev=True)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
@pytest.mark.parametrize("argument", [0, 1], ids=["images", "weight"])
def test_torch_func_hessian_is_that_of_pytorch(geometry, argument):
    images, weight = (tensor.detach() for tensor in example(geometry))
    # One image and one output channel a group are enough, and many times less work.
    arguments = [images[:1], weight[: geometry.groups]]

    def cubic(operator):
        def function(free: torch.Tensor) -> torch.Tensor:
            given = [free if i == argument else a for i, a in enumerate(arguments)]
            return operator(*given, geometry).pow(3).sum()

        return function

    ours = torch.func.hessian(cubic(convolution))(arguments[argument])
    theirs = torch.func.hessian(cubic(native))(arguments[argument])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def convolutions_in_a_hessian_product(operator) -> int:
    """How many convolutions of any kind one product with ∇²_x costs, through weights that learn."""
    images, weight = example(Geometry())
    (slope,) = torch.autograd.grad(operator(images, weight).pow(3).sum(), images, create_graph=True)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        torch.autograd.grad(slope, images, torch.ones_like(images))
    kernels = ("aten::convolution", "aten::convolution_backward")
    return sum(event.count for event in seen.key_averages() if event.key in kernels)


def test_a_hessian_product_costs_two_convolutions_and_no_gradient_of_the_weights():
    assert convolutions_in_a_hessian_product(convolution) == 2
    # What the module is for: if PyTorch no longer wastes a convolution here, drop the module.
    assert convolutions_in_a_hessian_product(lambda x, w: native(x, w, Geometry())) == 3


def test_the_mixed_product_still_comes_when_it_is_asked_for():
    images, weight = example(Geometry())
    products = []
    for operator in (convolution, native):
        value = operator(images, weight, Geometry()).pow(3).sum()
        (slope,) = torch.autograd.grad(value, images, create_graph=True)
        products.append(torch.autograd.grad(slope, [images, weight], torch.ones_like(images)))
    for ours, theirs in zip(*products, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_treats_it_as_pytorchs_own(dtype):
    images, weight = (x.detach().to(dtype).requires_grad_(True) for x in example(Geometry()))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = convolution(images, weight), native(images, weight, Geometry())
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        slope = torch.ones_like(ours)
        found = torch.autograd.grad(ours, (images, weight), slope)
        wanted = torch.autograd.grad(theirs, (images, weight), slope)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
