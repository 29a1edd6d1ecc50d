"""Theorem 1: its constants against closed forms, its bound against measured errors (float64)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ibau_lite.theory.convergence import (
    Constants,
    ascent_factor,
    contraction,
    damped,
    optimal_step,
    solver_factor,
)
from ibau_lite.theory.quadratic import Quadratic, quadratic

from ibau_lite.hypergrad import ascent_step, hypergradient
from ibau_lite.solvers import ConjugateGradient, FixedPoint

quick = settings(deadline=None, max_examples=60)
SIZES = st.floats(1e-3, 1e3)
KAPPAS = st.floats(1.0, 1e4)
METHODS = ["fixed_point", "conjugate_gradient"]


def constants(**changes: float) -> Constants:
    values = {"mu_H": 1.0, "L_H": 3.0, "eta_1": 2.0, "eta_2": 0.5, "rho_1": 0.7, "rho_2": 0.3}
    return Constants(**{**values, "L_21": 1.5, "M": 0.4, "kind": "exact", **changes})


def matrix(kappa: float, d: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return rotation * torch.linspace(1, kappa, d, dtype=torch.float64) @ rotation.T


def vector(d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d, generator=generator, dtype=torch.float64)


def away(problem: Quadratic, theta: dict, distance: float, seed: int = 3) -> torch.Tensor:
    best = problem.solution(theta)
    step = vector(len(best), seed)
    return best + distance * step / step.norm()


def solver(name: str, c: Constants, steps: int, damping: float = 0.0):
    if name == "fixed_point":
        step = optimal_step(c.mu_H + damping, c.L_H + damping)
        return FixedPoint(step=step, max_iter=steps, damping=damping)
    return ConjugateGradient(max_iter=steps, damping=damping)


def measured(problem: Quadratic, theta: dict, delta: torch.Tensor, solve) -> float:
    h = hypergradient(problem.outer, problem.inner, delta, theta, solver=solve)
    return float((h.total["theta"] - problem.gradient(theta)["theta"]).norm())


def solution_size(problem: Quadratic, theta: dict, delta: torch.Tensor) -> float:
    g = torch.func.grad(problem.outer)(delta, theta)
    return float(torch.linalg.solve(problem.scale(theta) * problem.Q, g).norm())


# --- the quadratic is what it says ---------------------------------------------------------------


@pytest.mark.parametrize("moving, different", [(0.0, 0.0), (0.6, 0.0), (0.6, 1.0)])
def test_quadratic_solution_gradient_and_mixed_derivative_by_autograd(moving, different):
    problem, theta = quadratic(10.0, moving=moving, different=different)
    best = problem.solution(theta)
    assert torch.func.grad(problem.inner)(best, theta).norm() < 1e-12

    psi = torch.func.grad(lambda t: problem.outer(problem.solution({"theta": t}), {"theta": t}))
    torch.testing.assert_close(psi(theta["theta"]), problem.gradient(theta)["theta"])

    delta = away(problem, theta, 0.7)
    theta_gradient = torch.func.grad(problem.inner, argnums=1)
    mixed = torch.func.jacrev(lambda d: theta_gradient(d, theta)["theta"])(delta)
    torch.testing.assert_close(mixed, problem.mixed(delta))


def test_quadratic_constants_are_attained_on_the_segment():
    """Exact means: no smaller number would do, and these do."""
    problem, theta = quadratic(10.0, moving=0.6, different=1.0)
    best, delta = problem.solution(theta), away(problem, theta, 0.7)
    c = problem.constants(theta, delta)
    hessian = torch.func.hessian(problem.inner)(delta, theta)
    spectrum = torch.linalg.eigvalsh(-hessian)
    assert math.isclose(c.mu_H, float(spectrum[0])) and math.isclose(c.L_H, float(spectrum[-1]))
    assert math.isclose(c.kappa, 10.0, rel_tol=1e-9)
    assert math.isclose(c.M, float(torch.func.grad(problem.outer)(best, theta).norm()))
    assert math.isclose(c.L_21, float(torch.linalg.svdvals(problem.mixed(delta))[0]))
    on_segment = [problem.mixed(best + s * (delta - best)) for s in torch.linspace(0, 1, 11)]
    largest = max(float(torch.linalg.svdvals(b)[0]) for b in on_segment)
    assert math.isclose(c.eta_2, largest)
    top = torch.linalg.eigh(problem.Q).eigenvectors[:, -1]
    change = torch.linalg.svdvals(problem.mixed(best + top) - problem.mixed(best))[0]
    assert math.isclose(c.rho_2, float(change))


def test_quadratic_refuses_what_is_no_problem():
    problem, theta = quadratic(4.0)
    with pytest.raises(ValueError, match="expected kappa >= 1"):
        quadratic(0.5)
    with pytest.raises(ValueError, match="shapes"):
        Quadratic(problem.Q, problem.C.T, problem.a, problem.b)
    convex = {"theta": -3 * torch.ones(5, dtype=torch.float64)}
    bent, _ = quadratic(4.0, moving=1.9)
    bent = Quadratic(bent.Q, bent.C, bent.a.abs(), bent.b)
    with pytest.raises(ValueError, match="0 < mu_H"):
        bent.constants(convex, problem.solution(theta))


# --- the theorem against measured errors ---------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kappa", [1.0, 4.0, 100.0])
@pytest.mark.parametrize("moving, different", [(0.0, 0.0), (0.5, 0.0), (0.5, 2.0)])
def test_measured_error_is_under_the_bound_over_T_K_and_damping(name, kappa, moving, different):
    problem, theta = quadratic(kappa, moving=moving, different=different)
    best, start = problem.solution(theta), away(problem, theta, 1.0)
    c = problem.constants(theta, start)
    step = ascent_step(problem.inner, optimal_step(c.mu_H, c.L_H))
    delta, reached = start, 0
    for T in (0, 3, 12):
        while reached < T:
            delta, reached = step(delta, theta).detach(), reached + 1
        promised = ascent_factor(c, T) * float((start - best).norm())
        assert float((delta - best).norm()) <= promised * (1 + 1e-9) + 1e-14
        here = problem.constants(theta, delta)
        size = solution_size(problem, theta, delta)
        for K in (0, 1, 4, 9):
            for damping in (0.0, 0.5):
                kappa_m, bias = damped(c.mu_H, c.L_H, damping)
                left = (solver_factor(kappa_m, K, name) + bias) * size
                error = measured(problem, theta, delta, solver(name, c, K, damping))
                assert error <= here.bound(promised, left) * (1 + 1e-9) + 1e-12


def test_bound_from_what_a_program_sees():
    problem, theta = quadratic(30.0, moving=0.5, different=1.0)
    delta = away(problem, theta, 0.3)
    c = problem.constants(theta, delta)
    h = hypergradient(
        problem.outer, problem.inner, delta, theta, solver=solver("conjugate_gradient", c, 3)
    )
    g = torch.func.grad(problem.outer)(delta, theta)
    residual = float(h.residual * g.norm())
    steep = float(torch.func.grad(problem.inner)(delta, theta).norm())
    error = float((h.total["theta"] - problem.gradient(theta)["theta"]).norm())
    distance = float((delta - problem.solution(theta)).norm())
    assert error <= c.bound_seen(steep, residual)
    assert c.bound_seen(steep, residual) >= c.bound(distance)  # seeing less costs something


@quick
@given(st.floats(0.1, 10), SIZES, SIZES, SIZES, st.floats(0, 5), st.floats(1e-3, 2), SIZES)
def test_the_bound_is_attained_in_one_dimension(mu, eta_1, eta_2, rho_2, ell, e, M):
    """Proposition prop-thm1-sharp, by autograd."""

    def inner(d, t):
        return -0.5 * mu * d @ d + t["t"] @ (ell * d + 0.5 * rho_2 * d * d)

    def outer(d, t):
        return M * d.sum() + 0.5 * eta_1 * d @ d + eta_2 * (t["t"] * d).sum()

    theta = {"t": torch.zeros(1, dtype=torch.float64)}
    delta = torch.tensor([e], dtype=torch.float64)
    solve = ConjugateGradient(max_iter=1)
    far = hypergradient(outer, inner, delta, theta, solver=solve).total["t"]
    true = hypergradient(outer, inner, 0 * delta, theta, solver=solve).total["t"]
    c = constants(
        mu_H=mu, L_H=mu, eta_1=eta_1, eta_2=eta_2, rho_1=0.0, rho_2=rho_2, L_21=ell + rho_2 * e, M=M
    )
    assert math.isclose(float(far - true), c.bound(e), rel_tol=1e-6)


def test_the_term_of_rho_1_is_attained_to_first_order():
    """The end of proposition prop-thm1-sharp: bound/error → 1 as e → 0, from above."""
    mu, rho, ell, M = 0.7, 3.0, 1.3, 0.9
    ratios = []
    for e in (1e-1, 1e-2, 1e-3):

        def inner(d, t, e=e):
            concave = -0.5 * (mu + rho * e) * d @ d + rho / 6 * (d**3).sum()
            return concave + ell * (t["t"] * d).sum()

        def outer(d, t):
            return M * d.sum() + 0 * t["t"].sum()

        theta = {"t": torch.zeros(1, dtype=torch.float64)}
        delta = torch.tensor([e], dtype=torch.float64)
        solve = ConjugateGradient(max_iter=1)
        far = hypergradient(outer, inner, delta, theta, solver=solve).total["t"]
        true = hypergradient(outer, inner, 0 * delta, theta, solver=solve).total["t"]
        c = constants(
            mu_H=mu, L_H=mu + rho * e, eta_1=0.0, eta_2=0.0, rho_1=rho, rho_2=0.0, L_21=ell, M=M
        )
        ratios.append(c.bound(e) / float(far - true))
    assert 1 < ratios[2] < ratios[1] < ratios[0] and ratios[2] < 1.01


def test_without_strong_concavity_the_bound_is_refused_and_would_be_false():
    """Broken on purpose: an indefinite A. The formula with |λ| in place of μ_H is no bound."""
    with pytest.raises(ValueError, match="strongly concave"):
        constants(mu_H=-0.1)
    Q = torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))
    problem = Quadratic(Q, torch.eye(2).double(), torch.zeros(2).double(), torch.zeros(2).double())
    theta = {"theta": torch.ones(2, dtype=torch.float64)}
    saddle = problem.solution(theta)
    step = ascent_step(problem.inner, optimal_step(0.5, 1.0))
    delta = start = saddle + torch.tensor([0.0, 0.1], dtype=torch.float64)
    for _ in range(10):
        delta = step(delta, theta).detach()
    assert (delta - saddle).norm() > (start - saddle).norm()  # the ascent leaves the saddle
    pretended = contraction(0.5, 1.0) ** 10 * float((start - saddle).norm())
    assert float((delta - saddle).norm()) > 1e3 * pretended


def test_a_constant_that_is_too_small_is_found_out():
    """The check can fail: with L₂₁ and η₂ at a tenth the measured error is above the bound."""
    problem, theta = quadratic(1.0, different=0.0)
    delta = away(problem, theta, 1.0)
    c = problem.constants(theta, delta)
    naive = float(
        (
            hypergradient(problem.outer, problem.inner, delta, theta, solver=None).total["theta"]
            - problem.gradient(theta)["theta"]
        ).norm()
    )
    assert naive <= c.naive(1.0) * (1 + 1e-9)
    assert naive > constants(eta_2=0.1 * c.eta_2, L_21=0.1 * c.L_21, M=0.0).naive(1.0)


# --- rates ---------------------------------------------------------------------------------------


@quick
@given(st.floats(1, 100), st.integers(0, 25), st.integers(0, 5))
def test_solver_factors_hold_for_the_library_s_solvers(kappa, steps, seed):
    S, b = matrix(kappa, seed=seed), vector(8, seed + 100)
    x = torch.linalg.solve(S, b)
    solvers = {
        "fixed_point": FixedPoint(
            step=optimal_step(1, kappa), max_iter=steps, compute_residual=False
        ),
        "conjugate_gradient": ConjugateGradient(max_iter=steps),
    }
    for name, solve in solvers.items():
        left = (solve(lambda v: S @ v, b).x - x).norm() / x.norm()
        assert float(left) <= solver_factor(kappa, steps, name) * (1 + 1e-9) + 1e-12


def test_fixed_point_factor_is_attained_at_both_ends_of_the_spectrum():
    S = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    for b in S:
        x = torch.linalg.solve(S, b)
        answer = FixedPoint(step=optimal_step(1, 10), max_iter=7)(lambda v: S @ v, b).x
        left = float((answer - x).norm() / x.norm())
        assert math.isclose(left, solver_factor(10.0, 7, "fixed_point"), rel_tol=1e-9)


@quick
@given(SIZES, KAPPAS, st.floats(1e-3, 3))
def test_the_optimal_step_contracts_most(mu, kappa, relative):
    smooth = mu * kappa
    best = optimal_step(mu, smooth)
    q = contraction(mu, smooth)
    assert math.isclose(q, (kappa - 1) / (kappa + 1), rel_tol=1e-9, abs_tol=1e-12)
    assert contraction(mu, smooth, relative * best) >= q - 1e-12
    assert (contraction(mu, smooth, relative * best) < 1) == (relative * best < 2 / smooth)


@quick
@given(KAPPAS, st.integers(0, 200))
def test_factors_fall_with_steps_and_rise_with_the_condition_number(kappa, steps):
    for name in METHODS:
        here = solver_factor(kappa, steps, name)
        assert 0 <= here <= 1
        assert solver_factor(kappa, steps + 1, name) <= here + 1e-12
        assert solver_factor(1.5 * kappa, steps, name) >= here - 1e-12
    c = constants(L_H=kappa)
    assert math.isclose(ascent_factor(c, steps), solver_factor(kappa, steps, "fixed_point"))


def test_conjugate_gradients_need_the_root_of_the_steps():
    """Steps for 1e-8: about κ ln(1e8)/2 for the fixed point, √κ (ln(1e8) + ln 2√κ)/2 for CG."""
    for kappa in (1e2, 1e4):
        needed = {
            name: next(k for k in range(10**6) if solver_factor(kappa, k, name) <= 1e-8)
            for name in METHODS
        }
        assert math.isclose(needed["fixed_point"], kappa * math.log(1e8) / 2, rel_tol=0.05)
        expected = math.sqrt(kappa) * (math.log(1e8) + math.log(2 * math.sqrt(kappa))) / 2
        assert math.isclose(needed["conjugate_gradient"], expected, rel_tol=0.05)


@quick
@given(st.floats(1, 50), st.floats(0, 20), st.integers(0, 4))
def test_damping_bias_and_condition(kappa, damping, seed):
    S, b = matrix(kappa, seed=seed), vector(8, seed)
    x = torch.linalg.solve(S, b)
    shifted = S + damping * torch.eye(8).double()
    kappa_m, bias = damped(1.0, kappa, damping)
    assert math.isclose(float(torch.linalg.cond(shifted, 2)), kappa_m, rel_tol=1e-6)
    assert (torch.linalg.solve(shifted, b) - x).norm() <= bias * x.norm() * (1 + 1e-9) + 1e-12
    assert bias < 1 and kappa_m <= kappa + 1e-12


# --- properties of the bound ---------------------------------------------------------------------

NAMES = ["mu_H", "L_H", "eta_1", "eta_2", "rho_1", "rho_2", "L_21", "M"]


@quick
@given(st.sampled_from(NAMES), st.floats(1.0, 10.0), SIZES, SIZES)
def test_the_bound_grows_with_every_constant_but_concavity(name, factor, distance, error):
    before, after = (
        constants(),
        constants(**{name: factor * getattr(constants(), name)})
        if (name != "mu_H")
        else constants(mu_H=1 / factor),
    )
    assert after.bound(distance, error) >= before.bound(distance, error) * (1 - 1e-12)
    assert after.bound_seen(distance, error) >= before.bound_seen(distance, error) * (1 - 1e-12)
    assert after.naive(distance) >= before.naive(distance) * (1 - 1e-12)


@quick
@given(SIZES, SIZES, SIZES, SIZES)
def test_the_bound_scales_as_the_problem_does(unit, loss, distance, error):
    """δ in other units: δ = unit·δ'. Both objectives in other units: loss·H, loss·F."""
    c = constants()
    in_units = constants(
        mu_H=unit**2 * c.mu_H, L_H=unit**2 * c.L_H, eta_1=unit**2 * c.eta_1, eta_2=unit * c.eta_2,
        rho_1=unit**3 * c.rho_1, rho_2=unit**2 * c.rho_2, L_21=unit * c.L_21, M=unit * c.M,
    )  # fmt: skip
    here = c.bound(distance, error)
    assert math.isclose(in_units.bound(distance / unit, error / unit), here, rel_tol=1e-9)
    in_loss = constants(**{name: loss * getattr(c, name) for name in NAMES})
    assert math.isclose(in_loss.bound(distance, error), loss * here, rel_tol=1e-9)


