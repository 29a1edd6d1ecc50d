"""The five supplements to Theorem 1: each statement against an independent computation."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ibau_lite.theory.active_constraint import (
    SphereConstants,
    arc,
    tangent_spectrum,
    trust_region,
)
from ibau_lite.theory.neumann import filter_factor, recovered
from ibau_lite.theory.quadratic import quadratic

from ibau_lite.hypergrad import ascent_step, hypergradient, spectrum
from ibau_lite.minimax import Risk
from ibau_lite.models import mlp
from ibau_lite.sets import Sphere
from ibau_lite.solvers import MINRES, ConjugateGradient, FixedPoint, SolverWarning

F64 = torch.float64
quick = settings(deadline=None, max_examples=60)
EXACT = ConjugateGradient(max_iter=200, tol=1e-13)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    v = draw(*shape, seed=seed)
    return v / v.norm()


def norm(parts: dict) -> float:
    return float(torch.stack([p.norm() for p in parts.values()]).norm())


def gap(h, truth: dict) -> float:
    return norm({name: h.total[name] - truth[name] for name in truth})


def slope(x: list[float], y: list[float]) -> float:
    return math.log(y[0] / y[-1]) / math.log(x[0] / x[-1])


def images(count: int = 12, seed: int = 0, smooth: bool = True, **settings) -> Risk:
    network = mlp(4, (6,), 3, smooth=smooth, seed=seed).double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    labels = torch.arange(count) % 3
    return Risk(network, draw(count, 1, 2, 2, seed=seed), labels, **settings)


def theta_of(risk: Risk) -> dict:
    return {name: p.detach() for name, p in risk.model.named_parameters()}


def maximise(inner, theta: dict, start: torch.Tensor) -> torch.Tensor:
    """Newton's method, dense, in plain autograd."""
    d = start
    for _ in range(30):
        slope = torch.func.grad(inner)(d, theta)
        hessian = torch.func.hessian(inner)(d, theta).reshape(d.numel(), -1)
        d = d - torch.linalg.solve(hessian, slope.reshape(-1)).reshape(d.shape)
    assert slope.norm() < 1e-12 and torch.linalg.eigvalsh(hessian)[-1] < 0
    return d


# --- Danskin -------------------------------------------------------------------------------------


def test_danskin_by_brute_force_over_a_grid_of_deltas():
    """ψ(θ) = max over a grid, differentiated by differences: no calculus in δ at all."""
    risk = images()
    grid = [1.5 * v / v.norm() * r for v in draw(400, 1, 2, 2) for r in (0.3, 1.0)]
    theta = theta_of(risk)

    def psi(t):
        return torch.stack([risk(d, t) for d in grid]).max(0)

    best = grid[int(psi(theta).indices)]
    direct = hypergradient(risk, risk, best, theta, solver=None).total
    direction = {name: draw(*p.shape, seed=5) for name, p in theta.items()}
    h = 1e-6
    up, down = (
        float(psi({n: p + s * h * direction[n] for n, p in theta.items()}).values) for s in (1, -1)
    )
    expected = sum(float((direct[n] * direction[n]).sum()) for n in theta)
    assert math.isclose((up - down) / (2 * h), expected, rel_tol=1e-5)


def test_the_indirect_term_measures_the_inner_error():
    """Proposition prop-danskin-size: −B̃e to first order, zero at the maximum."""
    problem, theta = quadratic(10.0, moving=0.8)
    best, u = problem.solution(theta), unit(12)
    for distance in (0.0, 1e-3, 0.1, 1.0):
        delta = best + distance * u
        h = hypergradient(problem.inner, problem.inner, delta, theta, solver=EXACT)
        torch.testing.assert_close(
            h.indirect["theta"], -problem.mixed(delta) @ (distance * u), rtol=1e-8, atol=1e-11
        )


# --- the second-order law ------------------------------------------------------------------------


