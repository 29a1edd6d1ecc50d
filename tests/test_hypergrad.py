"""Implicit differentiation against closed forms, finite differences and unrolling (float64)."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibau_lite.curvature import gauss_newton, spectrum
from ibau_lite.hypergrad import (
    SecondDerivatives,
    ascent_step,
    hypergradient,
    inverse_hvp,
    response_jacobian,
    response_jvp,
    response_vjp,
    unrolled_hypergradient,
)
from ibau_lite.sets import L1Ball, L2Ball, LinfBall, Sphere
from ibau_lite.solvers import (
    MINRES,
    ConjugateGradient,
    ConvergenceWarning,
    FixedPoint,
    NegativeCurvatureWarning,
    Solution,
    lanczos,
)
from ibau_lite.speed import DoubleBackward

EXACT = ConjugateGradient(max_iter=60, tol=1e-12)
D, P = 5, 4


def randn(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _no_silent_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # torch's own, about its vmap fallbacks and the like, is not ours to judge
        warnings.filterwarnings("default", module="torch")
        yield


def close(ours, expected, tol=1e-9):
    torch.testing.assert_close(ours, expected, rtol=tol, atol=tol)


class Quadratic:
    """inner = -½ δᵀQδ + tᵀCδ and a linear outer: everything is known in closed form."""

    def __init__(self, seed=0):
        root = randn(D, D, seed=seed)
        self.q = root @ root.T + torch.eye(D).double()
        self.c, self.slope = randn(P, D, seed=seed + 1), randn(D, seed=seed + 2)
        self.theta = {"t": randn(P, seed=seed + 3)}
        self.delta = torch.linalg.solve(self.q, self.c.T @ self.theta["t"])

    def inner(self, d, t):
        return -0.5 * d @ self.q @ d + t["t"] @ self.c @ d

    def outer(self, d, t):
        return self.slope @ d + (t["t"] ** 3).sum()


class Smooth:
    """A tiny smooth network; inner is strongly concave in δ, outer is another loss of both."""

    radius = 0.05  # of a ball that does not hold the interior maximiser

    def __init__(self, seed=0):
        self.x = randn(7, D, seed=seed)
        self.y = torch.arange(7) % 3
        self.theta = {"w": randn(3, D, seed=seed + 1), "b": randn(3, seed=seed + 2)}

    def logits(self, d, t):
        return torch.tanh((self.x + d) @ t["w"].T) + t["b"]

    def inner(self, d, t):
        loss = torch.nn.functional.cross_entropy(self.logits(d, t), self.y)
        return loss - (d * d).sum()

    def outer(self, d, t):
        return self.logits(d, t).square().mean() + (d.sin()).sum()

    def maximise(self, theta):
        """δ(θ) by Newton's method in plain autograd, independent of the library."""
        d = torch.zeros(D).double()
        for _ in range(6):
            slope = gradient(self.inner, d, theta)
            curvature = torch.autograd.functional.hessian(lambda v: self.inner(v, theta), d)
            d = d - torch.linalg.solve(curvature, slope)
        assert slope.norm() < 1e-12
        return d

    def maximise_on_sphere(self, theta, radius):
        return newton_on_sphere(self.inner, theta, radius, torch.ones(D).double())


def gradient(function, d, theta):
    return torch.autograd.functional.jacobian(lambda v: function(v, theta), d)


def newton_on_sphere(function, theta, radius, start):
    """The maximiser over ‖δ‖ = radius: projected ascent, then Newton on the KKT equations."""
    n, d = len(start), radius * start / start.norm()
    for _ in range(40):
        d = d + 0.05 * gradient(function, d, theta)
        d = radius * d / d.norm()
    multiplier = gradient(function, d, theta) @ d / radius**2
    for _ in range(5):
        kkt = torch.zeros(n + 1, n + 1).double()
        kkt[:n, :n] = torch.autograd.functional.hessian(lambda v: function(v, theta), d)
        kkt[:n, :n] -= multiplier * torch.eye(n).double()
        kkt[:n, n], kkt[n, :n] = -d, -d
        stationarity = gradient(function, d, theta) - multiplier * d
        miss = torch.cat([stationarity, ((radius**2 - d @ d) / 2).reshape(1)])
        step = torch.linalg.solve(kkt, -miss)
        d, multiplier = d + step[:n], multiplier + step[n]
    assert miss.norm() < 1e-12
    return d


def differences(function, theta, h=1e-5):
    """Central differences of θ -> function(θ) (any shape), one dict entry a parameter."""
    out = {}
    for name, p in theta.items():
        columns = []
        for i in range(p.numel()):
            step = torch.zeros_like(p).reshape(-1)
            step[i] = h
            step = step.reshape(p.shape)
            up, down = (function(theta | {name: p + s * step}) for s in (1, -1))
            columns.append((up - down) / (2 * h))
        stacked = torch.stack(columns, dim=-1)
        out[name] = stacked.reshape(*stacked.shape[:-1], *p.shape)
    return out


