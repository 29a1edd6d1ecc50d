"""Derivatives through the solution of an inner problem: δ(θ) with ∇₁ inner(δ(θ), θ) = 0.

Pure mathematics: `inner` and `outer` are functions (delta, theta) -> scalar, ``delta`` a tensor and
``theta`` a dict of tensors; nothing here knows what they mean. With A = ∇₁² inner [d × d],
B = ∇²₂₁ inner [p × d] and g = ∇₁ outer [d], at an interior stationary point

    ∇δ(θ) = -A⁻¹ Bᵀ,      ∇ψ(θ) = ∇₂ outer - B A⁻¹ g      for ψ(θ) = outer(δ(θ), θ),

and with an active constraint A - λI on the tangent space takes the place of A (the sets of
`ibau_lite.sets`). Both functions are differentiated twice: attention takes the kernel that can be,
and an operation without a second derivative, as hardsigmoid, is a ValueError that names it.

======================== ==========================================================================
`hypergradient`          direct and indirect term of ∇ψ, by K products with A
`unrolled_hypergradient` the same through the last steps of the ascent itself
`inverse_hvp`            A⁻¹ v
`response_jacobian`      ∇δ(θ), exact and dense
`response_jvp`           ∇δ(θ) t, and
`response_vjp`           ∇δ(θ)ᵀ u, without forming it
`spectrum`               the eigenvalues of A as far as Lanczos shows them
`gauss_newton`           the positive semi-definite part of A
`GradientGraph`          ∇₁ inner with its graph: what all of the above share
======================== ==========================================================================
"""

from __future__ import annotations

from ibau_lite.hypergrad._gauss_newton import gauss_newton
from ibau_lite.hypergrad._gradient_graph import GradientGraph, Objective, Parameters
from ibau_lite.hypergrad._hypergradient import Hypergradient, hypergradient
from ibau_lite.hypergrad._implicit_system import ImplicitSystem, Sense, Solver
from ibau_lite.hypergrad._response import (
    inverse_hvp,
    response_jacobian,
    response_jvp,
    response_vjp,
)
from ibau_lite.hypergrad._spectrum import Spectrum, spectrum
from ibau_lite.hypergrad._unrolled import ascent_step, unrolled_hypergradient

__all__ = [
    "GradientGraph",
    "Hypergradient",
    "ImplicitSystem",
    "Objective",
    "Parameters",
    "Sense",
    "Solver",
    "Spectrum",
    "ascent_step",
    "gauss_newton",
    "hypergradient",
    "inverse_hvp",
    "response_jacobian",
    "response_jvp",
    "response_vjp",
    "spectrum",
    "unrolled_hypergradient",
]