def test_the_law_is_an_equality_on_the_quadratic_and_its_constant_is_reached():
    problem, theta = quadratic(10.0, moving=0.8)
    best, truth = problem.solution(theta), problem.gradient(theta)
    top = torch.linalg.eigh(problem.Q).eigenvectors[:, -1]
    for e in (0.3 * unit(12), 0.3 * top):
        h = hypergradient(problem.inner, problem.inner, best + e, theta, solver=EXACT)
        expected = 0.5 * (e @ problem.Q @ e) * problem.a
        torch.testing.assert_close(h.total["theta"] - truth["theta"], expected)
    reached = gap(h, truth) / problem.constants(theta, best + e).second_order(0.3)
    assert math.isclose(reached, 1.0, rel_tol=1e-6)


def test_slopes_two_and_one_on_a_smooth_network():
    risk = images(penalty=12.0)
    theta = theta_of(risk)
    best = maximise(risk, theta, torch.zeros(1, 2, 2, dtype=F64))
    truth = hypergradient(risk, risk, best, theta, solver=None).total
    distances = [0.1 * 2**-k for k in range(6)]
    solvers = {"naive": None, "implicit": EXACT}
    errors = {
        name: [
            gap(hypergradient(risk, risk, best + r * unit(1, 2, 2), theta, solver=s), truth)
            for r in distances
        ]
        for name, s in solvers.items()
    }
    assert abs(slope(distances, errors["naive"]) - 1) < 0.05
    assert abs(slope(distances, errors["implicit"]) - 2) < 0.05


def test_a_jump_of_the_hessian_breaks_the_second_order_law():
    """Broken on purpose: ∇₁²H jumps halfway from δ(θ) to δ̃, as ELU's does: slope 1, not 2."""
    theta = {"t": torch.zeros(1, dtype=F64)}
    distances = [0.1 * 2**-k for k in range(5)]
    slopes = {}
    for jump in (0.0, 3.0):
        errors = []
        for e in distances:

            def inner(d, t, e=e, jump=jump):  # the maximiser at θ = 0 is 0, and ∇ψ = 0 there
                beyond = torch.where(d > 0.5 * e, (d - 0.5 * e) ** 2, 0 * d).sum()
                return -(d * d + d**3).sum() - jump * beyond + (t["t"] * d).sum()

            far = torch.tensor([e], dtype=F64)
            errors.append(norm(hypergradient(inner, inner, far, theta, solver=EXACT).total))
        slopes[jump] = slope(distances, errors)
    assert abs(slopes[0.0] - 2) < 0.1
    assert abs(slopes[3.0] - 1) < 0.1


def test_a_few_solver_steps_bend_the_slope_back_to_one():
    problem, theta = quadratic(10.0, moving=0.8)
    best, truth, u = problem.solution(theta), problem.gradient(theta), unit(12)
    few = ConjugateGradient(max_iter=6)
    distances = [1e3, 1e2, 1e-3, 1e-4]
    errors = [
        gap(hypergradient(problem.inner, problem.inner, best + r * u, theta, solver=few), truth)
        for r in distances
    ]
    assert abs(slope(distances[:2], errors[:2]) - 2) < 0.02
    assert abs(slope(distances[2:], errors[2:]) - 1) < 0.02


def test_solver_steps_are_ascent_steps_on_a_quadratic():
    """Proposition prop-equal-cost, to rounding; it breaks where B moves with δ."""
    for moving in (0.0, 0.5):
        problem, theta = quadratic(10.0, moving=moving)
        delta = start = problem.solution(theta) + unit(12)
        step = ascent_step(problem.inner, 0.12)
        trail = [start]
        for _ in range(9):
            delta = step(delta, theta).detach()
            trail.append(delta)
        few = FixedPoint(step=0.12 * 1.0, max_iter=4)
        implicit = hypergradient(problem.inner, problem.inner, trail[5], theta, solver=few).total
        naive = hypergradient(problem.inner, problem.inner, trail[9], theta, solver=None).total
        apart = float((implicit["theta"] - naive["theta"]).norm())
        assert (apart < 1e-12) == (moving == 0.0)