def with_value(function, d, theta):
    return torch.cat([d, function(d, theta).reshape(1)])


def both(functions, d, theta):
    return torch.stack([f(d, theta) for f in functions])


# --- the interior form --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sense", ["max", "min"])
def test_closed_form_on_a_quadratic(seed, sense):
    m = Quadratic(seed)
    s = 1 if sense == "max" else -1
    inner = lambda d, t: s * m.inner(d, t)  # noqa: E731
    h = hypergradient(m.outer, inner, m.delta, m.theta, solver=EXACT, sense=sense)
    indirect = m.c @ torch.linalg.solve(m.q, m.slope)
    close(h.direct["t"], 3 * m.theta["t"] ** 2)
    close(h.indirect["t"], indirect)
    close(h.total["t"], 3 * m.theta["t"] ** 2 + indirect)
    close(h.value, m.outer(m.delta, m.theta))
    assert h.solution.converged and h.residual < 1e-11
    jacobian = response_jacobian(inner, m.delta, m.theta, sense=sense)
    close(jacobian["t"], torch.linalg.solve(m.q, m.c.T))
    close(inverse_hvp(inner, m.delta, m.theta, m.slope, solver=EXACT, sense=sense).x,
          -s * torch.linalg.solve(m.q, m.slope))  # fmt: skip


def test_response_jacobian_is_the_derivative_of_the_resolved_problem():
    m = Smooth()
    delta = m.maximise(m.theta)
    expected = differences(m.maximise, m.theta)
    for chunk_size in (None, 1, 2):
        ours = response_jacobian(m.inner, delta, m.theta, chunk_size=chunk_size)
        for name in m.theta:
            assert ours[name].shape == (D, *m.theta[name].shape)
            close(ours[name], expected[name], 1e-8)


def test_hypergradient_is_the_derivative_of_psi():
    m = Smooth()
    outers = [m.outer, m.inner]
    expected = differences(lambda t: both(outers, m.maximise(t), t), m.theta)
    delta = m.maximise(m.theta)
    for solver in (EXACT, MINRES(max_iter=60, tol=1e-12)):
        for i, outer in enumerate(outers):
            h = hypergradient(outer, m.inner, delta, m.theta, solver=solver)
            for name in m.theta:
                close(h.total[name], expected[name][i], 1e-8)


def test_hypergradient_is_unrolling_to_convergence():
    m = Smooth()
    step = ascent_step(m.inner, 0.3)
    unrolled = unrolled_hypergradient(m.outer, step, torch.zeros(D).double(), m.theta, steps=200)
    close(unrolled.delta, m.maximise(m.theta))
    h = hypergradient(m.outer, m.inner, unrolled.delta, m.theta, solver=EXACT)
    for name in m.theta:
        close(unrolled.total[name], h.total[name])
        close(unrolled.direct[name], h.direct[name])


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_truncated_unrolling_is_the_fixed_point_iteration(k):
    m = Smooth()
    delta = m.maximise(m.theta)
    step = ascent_step(m.inner, 0.3)
    unrolled = unrolled_hypergradient(m.outer, step, delta, m.theta, steps=20, truncate=k)
    solver = FixedPoint(step=0.3, max_iter=k, compute_residual=False)
    h = hypergradient(m.outer, m.inner, delta, m.theta, solver=solver)
    for name in m.theta:
        close(unrolled.total[name], h.total[name])


def test_unrolling_is_exact_where_it_has_not_converged():
    m = Smooth()

    def psi(theta):
        d = torch.full((D,), 0.1).double()
        for _ in range(3):
            d = (d + 0.2 * gradient(m.inner, d, theta)).clamp(-0.3, 0.3)
        return m.outer(d, theta)

    step = ascent_step(m.inner, 0.2, project=lambda d: d.clamp(-0.3, 0.3))
    ours = unrolled_hypergradient(m.outer, step, torch.full((D,), 0.1).double(), m.theta, steps=3)
    close(ours.value, psi(m.theta))
    for name, expected in differences(psi, m.theta).items():
        close(ours.total[name], expected, 1e-8)


def test_danskin_the_indirect_term_vanishes_at_the_common_optimum():
    m = Smooth()
    h = hypergradient(m.inner, m.inner, m.maximise(m.theta), m.theta, solver=EXACT)
    assert max(v.abs().max() for v in h.indirect.values()) < 1e-11