def test_same_objective_needs_no_lipschitz_hessian():
    """Corollary cor-thm1-same: M = 0 removes ρ̂, even an infinite one."""
    c = constants(M=0.0, rho_1=math.inf, rho_2=math.inf)
    assert c.stability == 0.5 + 2.0 * 1.5
    assert constants(rho_1=math.inf).stability == math.inf


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: constants(mu_H=0.0), "strongly concave"),
        (lambda: constants(L_H=0.5), "0 < mu_H <= L_H"),
        (lambda: constants(L_H=math.nan), "0 < mu_H <= L_H"),
        (lambda: constants(rho_1=-1.0), "rho_1 = -1.0; expected a number >= 0"),
        (lambda: constants(M=math.nan), "M = nan"),
        (lambda: constants(kind="guessed"), "kind = 'guessed'"),
        (lambda: constants().bound(-1.0), "distance = -1.0"),
        (lambda: constants().bound_seen(1.0, -1.0), "residual = -1.0"),
        (lambda: constants().second_order(1.0), "the same"),
        (lambda: solver_factor(4.0, -1, "fixed_point"), "steps = -1"),
        (lambda: solver_factor(4.0, 1, "minres"), "method = 'minres'"),
        (lambda: solver_factor(0.5, 1, "fixed_point"), "expected 0 < mu <= L"),
        (lambda: contraction(1.0, 2.0, -1.0), "step = -1.0"),
        (lambda: damped(1.0, 2.0, -1.0), "damping = -1.0"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