def test_the_indirect_term_is_a_correction_of_delta():
    """Proposition prop-correction for any w, with the exact ρ̂₂."""
    problem, theta = quadratic(10.0, moving=0.8)
    delta = problem.solution(theta) + unit(12)
    rho_2 = problem.constants(theta, delta).rho_2
    for steps in (1, 3, 12):
        solver = ConjugateGradient(max_iter=steps)
        h = hypergradient(problem.inner, problem.inner, delta, theta, solver=solver)
        w = h.solution.x
        moved = hypergradient(problem.inner, problem.inner, delta + w, theta, solver=None)
        apart = float((h.total["theta"] - moved.total["theta"]).norm())
        assert 0 < apart <= 0.5 * rho_2 * float(w.norm()) ** 2
    newton = -torch.linalg.solve(
        torch.func.hessian(problem.inner)(delta, theta),
        torch.func.grad(problem.inner)(delta, theta),
    )
    torch.testing.assert_close(w, newton)


# --- different objectives ------------------------------------------------------------------------


def at_the_maximum(stamped: float = 0.5):
    risk = images(penalty=12.0)
    theta = theta_of(risk)
    return risk, theta, maximise(risk, theta, torch.zeros(1, 2, 2, dtype=F64))


def indirect(outer, risk, best, theta) -> dict:
    return hypergradient(outer, risk, best, theta, solver=EXACT).indirect


def test_a_fraction_of_stamped_images_leaves_no_indirect_term_but_a_penalty_does():
    risk, theta, best = at_the_maximum()

    def fraction(d, t):
        return 0.9 * risk(0 * d, t) + 0.1 * risk(d, t)

    bare = Risk(risk.model, risk.images, risk.labels)
    assert norm(indirect(fraction, risk, best, theta)) < 1e-10
    assert norm(indirect(bare, risk, best, theta)) > 1e-3


def test_indirect_terms_of_a_partition_cancel_and_random_batches_have_the_stated_variance():
    risk, theta, best = at_the_maximum()
    parts = [risk.subset(torch.arange(k, 12, 3)) for k in range(3)]
    terms = [indirect(part, risk, best, theta) for part in parts]
    total = {name: sum(term[name] for term in terms) for name in theta}
    assert min(norm(term) for term in terms) > 1e-3
    assert norm(total) < 1e-10

    slopes = torch.stack(
        [torch.func.grad(risk.subset([i]))(best, theta).reshape(-1) for i in range(12)]
    )
    assert slopes.sum(0).norm() < 1e-11
    variance = float(slopes.square().sum(1).mean())
    for m in (1, 4, 12):
        sets = torch.tensor(list(itertools.combinations(range(12), m)))
        seen = float(slopes[sets].mean(1).square().sum(1).mean())  # over every set: exact
        assert math.isclose(seen, (12 - m) / 11 * variance / m, rel_tol=1e-9, abs_tol=1e-20)


def test_what_the_direct_term_misses_lies_between_the_two_bounds():
    problem, theta = quadratic(10.0, moving=0.3, different=2.0)
    best, truth = problem.solution(theta), problem.gradient(theta)
    missed = gap(hypergradient(problem.outer, problem.inner, best, theta, solver=None), truth)
    c = problem.constants(theta, best)
    # p < d: B has a kernel, and the lower bound is zero; the upper one holds
    assert 0 < missed <= c.L_21 * c.M / c.mu_H
    tall, theta = quadratic(10.0, d=4, p=9, moving=0.3, different=2.0)
    best, truth = tall.solution(theta), tall.gradient(theta)
    missed = gap(hypergradient(tall.outer, tall.inner, best, theta, solver=None), truth)
    c = tall.constants(theta, best)
    smallest = float(torch.linalg.svdvals(tall.mixed(best))[-1])
    assert 0 < smallest / c.L_H * c.M <= missed <= c.L_21 * c.M / c.mu_H


def test_naive_bound_away_from_the_maximum():
    problem, theta = quadratic(5.0, moving=0.3, different=2.0)
    best, truth = problem.solution(theta), problem.gradient(theta)
    for distance in (0.0, 0.1, 1.0):
        delta = best + distance * unit(12)
        h = hypergradient(problem.outer, problem.inner, delta, theta, solver=None)
        c = problem.constants(theta, delta)
        assert 0.02 * c.naive(distance) < gap(h, truth) <= c.naive(distance)