def test_a_first_order_error_becomes_second_order():
    m = Smooth()
    best = m.maximise(m.theta)
    exact = hypergradient(m.inner, m.inner, best, m.theta, solver=None).direct["w"]
    offsets = torch.logspace(-1, -3, 5).double()
    errors = {"naive": [], "implicit": []}
    for offset in offsets:
        delta = best + offset * torch.ones(D).double() / D**0.5
        h = hypergradient(m.inner, m.inner, delta, m.theta, solver=EXACT)
        errors["naive"].append((h.direct["w"] - exact).norm())
        errors["implicit"].append((h.total["w"] - exact).norm())
    for name, slope in {"naive": 1.0, "implicit": 2.0}.items():
        e = torch.stack(errors[name]).log()
        assert abs((e[0] - e[-1]) / (offsets[0] / offsets[-1]).log() - slope) < 0.1


# --- the form on the boundary -------------------------------------------------------------------


def bordered_jacobian(m, delta, theta):
    """∇δ on the sphere from the whole KKT system in (dδ, dλ), by autograd's own Hessians."""
    joint = torch.cat([delta, theta["w"].reshape(-1)])

    def inner(v):
        return m.inner(v[:D], {"w": v[D:].reshape(3, D), "b": theta["b"]})

    full = torch.autograd.functional.hessian(inner, joint)
    slope = torch.autograd.functional.jacobian(inner, joint)[:D]
    multiplier = slope @ delta / (delta @ delta)
    kkt = torch.zeros(D + 1, D + 1).double()
    kkt[:D, :D] = full[:D, :D] - multiplier * torch.eye(D).double()
    kkt[:D, D], kkt[D, :D] = -delta, delta
    right = torch.cat([-full[:D, D:], torch.zeros(1, 3 * D).double()])
    return torch.linalg.solve(kkt, right)[:D].reshape(D, 3, D)


@pytest.mark.parametrize("constraint", [Sphere(), L2Ball(Smooth.radius)])
def test_sphere_is_the_derivative_of_the_resolved_constrained_problem(constraint):
    m = Smooth()
    solve = functools.partial(m.maximise_on_sphere, radius=m.radius)
    delta = solve(m.theta)
    multiplier = gradient(m.inner, delta, m.theta) @ delta / m.radius**2
    assert multiplier > 1  # inner still grows outwards: the constraint is active
    jacobian = response_jacobian(m.inner, delta, m.theta, constraint=constraint)
    together = differences(lambda t: with_value(m.outer, solve(t), t), m.theta)
    for name in m.theta:
        close(jacobian[name], together[name][:D], 1e-7)
    close(jacobian["w"], bordered_jacobian(m, delta, m.theta), 1e-8)

    h = hypergradient(m.outer, m.inner, delta, m.theta, solver=EXACT, constraint=constraint)
    for name in m.theta:
        close(h.total[name], together[name][D], 1e-7)
    wrong = hypergradient(m.outer, m.inner, delta, m.theta, solver=EXACT)
    assert (wrong.total["w"] - h.total["w"]).norm() > 1e-3  # the interior form is not that


def test_sphere_turns_a_convex_inner_into_a_well_posed_system():
    """inner = ½ δᵀQδ + tᵀCδ has no interior maximum, but one on every sphere."""
    m = Quadratic()
    inner = lambda d, t: 0.5 * d @ m.q @ d + t["t"] @ m.c @ d  # noqa: E731

    def solve(theta):
        return newton_on_sphere(inner, theta, 1.0, m.slope)

    delta = solve(m.theta)
    h = hypergradient(m.outer, inner, delta, m.theta, solver=EXACT, constraint=Sphere())
    close(h.total["t"], differences(lambda t: m.outer(solve(t), t), m.theta)["t"], 1e-7)
    with pytest.warns(NegativeCurvatureWarning):
        interior = hypergradient(m.outer, inner, delta, m.theta, solver=EXACT)
    assert interior.solution.negative_curvature and interior.residual > 0.1
    least = MINRES(max_iter=60, tol=1e-10)
    close(
        hypergradient(m.outer, inner, delta, m.theta, solver=least).indirect["t"],
        -m.c @ torch.linalg.solve(m.q, m.slope),
    )


def test_danskin_on_the_sphere():
    m = Smooth()
    delta = m.maximise_on_sphere(m.theta, m.radius)
    h = hypergradient(m.inner, m.inner, delta, m.theta, solver=EXACT, constraint=Sphere())
    assert max(v.abs().max() for v in h.indirect.values()) < 1e-9
    # ... and a rotation of δ by ε costs ε² with the indirect term, ε without it.
    exact, errors = h.direct["w"], []
    for eps in (1e-2, 1e-3):
        turned = delta + eps * torch.tensor([0.1, -0.1, 0.1, -0.1, 0.1]).double()
        turned = m.radius * turned / turned.norm()
        near = hypergradient(m.inner, m.inner, turned, m.theta, solver=EXACT, constraint=Sphere())
        errors.append([(near.direct["w"] - exact).norm(), (near.total["w"] - exact).norm()])
    naive, implicit = (torch.log10(torch.tensor(errors)[0] / torch.tensor(errors)[1])).tolist()
    assert abs(naive - 1) < 0.15 and abs(implicit - 2) < 0.15


