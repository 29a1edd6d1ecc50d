"""Derivatives through the solution of an inner problem: δ(θ) with ∇₁ inner(δ(θ), θ) = 0.

Pure mathematics: `inner` and `outer` are functions (delta, theta) -> scalar, ``delta`` a tensor and ``theta`` a dict
of tensors; nothing here knows what they mean. With A = ∇₁² inner [d × d], B = ∇²₂₁ inner [p × d], g = ∇₁ outer:

    ∇δ(θ) = -A⁻¹ Bᵀ,      ∇ψ(θ) = ∇₂ outer - B A⁻¹ g      for ψ(θ) = outer(δ(θ), θ).
"""

from __future__ import annotations

from ibau_lite.hypergrad._gradient_graph import GradientGraph, Objective, Parameters
from ibau_lite.hypergrad._hypergradient import Hypergradient, Solver, hypergradient

__all__ = [
    "GradientGraph",
    "Hypergradient",
    "Objective",
    "Parameters",
    "Solver",
    "hypergradient",
]
