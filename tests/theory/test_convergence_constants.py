"""Certified and sampled constants of Theorem 1 against dense derivatives in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ibau_lite.theory.certified import CROSS_ENTROPY, SOFTPLUS, Jet, certified_constants
from ibau_lite.theory.quadratic import quadratic
from ibau_lite.theory.sampled import mixed_norm, sampled_constants
from torch import nn

from ibau_lite.minimax import Risk
from ibau_lite.models import mlp

quick = settings(deadline=None, max_examples=40)
F64 = torch.float64
NAMES = ("eta_1", "eta_2", "rho_1", "rho_2", "L_21")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def risk_of(penalty: float, hidden: tuple[int, ...] = (5,), seed: int = 0, count: int = 6) -> Risk:
    network = mlp(4, hidden, 3, seed=seed).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(2)  # away from a linear map
    labels = torch.arange(count) % 3
    return Risk(network, draw(count, 1, 2, 2, seed=seed).abs(), labels, penalty=penalty)


def theta_of(risk: Risk) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in risk.model.named_parameters()}


def flat_risk(risk: Risk):
    """H as a function of one vector in δ and one in θ."""
    theta = theta_of(risk)
    shapes = {name: p.shape for name, p in theta.items()}

    def function(d, t):
        parts = t.split([s.numel() for s in shapes.values()])
        named = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts)}
        return risk(d.reshape(1, 2, 2), named)

    return function, torch.cat([p.reshape(-1) for p in theta.values()])


def derivatives(risk: Risk, delta: torch.Tensor):
    """∇₁²H [d, d], ∇²₂₁H [p, d], D³_δ H [d, d, d] and D_θ D²_δ H [p, d, d], dense."""
    function, t = flat_risk(risk)
    hessian = torch.func.hessian(function)
    mixed = torch.func.jacrev(torch.func.grad(function, argnums=1))
    d = delta.reshape(-1)
    return (
        hessian(d, t),
        mixed(d, t),
        torch.func.jacrev(hessian)(d, t),
        (torch.func.jacrev(torch.func.jacrev(torch.func.grad(function, argnums=1)))(d, t)),
    )


def spectral(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def in_directions(tensor: torch.Tensor, tries: int = 30) -> float:
    """A lower bound of sup_u ‖T[…, u]‖ over unit vectors u in the last argument."""
    u = torch.randn(tensor.shape[-1], tries, generator=torch.Generator().manual_seed(1), dtype=F64)
    return max(spectral(tensor @ (v / v.norm())) for v in u.T)


# --- certified -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(5,), (4, 3), ()])
def test_certified_constants_bound_the_dense_derivatives_everywhere_in_the_ball(hidden):
    radius = 0.8
    risk = risk_of(1e4, hidden)
    c = certified_constants(risk, radius)
    assert c.kind == "certified" and c.M == 0
    for seed in range(8):
        delta = draw(1, 2, 2, seed=seed)
        delta = radius * delta / delta.norm() * (1 if seed % 2 else 0.3)
        hessian, mixed, third, mixed_third = derivatives(risk, delta)
        values, rounding = torch.linalg.eigvalsh(-hessian), 1e-14 * c.L_H
        assert c.mu_H <= float(values[0]) and float(values[-1]) <= c.L_H + rounding
        assert spectral(mixed) <= c.L_21 == c.eta_2
        assert in_directions(third) <= c.rho_1
        assert in_directions(mixed_third) <= c.rho_2
        assert float(values[-1]) <= c.eta_1 + rounding


def test_certified_constants_with_an_outer_objective_without_penalty():
    risk = risk_of(1e3)
    solution = draw(1, 2, 2)
    c = certified_constants(risk, 3.0, solution)
    assert math.isclose(c.M, 2e3 * float(solution.norm()))
    bare = torch.func.hessian(flat_risk(risk_of(0.0))[0])
    assert spectral(bare(solution.reshape(-1), flat_risk(risk)[1])) <= c.eta_1 < 0.1 * c.L_H


@quick
@given(st.floats(1.0, 4.0), st.floats(0.1, 3.0))
def test_certified_constants_grow_with_the_weights_and_the_ball(factor, radius):
    before = certified_constants(risk_of(1e7), radius)
    risk = risk_of(1e7)
    with torch.no_grad():
        for p in risk.model.parameters():
            p.mul_(factor)
    for after in (certified_constants(risk, radius), certified_constants(risk_of(1e7), 2 * radius)):
        assert after.mu_H <= before.mu_H and after.L_H >= before.L_H * (1 - 1e-12)
        for name in NAMES:
            assert getattr(after, name) >= getattr(before, name) * (1 - 1e-12)


def test_the_numbers_of_the_lemma():
    """Softplus and cross-entropy: the stated suprema are reached, and not passed."""
    z = torch.linspace(-10, 10, 20001, dtype=F64)
    s = torch.sigmoid(z)
    slopes = (s, s * (1 - s), s * (1 - s) * (1 - 2 * s))
    for stated, seen in zip(SOFTPLUS, slopes):
        assert seen.abs().max() <= stated * (1 + 1e-12) and seen.abs().max() > 0.9999 * stated

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, 4, generator=generator, dtype=F64)
    # the extreme cases: two classes share the mass, u = (1, -1, 0, 0)/√2, and one-sided gradients
    logits = torch.cat(
        [logits, torch.stack([z[::50], -z[::50], -50 + 0 * z[::50], -50 + 0 * z[::50]], 1)]
    )
    p = torch.softmax(logits, 1)
    u = torch.randn(4, 200, generator=generator, dtype=F64)
    u = torch.cat([u / u.norm(dim=0), torch.tensor([[1.0, -1.0, 0, 0]], dtype=F64).T / 2**0.5], 1)
    mean = p @ u
    centred = u[None] - mean[:, None]  # [n, classes, directions]
    moments = [(p[:, :, None] * centred**k).sum(1) for k in (2, 3)]
    first = (p - torch.eye(4, dtype=F64)[0]).norm(dim=1)
    for stated, seen in zip(CROSS_ENTROPY, (first, *moments)):
        assert seen.abs().max() <= stated * (1 + 1e-12) and seen.abs().max() > 0.99 * stated


def test_a_linear_layer_alone_has_the_exact_jet():
    """z = Wx + b at δ = 0: D_θ z in the direction of (W, b) has the stated norm, no less."""
    images, weight, bias = draw(3, 4), draw(2, 4, seed=1), draw(2, seed=2)
    jet = Jet.input(images, 0.0).linear(weight, bias)
    torch.testing.assert_close(jet.t[0], (images.square().sum(1) + 1).sqrt())
    assert math.isclose(float(jet.a[1][0]), spectral(weight))
    for i, x in enumerate(images):
        jacobian = torch.func.jacrev(lambda p, x=x: p[:, :4] @ x + p[:, 4])(
            torch.zeros(2, 5).double()
        )
        assert math.isclose(spectral(jacobian.reshape(2, 10)), float(jet.t[0][i]))


def test_certified_refuses_what_it_cannot_prove():
    with pytest.raises(TypeError, match="ReLU has no certified constants"):
        risk = risk_of(10.0)
        rough = mlp(4, (5,), 3, smooth=False).double().eval()
        certified_constants(Risk(rough, risk.images, risk.labels, penalty=10.0), 1.0)
    with pytest.raises(TypeError, match="Softplus"):
        risk = risk_of(10.0)
        steep = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softplus(beta=2)).double().eval()
        certified_constants(Risk(steep, risk.images, risk.labels, penalty=10.0), 1.0)
    with pytest.raises(ValueError, match="certified strong concavity needs one above"):
        certified_constants(risk_of(0.01), 1.0)
    with pytest.raises(ValueError, match="neither clamp nor stamped"):
        risk = risk_of(10.0)
        certified_constants(Risk(risk.model, risk.images, risk.labels, 10.0, clamp=True), 1.0)


def test_the_named_penalty_is_enough():
    """The refusal names the smallest penalty: a little more is accepted."""
    with pytest.raises(ValueError) as refused:
        certified_constants(risk_of(0.01), 1.0)
    needed = float(str(refused.value).split("above ")[1].split(" ")[0])
    assert 0 < certified_constants(risk_of(1.001 * needed), 1.0).mu_H < 0.01 * needed


# --- sampled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moving, different", [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0)])
def test_sampled_constants_agree_with_the_exact_ones_on_a_quadratic(moving, different):
    problem, theta = quadratic(20.0, moving=moving, different=different)
    best = problem.solution(theta)
    delta = best + 0.1 * draw(12) / draw(12).norm()
    exact = problem.constants(theta, delta)
    outer = problem.outer if different else problem.inner
    seen = sampled_constants(problem.inner, outer, best, delta, theta, steps=12)
    assert seen.kind == "sampled"
    for name in ("mu_H", "L_H", "eta_1", "M"):
        assert math.isclose(getattr(seen, name), getattr(exact, name), rel_tol=1e-8, abs_tol=1e-12)
    for name in ("eta_2", "L_21"):  # random points lie off the segment
        assert 0.999 <= getattr(seen, name) / exact.eta_2 <= 1.05
    assert seen.rho_1 < 1e-8
    assert 0.3 * exact.rho_2 - 1e-9 <= seen.rho_2 <= exact.rho_2 * (1 + 1e-8) + 1e-9


def test_sampled_norms_are_those_of_the_dense_derivatives():
    risk = risk_of(3.0)
    theta, delta = theta_of(risk), 0.3 * draw(1, 2, 2)
    best = torch.zeros(1, 2, 2, dtype=F64)
    c = sampled_constants(risk, risk, best, delta, theta, points=0)
    dense = [derivatives(risk, d) for d in (best, delta)]
    values = torch.cat([torch.linalg.eigvalsh(-h) for h, *_ in dense])
    assert math.isclose(c.mu_H, float(values.min())) and math.isclose(c.L_H, float(values.max()))
    assert math.isclose(c.L_21, max(spectral(b) for _, b, *_ in dense))
    gap = float(delta.norm())
    assert math.isclose(c.rho_1, spectral(dense[1][0] - dense[0][0]) / gap, rel_tol=1e-6)
    assert math.isclose(c.rho_2, spectral(dense[1][1] - dense[0][1]) / gap, rel_tol=1e-6)
    assert math.isclose(mixed_norm(risk, delta, theta), spectral(dense[1][1]))


def test_sampled_constants_stay_below_certified_ones():
    risk = risk_of(200.0)
    theta, best = theta_of(risk), torch.zeros(1, 2, 2, dtype=F64)
    proved = certified_constants(risk, 0.5)
    seen = sampled_constants(risk, risk, best, 0.4 * draw(1, 2, 2) / draw(1, 2, 2).norm(), theta)
    assert proved.mu_H < seen.mu_H and seen.L_H < proved.L_H
    for name in NAMES:
        assert getattr(seen, name) < getattr(proved, name)


def test_sampled_constants_notice_where_H_is_not_concave():
    risk = risk_of(0.0)
    with pytest.raises(ValueError, match="strongly concave"):
        sampled_constants(
            risk, risk, torch.zeros(1, 2, 2, dtype=F64), draw(1, 2, 2), theta_of(risk)
        )
    with pytest.raises(ValueError, match="no segment"):
        sampled_constants(risk, risk, draw(1, 2, 2), draw(1, 2, 2), theta_of(risk))