def test_what_a_solver_leaves_along_the_normal_does_not_matter():
    m = Smooth()
    delta = m.maximise_on_sphere(m.theta, m.radius)
    warm = functools.partial(EXACT, x0=3 * delta)  # M cannot see it, so that no solver removes it
    u, t = randn(D, seed=1), {n: randn(*p.shape, seed=2) for n, p in m.theta.items()}
    results = []
    for solver in (EXACT, warm):
        options = {"solver": solver, "constraint": Sphere()}
        h = hypergradient(m.outer, m.inner, delta, m.theta, **options)
        assert h.residual < 1e-11
        pulled = response_vjp(m.inner, delta, m.theta, u, **options)[0]
        pushed = response_jvp(m.inner, delta, m.theta, t, **options)[0]
        inverse = inverse_hvp(m.inner, delta, m.theta, u, **options).x
        results.append({**h.total, "jvp": pushed, "ihvp": inverse, "vjp": pulled["w"]})
    close(*results)


def test_sphere_for_a_minimised_inner():
    m = Smooth()
    delta = m.maximise_on_sphere(m.theta, m.radius)
    options = {"solver": EXACT, "constraint": L2Ball(Smooth.radius)}
    one = hypergradient(m.outer, m.inner, delta, m.theta, **options)
    two = hypergradient(
        m.outer, lambda d, t: -m.inner(d, t), delta, m.theta, sense="min", **options
    )
    close(one.total, two.total)


def test_l2_ball_is_interior_inside_and_where_f_points_inwards():
    m = Smooth()
    inside = m.maximise(m.theta)
    plain = response_jacobian(m.inner, inside, m.theta)
    for radius in (10.0, float(inside.norm()) * (1 + 1e-3)):
        close(response_jacobian(m.inner, inside, m.theta, constraint=L2Ball(radius)), plain)
    outwards = 3 * inside  # on the boundary of its own ball, with f pointing back
    close(
        response_jacobian(m.inner, outwards, m.theta, constraint=L2Ball(float(outwards.norm()))),
        response_jacobian(m.inner, outwards, m.theta),
    )


def test_linf_ball_holds_the_coordinates_at_the_bound():
    m, radius = Smooth(), 0.05

    def solve(theta):
        d = torch.zeros(D).double()
        for _ in range(40):
            d = (d + 0.3 * gradient(m.inner, d, theta)).clamp(-radius, radius)
        return d

    delta = solve(m.theta)
    assert 0 < (delta.abs() == radius).sum() < D
    box = LinfBall(radius)
    h = hypergradient(m.outer, m.inner, delta, m.theta, solver=EXACT, constraint=box)
    jacobian = response_jacobian(m.inner, delta, m.theta, constraint=box)
    together = differences(lambda t: with_value(m.outer, solve(t), t), m.theta)
    for name in m.theta:
        close(jacobian[name], together[name][:D], 1e-7)
        close(h.total[name], together[name][D], 1e-7)


def test_l1_ball_moves_on_its_face():
    m, ball = Smooth(), L1Ball(0.1)

    def solve(theta, start, steps=60):
        d = start
        for _ in range(steps):
            d = ball.project(d + 0.3 * gradient(m.inner, d, theta))
        return d

    delta = solve(m.theta, torch.zeros(D).double(), 300)
    assert 1 < (delta != 0).sum() < D and ball.norm(delta) == pytest.approx(ball.radius)
    face = L1Ball(ball.radius)
    h = hypergradient(m.outer, m.inner, delta, m.theta, solver=EXACT, constraint=face)
    jacobian = response_jacobian(m.inner, delta, m.theta, constraint=face)
    together = differences(lambda t: with_value(m.outer, solve(t, delta), t), m.theta)
    for name in m.theta:
        close(jacobian[name], together[name][:D], 1e-7)
        close(h.total[name], together[name][D], 1e-7)
    assert max(v.abs().max() for v in h.indirect.values()) > 1e-4
    inside = m.maximise(m.theta)
    free = response_jacobian(m.inner, inside, m.theta)
    close(response_jacobian(m.inner, inside, m.theta, constraint=L1Ball(10.0)), free)


def test_constraint_refusals():
    m = Quadratic()
    with pytest.raises(ValueError, match="delta = 0"):
        hypergradient(m.outer, m.inner, 0 * m.delta, m.theta, solver=EXACT, constraint=Sphere())
    for ball in (L1Ball, L2Ball, LinfBall):
        with pytest.raises(ValueError, match="project it"):
            response_jacobian(m.inner, m.delta, m.theta, constraint=ball(1e-3))
        for radius in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="radius"):
                ball(radius)