# --- the Neumann series --------------------------------------------------------------------------


@quick
@given(
    st.lists(st.floats(-5, 30), min_size=1, max_size=5),
    st.floats(0.01, 0.5),
    st.integers(0, 12),
    st.floats(0, 3),
)
def test_filter_factor_is_what_the_iteration_returns(eigenvalues, step, steps, damping):
    values = torch.tensor(eigenvalues, dtype=F64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solve = FixedPoint(step=step, max_iter=steps, damping=damping, compute_residual=False)
        ours = solve(lambda v: values * v, torch.ones_like(values)).x
    factors = filter_factor(values, step=step, steps=steps, damping=damping)
    scale = float(1 + (1 + step * (values + damping).abs().max()) ** steps)
    torch.testing.assert_close(ours, factors, rtol=1e-8, atol=1e-10 * scale)


@quick
@given(st.floats(1e-9, 1.0), st.integers(1, 40))
def test_short_series_do_not_hear_the_hessian(alpha_lambda, steps):
    """Part 3 of prop-neumann, and exactness where αλ is tiny."""
    factor = float(filter_factor(torch.tensor([alpha_lambda]), step=1.0, steps=steps))
    lower = steps * (1 - (steps - 1) / 2 * alpha_lambda)
    assert lower - 1e-9 * steps <= factor <= steps * (1 + 1e-12)


def test_where_the_series_converges():
    inside, outside = torch.tensor([0.1, 5.0, 19.9]), torch.tensor([-0.1, 20.1, 25.0])
    torch.testing.assert_close(
        recovered(inside, step=0.1, steps=5000), torch.ones(3, dtype=F64), rtol=1e-6, atol=0
    )
    assert (recovered(outside, step=0.1, steps=5000) - 1).abs().min() > 1e3
    factors = filter_factor(torch.tensor([-2.0, 0.0]), step=0.1, steps=5)
    assert math.isclose(float(factors[0]), (1.2**5 - 1) / 2) and math.isclose(factors[1], 0.5)
    with pytest.raises(ValueError, match="step = 0"):
        filter_factor(inside, step=0.0, steps=1)


# --- networks of linear pieces -------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [False, True])
def test_relu_networks_have_no_negative_curvature_and_softplus_ones_do(smooth):
    """Proposition prop-relu at random points; the same network with softplus bends both ways."""
    lowest = []
    for seed in range(4):
        risk, delta = images(seed=seed, smooth=smooth), 2.0 * draw(1, 2, 2, seed=seed)
        theta = theta_of(risk)
        dense = torch.func.hessian(lambda d, r=risk, t=theta: r(d, t))(delta).reshape(4, 4)
        lowest.append(float(torch.linalg.eigvalsh(dense)[0]))
        seen = spectrum(risk, delta, theta, steps=4).minimum
        assert math.isclose(seen, lowest[-1], abs_tol=1e-9)
    assert min(lowest) < -1e-2 if smooth else min(lowest) > -1e-12


def test_ties_that_last_are_no_kinks():
    """A pooling window of zeros behind ReLU ties at every δ nearby: H is convex all the same."""
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(12, 3),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    risk = Risk(network, draw(8, 1, 4, 4), torch.arange(8) % 3)
    delta, theta = 0.5 * draw(1, 4, 4, seed=1), theta_of(risk)
    hidden = network[1](network[0](risk.images + delta))
    windows = torch.nn.functional.unfold(hidden.reshape(-1, 1, 4, 4), 2, stride=2)
    assert bool((windows == 0).all(1).any())  # some image ties
    dense = torch.func.hessian(lambda d: risk(d, theta))(delta).reshape(16, 16)
    values = torch.linalg.eigvalsh(dense)
    assert float(values[0]) > -1e-12 and float(values[-1]) > 1e-3
    step = 1e-4 * unit(1, 4, 4, seed=2)
    between = risk(delta, theta) <= 0.5 * risk(delta + step, theta) + 0.5 * risk(
        delta - step, theta
    )
    assert bool(between)


def test_a_kink_can_be_a_hilltop():
    """ln(1 + exp(-|δ|)) is the loss of a network of linear pieces with a maximum at 0."""
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)
    ).double()
    with torch.no_grad():
        for p, v in zip(
            network.parameters(), ([[1.0], [-1.0]], [0, 0], [[-1, -1], [0, 0]], [0, 0])
        ):
            p.copy_(torch.tensor(v, dtype=F64))
    risk = Risk(network.eval(), torch.zeros(1, 1, 1, 1), torch.tensor([1]))
    points = [torch.full((1, 1, 1), d, dtype=F64) for d in (-0.1, 0.0, 0.1)]
    values = [float(risk(d, {}).detach()) for d in points]
    assert math.isclose(values[1], math.log(2)) and values[0] < values[1] > values[2]
    # and yet the curvature beside it is positive
    beside = torch.full((1, 1, 1), 0.1, dtype=F64)
    assert float(torch.func.hessian(lambda d: risk(d, {}))(beside).detach()) > 0