# --- products -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), spherical=st.booleans())
@settings(max_examples=20, deadline=None)
def test_response_products_are_adjoint_and_linear(seed, spherical):
    m = Smooth(seed % 5)
    delta = m.maximise_on_sphere(m.theta, m.radius) if spherical else m.maximise(m.theta)
    options = {"solver": EXACT, "constraint": Sphere() if spherical else None}
    u, t = randn(D, seed=seed), {n: randn(*p.shape, seed=seed) for n, p in m.theta.items()}
    pulled, answer = response_vjp(m.inner, delta, m.theta, u, **options)
    pushed, _ = response_jvp(m.inner, delta, m.theta, t, **options)
    assert isinstance(answer, Solution) and answer.converged
    close(sum((pulled[n] * t[n]).sum() for n in t), (u * pushed).sum())
    dense = response_jacobian(m.inner, delta, m.theta, constraint=options["constraint"])
    close(pushed, sum(torch.tensordot(dense[n], t[n], dims=t[n].ndim) for n in t))
    for n in t:
        close(pulled[n], torch.tensordot(u, dense[n], dims=1))
    twice = response_jvp(m.inner, delta, m.theta, {n: -2 * v for n, v in t.items()}, **options)[0]
    close(twice, -2 * pushed)


@pytest.mark.parametrize("kind", [SecondDerivatives, DoubleBackward])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_products_are_those_of_the_dense_hessian(kind, seed):
    m, delta = Smooth(seed % 5), randn(D, seed=seed)
    graph = kind(m.inner, delta, m.theta, theta_gradient=True)
    u, v = randn(D, seed=seed + 1), randn(D, seed=seed + 2)
    dense = torch.autograd.functional.hessian(lambda d: m.inner(d, m.theta), delta)
    close(graph.hessian(v), dense @ v)
    close((u * graph.hessian(v)).sum(), (v * graph.hessian(u)).sum())
    slope = torch.func.grad(m.inner, argnums=1)
    mixed = torch.func.jvp(lambda d: slope(d, m.theta), (delta,), (v,))[1]  # forward over reverse
    close(graph.mixed(v), mixed)
    close(graph.theta_gradient, slope(delta, m.theta))
    again = kind(m.inner, delta, m.theta)
    image, same = again.last(v, hessian=True)
    close(image, dense @ v)
    close(same, mixed)
    close(graph.value, m.inner(delta, m.theta))
    close(graph.gradient, gradient(m.inner, delta, m.theta))


def test_gauss_newton_is_the_hessian_of_the_linearised_outputs():
    m, delta = Smooth(), randn(D, seed=3)
    loss = functools.partial(torch.nn.functional.cross_entropy, target=m.y)
    jacobian = torch.autograd.functional.jacobian(lambda d: m.logits(d, m.theta), delta)
    flat = m.logits(delta, m.theta)
    curvature = torch.autograd.functional.hessian(loss, flat).reshape(21, 21)
    expected = jacobian.reshape(21, D).T @ curvature @ jacobian.reshape(21, D)
    product = gauss_newton(m.logits, loss, delta, m.theta)
    dense = torch.stack([product(e) for e in torch.eye(D).double()])
    close(dense, expected)
    assert torch.linalg.eigvalsh(dense)[0] > -1e-12


def test_gauss_newton_is_exact_for_piecewise_linear_outputs():
    m, delta = Smooth(), randn(D, seed=3)
    outputs = lambda d, t: torch.relu((m.x + d) @ t["w"].T) + t["b"]  # noqa: E731
    loss = functools.partial(torch.nn.functional.cross_entropy, target=m.y)
    graph = SecondDerivatives(lambda d, t: loss(outputs(d, t)), delta, m.theta)
    product = gauss_newton(outputs, loss, delta, m.theta)
    for e in torch.eye(D).double():
        close(product(e), graph.hessian(e))
    # ... so that either may serve the solve of a hypergradient.
    inner = lambda d, t: -loss(outputs(d, t)) - (d * d).sum()  # noqa: E731
    options = {"solver": EXACT}
    exact = hypergradient(m.outer, inner, delta, m.theta, **options)
    approximate = hypergradient(
        m.outer, inner, delta, m.theta, hessian=lambda v: -product(v) - 2 * v, **options
    )
    close(exact.total, approximate.total)


def test_residual_is_that_of_the_exact_undamped_system():
    m = Quadratic()
    damped = ConjugateGradient(max_iter=60, tol=1e-12, damping=0.5)
    h = hypergradient(m.outer, m.inner, m.delta, m.theta, solver=damped)
    assert h.solution.converged
    w = torch.linalg.solve(m.q + 0.5 * torch.eye(D).double(), m.slope)
    close(h.solution.x, w)
    close(h.residual, (m.slope - m.q @ w).norm() / m.slope.norm())
    bare = hypergradient(m.outer, m.inner, m.delta, m.theta, solver=damped, compute_residual=False)
    assert bare.residual is None
    close(bare.total, h.total)


# --- spectrum -----------------------------------------------------------------------------------