# --- the sphere ----------------------------------------------------------------------------------


class OnSphere:
    """H = ½δᵀQδ + δᵀ(c + Cθ), convex or not; the maximiser on the ball by bisection."""

    def __init__(self, d: int = 7, p: int = 4, radius: float = 1.5, seed: int = 0, tilt: float = 0):
        root = draw(d, d, seed=seed)
        self.Q, self.C = 0.5 * (root + root.T), draw(d, p, seed=seed + 1)
        self.c, self.radius = 3 * draw(d, seed=seed + 2), radius
        self.theta = {"t": draw(p, seed=seed + 3)}
        self.b = tilt * unit(d, seed=seed + 4)

    def inner(self, d, t):
        return 0.5 * d @ self.Q @ d + d @ (self.c + self.C @ t["t"])

    def outer(self, d, t):
        return self.inner(d, t) + self.b @ d

    def solve(self, theta):
        return trust_region(self.Q, self.c + self.C @ theta["t"], self.radius)

    def away(self, length: float, seed: int = 9) -> torch.Tensor:
        best = self.solve(self.theta)[0]
        x = draw(len(best), seed=seed)
        x = x - (x @ best) / (best @ best) * best
        angle = length / self.radius
        return math.cos(angle) * best + math.sin(angle) * self.radius * x / x.norm()

    def psi(self, theta):
        return float(self.outer(self.solve(theta)[0], theta))

    def truth(self) -> dict:
        h, t = 1e-5, self.theta["t"]
        columns = []
        for i in range(len(t)):
            step = torch.zeros_like(t)
            step[i] = h
            columns.append((self.psi({"t": t + step}) - self.psi({"t": t - step})) / (2 * h))
        return {"t": torch.tensor(columns, dtype=F64)}

    def constants(self, delta) -> SphereConstants:
        best, multiplier = self.solve(self.theta)
        low = []
        for point in (best, delta):
            P = torch.eye(len(best)).double() - torch.outer(point, point) / self.radius**2
            slope = self.Q @ point + self.c + self.C @ self.theta["t"]
            here = float(slope @ point) / self.radius**2
            M = P @ (here * torch.eye(len(best)).double() - self.Q) @ P
            low.append(float(torch.linalg.eigvalsh(M + 1e6 * (torch.eye(len(best)) - P))[0]))
        L = float(torch.linalg.matrix_norm(self.Q, 2))
        L_21 = float(torch.linalg.matrix_norm(self.C, 2))
        g = multiplier * best + self.b
        tangential = g - (g @ best) / self.radius**2 * best
        return SphereConstants(
            mu_S=min(low), L_H=L, eta_1=L, eta_2=L_21, rho_1=0.0, rho_2=0.0, L_21=L_21,
            M_T=float(tangential.norm()) if self.b.norm() > 0 else 0.0, G=float(g.norm()),
            multiplier=multiplier, radius=self.radius, kind="exact",
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_trust_region_is_the_maximum_over_the_ball(seed):
    m = OnSphere(seed=seed)
    best, multiplier = m.solve(m.theta)
    slope = torch.func.grad(m.inner)(best, m.theta)
    torch.testing.assert_close(slope, multiplier * best)
    assert multiplier > max(0.0, float(torch.linalg.eigvalsh(m.Q)[-1]))
    points = draw(2000, 7, seed=seed + 50)
    points = m.radius * points / points.norm(dim=1, keepdim=True)
    points = torch.cat([points, 0.7 * points, best + 0.05 * draw(500, 7)])
    points = points[points.norm(dim=1) <= m.radius]
    highest = max(float(m.inner(z, m.theta)) for z in points)
    assert highest < float(m.inner(best, m.theta))
    with pytest.raises(ValueError, match="inside"):
        trust_region(-torch.eye(3).double(), 0.1 * unit(3), 1.0)


@pytest.mark.parametrize("tilt", [0.0, 1.0])
def test_hypergradient_on_the_sphere_is_the_derivative_of_psi(tilt):
    m = OnSphere(tilt=tilt)
    best, _ = m.solve(m.theta)
    h = hypergradient(m.outer, m.inner, best, m.theta, solver=EXACT, constraint=Sphere())
    torch.testing.assert_close(h.total["t"], m.truth()["t"], rtol=1e-6, atol=1e-6)
    assert (norm(h.indirect) < 1e-9) == (tilt == 0.0)  # Danskin on the sphere


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tilt", [0.0, 1.0])
def test_measured_error_on_the_sphere_is_under_the_bound(seed, tilt):
    m = OnSphere(seed=seed, tilt=tilt)
    best, _ = m.solve(m.theta)
    truth = hypergradient(m.outer, m.inner, best, m.theta, solver=EXACT, constraint=Sphere()).total
    for length in (0.01, 0.1, 0.5):
        delta = m.away(length)
        c = m.constants(delta)
        for steps in (2, 20):
            solver = MINRES(max_iter=steps)
            h = hypergradient(m.outer, m.inner, delta, m.theta, solver=solver, constraint=Sphere())
            exact = hypergradient(
                m.outer, m.inner, delta, m.theta, solver=EXACT, constraint=Sphere()
            )
            left = float((h.solution.x - exact.solution.x).norm())
            distance = float((delta - best).norm())
            assert gap(h, truth) <= c.bound(distance, left)
        assert gap(exact, truth) > 1e-4 * c.bound(distance)


def test_second_order_law_on_the_sphere():
    m = OnSphere()
    best, _ = m.solve(m.theta)
    truth = hypergradient(m.inner, m.inner, best, m.theta, solver=None).total
    lengths = [0.4 / 2**k for k in range(6)]
    errors = {"naive": [], "implicit": []}
    for length in lengths:
        delta = m.away(length)
        assert math.isclose(arc(delta, best), length, rel_tol=1e-9)
        c = m.constants(delta)
        slopes = []
        for part in torch.linspace(0, 1, 9):
            z = m.away(float(part) * length)
            a = torch.func.grad(m.inner)(z, m.theta)
            slopes.append(float((a - (a @ z) / (z @ z) * z).norm()))
        naive = hypergradient(m.inner, m.inner, delta, m.theta, solver=None)
        exact = hypergradient(m.inner, m.inner, delta, m.theta, solver=EXACT, constraint=Sphere())
        errors["naive"].append(gap(naive, truth))
        errors["implicit"].append(gap(exact, truth))
        assert errors["naive"][-1] <= c.L_21 * length
        assert errors["implicit"][-1] <= c.second_order(length, max(slopes))
        assert slopes[-1] >= c.mu_S * length * (1 - 1e-9)  # what a program sees
    assert abs(slope(lengths, errors["naive"]) - 1) < 0.1
    assert abs(slope(lengths, errors["implicit"]) - 2) < 0.1


class CubicOnSphere:
    """H with a cubic part in δ and a mixed one that moves, and a maximiser `best` by construction.

    The tests above have constant Hessians; here ρ̂₁ and ρ̂₂ are at work. All derivatives in closed
    form, at θ = 0.
    """

    def __init__(self, seed: int, d: int = 3, p: int = 2) -> None:
        self.radius = (0.3, 1.0, 4.0)[seed % 3]
        Q, T, D = draw(d, d, seed=seed), draw(d, d, d, seed=seed + 1), draw(p, d, d, seed=seed + 2)
        self.Q = 0.5 * (Q + Q.T)
        self.T = sum(T.permute(order) for order in itertools.permutations(range(3))) / 6
        self.T, self.D = self.T / self.radius, 0.5 * (D + D.transpose(1, 2)) / self.radius
        self.C = draw(p, d, seed=seed + 3)
        self.best = self.radius * unit(d, seed=seed + 4)
        self.multiplier = 4.0 + float(torch.linalg.matrix_norm(self.A(self.best), 2))
        self.c = self.multiplier * self.best - self.slope(self.best)  # now ∇₁H = λδ at `best`

    def A(self, x):
        return self.Q + torch.einsum("ijk,k->ij", self.T, x)

    def B(self, x):
        return self.C + torch.einsum("pij,j->pi", self.D, x)

    def slope(self, x):
        return getattr(self, "c", 0) + self.Q @ x + 0.5 * torch.einsum("ijk,j,k->i", self.T, x, x)

    def inner(self, d, t):
        cubic = torch.einsum("ijk,i,j,k->", self.T, d, d, d) / 6
        mixed = t["t"] @ (self.C @ d + 0.5 * torch.einsum("pij,i,j->p", self.D, d, d))
        return self.c @ d + 0.5 * d @ self.Q @ d + cubic + mixed

    def lowest(self, x) -> float:
        P = torch.eye(len(x), dtype=F64) - torch.outer(x, x) / self.radius**2
        multiplier = float(self.slope(x) @ x) / self.radius**2
        M = P @ (multiplier * torch.eye(len(x), dtype=F64) - self.A(x)) @ P
        return float(torch.linalg.eigvalsh(M + 1e6 * (torch.eye(len(x), dtype=F64) - P))[0])

    def arc(self, angle: float, points: int = 21) -> tuple[list, list]:
        """Points of a great circle from `best`, and its unit tangents there."""
        u = draw(len(self.best), seed=77)
        u = u - (u @ self.best) / self.radius**2 * self.best
        u = u / u.norm()
        turns = torch.linspace(0, angle, points, dtype=F64)
        at = [t.cos() * self.best + t.sin() * self.radius * u for t in turns]
        return at, [t.cos() * u - t.sin() * self.best / self.radius for t in turns]

    def constants(self, angle: float) -> tuple[SphereConstants, float]:
        """For F = H along the arc, and τ."""

        def norm_of(matrix):
            return float(torch.linalg.matrix_norm(matrix, 2))

        at, tangents = self.arc(angle)
        slopes = [self.slope(x) for x in at]
        tau = max(
            float((g - (g @ x) / self.radius**2 * x).norm())
            for x, g in zip(at, slopes, strict=True)
        )
        c = SphereConstants(
            mu_S=min(self.lowest(at[0]), self.lowest(at[-1])),
            L_H=max(norm_of(self.A(x)) for x in at), eta_1=max(norm_of(self.A(x)) for x in at),
            eta_2=max(norm_of(self.B(x)) for x in at), L_21=max(norm_of(self.B(x)) for x in at),
            rho_1=max(norm_of(torch.einsum("ijk,k->ij", self.T, u)) for u in tangents),
            rho_2=max(norm_of(torch.einsum("pij,j->pi", self.D, u)) for u in tangents),
            M_T=0.0, G=self.multiplier * self.radius, multiplier=self.multiplier,
            radius=self.radius, kind="exact",
        )  # fmt: skip
        return c, tau


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 500), st.sampled_from([0.01, 0.1, 0.5]))
def test_both_laws_on_the_sphere_where_the_hessians_move(seed, angle):
    m = CubicOnSphere(seed)
    theta = {"t": torch.zeros(2, dtype=F64)}
    c, tau = m.constants(angle)
    delta = m.arc(angle)[0][-1]
    torch.testing.assert_close(torch.func.grad(m.inner)(delta, theta), m.slope(delta))
    truth = hypergradient(m.inner, m.inner, m.best, theta, solver=None).total
    h = hypergradient(m.inner, m.inner, delta, theta, solver=EXACT, constraint=Sphere())
    error = gap(h, truth)
    assert error <= c.bound(float((delta - m.best).norm()))
    assert error <= c.second_order(arc(delta, m.best), tau)

    b = unit(3, seed=seed + 9)  # F = ⟨b, δ⟩ is another objective: the terms with M_T and ρ̂_S
    tangential = float((b - (b @ m.best) / m.radius**2 * m.best).norm())
    c = dataclasses.replace(c, eta_1=0.0, eta_2=0.0, M_T=tangential, G=1.0)
    far, true = (
        hypergradient(
            lambda d, t: b @ d + 0 * t["t"].sum(),
            m.inner, x, theta, solver=EXACT, constraint=Sphere(),
        ).total["t"]
        for x in (delta, m.best)
    )  # fmt: skip
    assert float((far - true).norm()) <= c.bound(float((delta - m.best).norm()))