def test_spectrum_of_a_known_hessian():
    values = torch.cat([torch.full((30,), -1.0), torch.linspace(2, 5, 10)]).double()
    q = torch.linalg.qr(randn(40, 40, seed=0))[0]
    matrix = q @ torch.diag(values) @ q.T
    inner = lambda d, t: 0.5 * d.reshape(-1) @ matrix @ d.reshape(-1) + t["t"].sum()  # noqa: E731
    delta, theta = randn(4, 10, seed=1), {"t": torch.zeros(1).double()}
    s = spectrum(inner, delta, theta, steps=20, probes=30)
    assert abs(s.minimum + 1) < 1e-8 and abs(s.maximum - 5) < 1e-8
    assert s.minimum_error < 1e-6 and s.maximum_error < 1e-6
    close(s.weights.sum(), torch.tensor(1.0).double())
    assert abs(s.negative_fraction - 0.75) < 0.05  # 1,200 draws: one standard deviation is 0.018
    grid = torch.linspace(-4, 8, 4001).double()
    close(torch.trapezoid(s.density(grid), grid), torch.tensor(1.0).double(), 1e-6)
    close(torch.trapezoid(s.density(grid, 0.3) * grid, grid), values.mean(), 0.2)
    with pytest.raises(ValueError, match="width"):
        s.density(grid, -1.0)
    with pytest.raises(ValueError, match="steps"):
        spectrum(inner, delta, theta, steps=0)


def test_low_rank_model_of_the_hessian_serves_as_a_solver():
    m = Smooth()
    delta = m.maximise(m.theta)
    loss = lambda d, t: m.inner(d, t) + (d * d).sum()  # noqa: E731
    graph = SecondDerivatives(loss, delta, m.theta)
    model = lanczos(lambda v: -graph.hessian(v), D, D, dtype=torch.float64)
    h = hypergradient(
        m.outer, m.inner, delta, m.theta,
        solver=lambda matvec, b: model.solve(b, damping=2.0, tol=1e-10),
    )  # fmt: skip
    exact = hypergradient(m.outer, m.inner, delta, m.theta, solver=EXACT)
    close(h.total, exact.total)
    assert h.solution.products == 0 and h.residual < 1e-10


# --- networks, dtypes, states -------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ELU(),
            torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Dropout(0.5),
            torch.nn.Linear(16, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def network(dtype=torch.float64):
    """A network with BatchNorm in evaluation mode, and inner and outer losses through it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        for _ in range(3):
            net(torch.randn(8, 2, 4, 4))  # moves the running statistics
    net = net.eval().to(dtype)
    x, y = randn(6, 2, 4, 4, seed=1).to(dtype), torch.arange(6) % 3

    def cross_entropy(d, t):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(net, t, (x + d,)), y)

    def inner(d, t):
        return cross_entropy(d, t) - 2 * (d * d).sum()

    return net, inner, cross_entropy, randn(2, 4, 4, seed=2).to(dtype) / 10


def test_a_network_with_batch_norm_matches_its_dense_jacobian():
    net, inner, outer, delta = network()
    theta = dict(net.named_parameters())
    before = {n: v.clone() for n, v in net.state_dict().items()}
    h = hypergradient(outer, inner, delta, theta, solver=EXACT)
    jacobian = response_jacobian(inner, delta, theta, chunk_size=8)
    g = torch.autograd.functional.jacobian(lambda d: outer(d, theta), delta)
    for name in theta:
        close(h.indirect[name], torch.tensordot(g, jacobian[name], dims=3))
        assert theta[name].grad is None and not h.total[name].requires_grad
    assert delta.grad is None and not delta.requires_grad
    close(dict(net.state_dict()), before, 0)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 2e-4), (torch.bfloat16, 0.15)])
def test_low_precision_error(dtype, tol):
    """With K = 10 steps of CG, relative to float64: 2e-4 in float32, 15 % in bfloat16."""
    solver = ConjugateGradient(max_iter=10)
    totals = []
    for kind in (torch.float64, dtype):
        net, inner, outer, delta = network(kind)
        h = hypergradient(outer, inner, delta, dict(net.named_parameters()), solver=solver)
        assert all(v.dtype == kind for v in h.total.values())
        totals.append(torch.cat([v.reshape(-1).double() for v in h.total.values()]))
    assert (totals[1] - totals[0]).norm() <= tol * totals[0].norm()


def test_works_inside_no_grad():
    m = Quadratic()
    with torch.no_grad():
        h = hypergradient(m.outer, m.inner, m.delta, m.theta, solver=EXACT)
        step = ascent_step(m.inner, 0.01)
        u = unrolled_hypergradient(m.outer, step, m.delta, m.theta, steps=3)
    close(h.total["t"], 3 * m.theta["t"] ** 2 + m.c @ torch.linalg.solve(m.q, m.slope))
    assert u.indirect["t"].any()


def test_naive_gradient_never_touches_inner():
    m = Smooth()
    delta = m.maximise(m.theta)

    def untouchable(d, t):
        raise AssertionError("inner was evaluated")

    naive = hypergradient(m.outer, untouchable, delta, m.theta, solver=None)
    assert naive.indirect is None and naive.solution is None
    close(naive.total, hypergradient(m.outer, m.inner, delta, m.theta, solver=EXACT).direct)
    zero = ConjugateGradient(max_iter=0)
    close(naive.total, hypergradient(m.outer, m.inner, delta, m.theta, solver=zero).total)


def test_number_of_evaluations_and_backward_passes_of_the_one_graph(monkeypatch):
    m, calls, passes, grad = Smooth(), [], [], torch.autograd.grad

    def counted(*args, **kwargs):
        passes.append("backward")
        return grad(*args, **kwargs)

    def inner(d, t):
        calls.append("inner")
        return m.inner(d, t)

    def outer(d, t):
        calls.append("outer")
        return m.outer(d, t)

    three = ConjugateGradient(max_iter=3)
    delta = m.maximise(m.theta)
    monkeypatch.setattr(torch.autograd, "grad", counted)
    once = {"solver": three, "derivatives": DoubleBackward}
    h = hypergradient(outer, inner, delta, m.theta, **once)
    assert len(passes) == 1 + 1 + 3 + 1  # outer, graph of inner, products, mixed product
    passes.clear()
    assert sorted(calls) == ["inner", "outer"] and h.solution.products == 3
    calls.clear()
    hypergradient(inner, inner, delta, m.theta, **once)
    assert calls == ["inner"] and len(passes) == 1 + 3 + 1  # one forward serves both


@pytest.mark.parametrize("constraint", [None, Sphere(), L2Ball(0.05)])
@pytest.mark.parametrize("problem", ["smooth", "network"])
def test_the_one_graph_gives_the_hypergradient_of_the_definition(problem, constraint):
    if problem == "smooth":
        m = Smooth()
        inner, outer, theta, delta = m.inner, m.outer, m.theta, m.maximise(m.theta)
    else:
        net, inner, outer, delta = network()
        theta = dict(net.named_parameters())
    if constraint is not None:
        delta = 0.05 * delta / delta.norm()
    solver = MINRES(max_iter=6)
    for function in (outer, inner):  # another objective, and one for both players
        ask = functools.partial(
            hypergradient, function, inner, delta, theta, solver=solver, constraint=constraint
        )
        definition, ours = ask(), ask(derivatives=DoubleBackward)
        for name in ("direct", "indirect", "total", "value", "residual"):
            close(getattr(ours, name), getattr(definition, name), 1e-12)


def test_functions_of_one_argument_only():
    m = Quadratic()
    only_theta = lambda d, t: (t["t"] ** 2).sum()  # noqa: E731
    h = hypergradient(only_theta, m.inner, m.delta, m.theta, solver=EXACT)
    assert h.solution.converged and not h.indirect["t"].any()
    only_delta = lambda d, t: (d * m.slope).sum()  # noqa: E731
    h = hypergradient(only_delta, m.inner, m.delta, m.theta, solver=EXACT)
    assert not h.direct["t"].any() and h.indirect["t"].any()
    naive = hypergradient(only_delta, m.inner, m.delta, m.theta, solver=None)
    assert not naive.total["t"].any()
    # an inner without curvature: a zero operator, refused by CG and said
    with pytest.warns(NegativeCurvatureWarning):
        h = hypergradient(m.outer, lambda d, t: t["t"] @ m.c @ d, m.delta, m.theta, solver=EXACT)
    assert not h.indirect["t"].any()
    with pytest.raises(ValueError, match="singular"):
        response_jacobian(lambda d, t: t["t"] @ m.c @ d, m.delta, m.theta)


def test_nan_reaches_the_caller():
    m = Quadratic()
    broken = lambda d, t: m.inner(d, t) + (d * d).sum() * torch.nan  # noqa: E731
    with pytest.warns(ConvergenceWarning, match="not finite"):
        h = hypergradient(m.outer, broken, m.delta, m.theta, solver=EXACT)
    assert h.total["t"].isnan().all() and h.residual.isnan()


def test_refusals():
    m = Quadratic()
    call = functools.partial(hypergradient, solver=EXACT)
    with pytest.raises(ValueError, match="one element"):
        call(m.outer, lambda d, t: d, m.delta, m.theta)
    with pytest.raises(ValueError, match="one element"):
        call(lambda d, t: 1.0, m.inner, m.delta, m.theta)
    for kind in (SecondDerivatives, DoubleBackward):
        with pytest.raises(ValueError, match="autograd's eyes"):
            call(lambda d, t: d.detach().sum(), m.inner, m.delta, m.theta, derivatives=kind)
    with pytest.raises(ValueError, match="without detach"):
        call(m.outer, lambda d, t: d.detach().sum(), m.delta, m.theta)
    with pytest.raises(TypeError, match="floating"):
        call(m.outer, m.inner, torch.zeros(D, dtype=torch.long), m.theta)
    for theta in ({}, [1], {"n": torch.tensor(3)}):
        with pytest.raises(TypeError, match="theta"):
            call(m.outer, m.inner, m.delta, theta)
    with pytest.raises(TypeError, match="expected a Solution"):
        hypergradient(m.outer, m.inner, m.delta, m.theta, solver=lambda matvec, b: b)
    for solver in (None, EXACT):
        with pytest.raises(ValueError, match="sense"):
            hypergradient(m.outer, m.inner, m.delta, m.theta, solver=solver, sense="up")
    with pytest.raises(ValueError, match="as delta"):
        inverse_hvp(m.inner, m.delta, m.theta, torch.zeros(D + 1).double(), solver=EXACT)
    with pytest.raises(ValueError, match="names and shapes"):
        response_jvp(m.inner, m.delta, m.theta, {"s": m.theta["t"]}, solver=EXACT)
    step = ascent_step(m.inner, 0.1)
    for bad in ({"steps": -1}, {"steps": 2, "truncate": 3}):
        with pytest.raises(ValueError, match="truncate"):
            unrolled_hypergradient(m.outer, step, m.delta, m.theta, **bad)
    with pytest.raises(ValueError, match="step gave shape"):
        unrolled_hypergradient(m.outer, lambda d, t: d[:2], m.delta, m.theta, steps=1)
    with pytest.raises(ValueError, match="size = 0"):
        ascent_step(m.inner, 0.0)
    with pytest.raises(ValueError, match="depends on delta"):
        gauss_newton(lambda d, t: t["t"].detach(), torch.sum, m.delta, m.theta)


def test_attention_has_a_second_derivative():
    """PyTorch's fused kernels have none; `torch.autograd.functional.hessian` as the judge."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).double()
    theta = dict(layer.named_parameters())
    tokens, delta = torch.rand(3, 5, 8).double(), 0.1 * torch.rand(5, 8).double()

    def risk(delta, theta):
        return torch.func.functional_call(layer, theta, (tokens + delta,)).pow(4).mean()

    v = torch.rand(5, 8).double()
    found = SecondDerivatives(risk, delta, theta).hessian(v)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(lambda d: risk(d, theta), delta)
    torch.testing.assert_close(found, torch.tensordot(hessian, v))


def test_what_is_no_set_is_no_constraint():
    theta = {"w": torch.ones(2)}
    with pytest.raises(TypeError, match="set of ibau_lite.sets, .* got 4.0"):
        hypergradient(
            lambda d, t: (d * t["w"]).sum(),
            lambda d, t: (d * t["w"]).pow(2).sum(),
            torch.zeros(2),
            theta,
            solver=MINRES(max_iter=1),
            constraint=4.0,
        )


def without_theta():
    """A network, its parameters, and H of a caller who forgot functional_call."""
    model = torch.nn.Linear(2, 1).double()
    theta = dict(model.named_parameters())
    return theta, lambda delta, theta: -(model(delta) ** 2).sum() - (delta**4).sum()


@pytest.mark.parametrize(
    "entrance",
    [
        lambda h, d, t: hypergradient(h, h, d, t, solver=EXACT),
        lambda h, d, t: hypergradient(h, h, d, t, solver=EXACT, derivatives=DoubleBackward),
        lambda h, d, t: hypergradient(lambda d, t: t["weight"].sum(), h, d, t, solver=EXACT),
        lambda h, d, t: hypergradient(h, h, d, t, solver=None),
        lambda h, d, t: inverse_hvp(h, d, t, d, solver=EXACT),
        lambda h, d, t: response_jacobian(h, d, t),
        lambda h, d, t: response_vjp(h, d, t, d, solver=EXACT),
        lambda h, d, t: response_jvp(h, d, t, t, solver=EXACT),
        lambda h, d, t: unrolled_hypergradient(h, ascent_step(h, 0.1), d, t, steps=2),
        lambda h, d, t: unrolled_hypergradient(h, ascent_step(h, 0.1), d, t, steps=2, truncate=0),
    ],
)
def test_a_function_that_forgets_theta_is_refused(entrance):
    theta, forgetful = without_theta()
    with pytest.raises(ValueError, match="reaches no entry of theta.*functional_call"):
        entrance(forgetful, torch.ones(2).double(), theta)


def test_an_outer_function_of_delta_alone_is_fine():
    theta = {"w": torch.tensor([1.0, 2.0]).double(), "unused": torch.ones(1).double()}
    found = hypergradient(
        lambda d, t: (3 * d).sum(),
        lambda d, t: -((d - t["w"]) ** 2).sum(),
        theta["w"].clone(), theta, solver=EXACT,
    )  # fmt: skip
    close(found.total["w"], torch.full((2,), 3.0).double())
    assert not found.direct["w"].any() and not found.total["unused"].any()