def test_a_penalty_changes_nothing_on_the_sphere():
    """Remark rem-kkt-shift."""
    m = OnSphere(tilt=1.0)
    delta = m.away(0.3)

    def shifted(d, t):
        return m.inner(d, t) - 3.0 * (d * d).sum()

    one, two = (
        hypergradient(m.outer, f, delta, m.theta, solver=EXACT, constraint=Sphere())
        for f in (m.inner, shifted)
    )
    torch.testing.assert_close(one.total["t"], two.total["t"])


def test_the_operator_on_the_tangent_space():
    m = OnSphere()
    best, multiplier = m.solve(m.theta)
    here, ritz = tangent_spectrum(m.inner, best, m.theta, steps=10)
    assert math.isclose(here, multiplier, rel_tol=1e-9)
    basis = torch.linalg.qr(torch.cat([best[:, None], draw(7, 6)], 1))[0][:, 1:]
    dense = torch.linalg.eigvalsh(basis.T @ (multiplier * torch.eye(7).double() - m.Q) @ basis)
    assert len(ritz.values) <= 6
    torch.testing.assert_close(ritz.values[[0, -1]], dense[[0, -1]])
    assert float(dense[0]) > multiplier - float(torch.linalg.eigvalsh(m.Q)[-1]) > 0


def test_a_minimum_on_the_sphere_is_refused():
    """Broken on purpose: at the worst point of the sphere M is negative."""
    m = OnSphere()
    low, multiplier = trust_region(-m.Q, -(m.c + m.C @ m.theta["t"]), m.radius)
    here, ritz = tangent_spectrum(m.inner, low, m.theta)
    assert math.isclose(here, -multiplier, rel_tol=1e-9) and float(ritz.values[-1]) < 0
    with pytest.raises(ValueError, match="mu_S"):
        SphereConstants(
            float(ritz.values[0]), 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, here, m.radius, "exact"
        )


@quick
@given(
    st.sampled_from(["L_H", "eta_1", "eta_2", "rho_1", "rho_2", "L_21", "M_T", "G"]),
    st.floats(1, 20),
    st.floats(0, 5),
)
def test_the_bound_on_the_sphere_grows_and_ends_at_theorem_1(name, factor, distance):
    values = {
        "mu_S": 0.7, "L_H": 2.0, "eta_1": 1.9, "eta_2": 0.4, "rho_1": 0.3, "rho_2": 0.2,
        "L_21": 1.1, "M_T": 0.6, "G": 0.9, "multiplier": 0.5, "radius": 2.0, "kind": "exact",
    }  # fmt: skip
    c = SphereConstants(**values)
    assert SphereConstants(**{**values, name: factor * values[name]}).bound(distance) >= c.bound(
        distance
    )
    wide = SphereConstants(**{**values, "radius": 1e12})
    flat = 0.4 + (1.9 * 1.1) / 0.7 + 0.2 * 0.6 / 0.7 + 0.3 * 1.1 * 0.6 / 0.7**2
    assert math.isclose(wide.stability, flat, rel_tol=1e-9) and c.stability > flat
