"""Solvers against dense algebra and SciPy, and what each says when it cannot solve."""

from __future__ import annotations

import dataclasses
import functools
import warnings
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibau_lite.solvers import (
    MINRES,
    ConjugateGradient,
    ConvergenceWarning,
    FixedPoint,
    NegativeCurvatureWarning,
    Solution,
    lanczos,
    nystrom,
)

scipy_linalg = pytest.importorskip("scipy.sparse.linalg")


def rotated(eigenvalues, seed=0, dtype=torch.float64):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))[0]
    matrix = q @ torch.diag(values) @ q.T
    return ((matrix + matrix.T) / 2).to(dtype)


def vector(*shape, seed=1, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


class Counted:
    """A matrix as a matvec that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0

    def __call__(self, v):
        self.products += 1
        return v @ self.matrix  # symmetric, so that rows work as well


POSITIVE = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
INDEFINITE = [-3.0, -1.0, -0.5, 0.7, 1.0, 2.0, 4.0, 5.0]


def calling(kind):
    """The solver of this kind as one function: its settings and what its call takes together."""

    def solve(matvec, b, **given):
        call = {k: given.pop(k) for k in ("x0", "preconditioner", "batched") if k in given}
        return kind(**given)(matvec, b, **call)

    return solve


fixed_point, conjugate_gradient, minres = map(calling, (FixedPoint, ConjugateGradient, MINRES))

SOLVERS = {
    "fixed_point": functools.partial(fixed_point, step=0.2),
    "conjugate_gradient": conjugate_gradient,
    "minres": minres,
}
every_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS.keys())


@pytest.fixture(autouse=True)
def _no_silent_warning():
    """A warning that a test does not expect is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- right answers ------------------------------------------------------------------------------


@every_solver
@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_agrees_with_dense_algebra(solve, damping, warm, dtype, tol):
    a, b = rotated(POSITIVE, dtype=dtype), vector(8, dtype=dtype)
    exact = torch.linalg.solve(a.double() + damping * torch.eye(8).double(), b.double())
    x0 = vector(8, seed=5, dtype=dtype) if warm else None
    solution = solve(Counted(a), b, max_iter=800, tol=tol, damping=damping, x0=x0)
    assert solution.converged and solution.reason.startswith("converged")
    assert solution.x.dtype == dtype
    # ‖x − x*‖ ≤ ‖r‖/λ_min ≤ tol ‖b‖/0.5
    assert (solution.x.double() - exact).norm() <= 2.5 * tol * b.double().norm()


@pytest.mark.parametrize(
    ("solve", "reference", "eigenvalues"),
    [
        (conjugate_gradient, "cg", POSITIVE),
        (minres, "minres", POSITIVE),
        (minres, "minres", INDEFINITE),
    ],
)
def test_every_iterate_is_scipys(solve, reference, eigenvalues):
    a, b = rotated(eigenvalues), vector(8)
    iterates = []
    getattr(scipy_linalg, reference)(
        a.numpy(), b.numpy(), rtol=1e-14, maxiter=6, callback=lambda x: iterates.append(x.copy())
    )
    for k, expected in enumerate(iterates[:6], start=1):
        ours = solve(Counted(a), b, max_iter=k)
        assert ours.iterations == ours.products == k
        np.testing.assert_allclose(ours.x.numpy(), expected, rtol=1e-8, atol=1e-9)


def test_fixed_point_is_the_neumann_series_and_recovers_the_known_fraction():
    values, step, k = torch.tensor(POSITIVE, dtype=torch.float64), 0.15, 7
    b = vector(8)
    solution = fixed_point(lambda v: values * v, b, step=step, max_iter=k)
    torch.testing.assert_close(solution.x, (1 - (1 - step * values) ** k) * b / values)


@every_solver
def test_the_reported_residual_is_the_true_one(solve):
    a, b = rotated(POSITIVE), vector(8)
    for k in range(6):
        solution = solve(Counted(a), b, max_iter=k)
        assert solution.residuals.shape == (k + 1,)
        torch.testing.assert_close(solution.residuals[-1], (b - a @ solution.x).norm())


def test_conjugate_gradient_error_obeys_its_bound():
    a, b = rotated(POSITIVE), vector(8)
    exact, root = torch.linalg.solve(a, b), (POSITIVE[-1] / POSITIVE[0]) ** 0.5
    for k in range(1, 8):
        error = (conjugate_gradient(Counted(a), b, max_iter=k).x - exact).norm()
        assert error <= 2 * root * ((root - 1) / (root + 1)) ** k * exact.norm() + 1e-13


def test_minres_residual_never_grows():
    solution = minres(Counted(rotated(INDEFINITE)), vector(8), max_iter=7)
    assert (solution.residuals.diff() <= 0).all()
    assert solution.negative_curvature and "negative" not in solution.reason


@every_solver
def test_identity_is_solved_exactly_in_one_iteration(solve):
    options = {"step": 1.0} if solve is SOLVERS["fixed_point"] else {}
    b = vector(8)
    for tol in (None, 1e-12):
        solution = solve(lambda v: v, b, max_iter=5, tol=tol, **options)
        assert solution.iterations == 1 and solution.converged
        torch.testing.assert_close(solution.x, b, rtol=1e-15, atol=1e-15)


@given(seed=st.integers(0, 10_000), scale=st.floats(-100, 100), kind=st.sampled_from([0, 1]))
@settings(max_examples=25, deadline=None)
def test_k_steps_from_zero_scale_with_b(seed, scale, kind):
    """x_K(c b) = c x_K(b) for every solver; the fixed point is even linear in b."""
    a, b, other = rotated(POSITIVE, seed), vector(8, seed=seed), vector(8, seed=seed + 1)
    solve = [conjugate_gradient, minres][kind]
    torch.testing.assert_close(
        solve(Counted(a), scale * b, max_iter=4).x, scale * solve(Counted(a), b, max_iter=4).x
    )
    neumann = functools.partial(fixed_point, Counted(a), step=0.1, max_iter=4)
    torch.testing.assert_close(
        neumann(b + scale * other).x, neumann(b).x + scale * neumann(other).x
    )


# --- shapes -------------------------------------------------------------------------------------


@every_solver
def test_several_right_hand_sides_at_once(solve):
    a, b = rotated(POSITIVE), vector(3, 8)
    b[1] = 0  # solved before it starts
    together = solve(Counted(a), b, max_iter=6, batched=True)
    assert together.residuals.shape == (7, 3)
    for row, expected in zip(together.x, b, strict=True):
        torch.testing.assert_close(row, solve(Counted(a), expected, max_iter=6).x)
    counted = Counted(a)
    tight = solve(counted, b, max_iter=900, tol=1e-10, batched=True)
    torch.testing.assert_close(tight.x, torch.linalg.solve(a, b.T).T)
    assert counted.products == tight.products


@every_solver
def test_dict_of_tensors_is_the_flat_problem(solve):
    a, b = rotated(POSITIVE), vector(8)

    def split(v):
        return {"w": v[..., :6].reshape(*v.shape[:-1], 2, 3), "c": v[..., 6:]}

    def join(parts):
        lead = parts["c"].shape[:-1]
        return torch.cat([parts["w"].reshape(*lead, 6), parts["c"]], dim=-1)

    def matvec(parts):
        return split(join(parts) @ a)

    solution = solve(matvec, split(b), max_iter=5, x0=split(vector(8, seed=4)))
    flat = solve(Counted(a), b, max_iter=5, x0=vector(8, seed=4))
    torch.testing.assert_close(join(solution.x), flat.x)
    rows = vector(3, 8)
    both = solve(matvec, split(rows), max_iter=5, batched=True)
    torch.testing.assert_close(join(both.x), solve(Counted(a), rows, max_iter=5, batched=True).x)


@every_solver
def test_a_tensor_of_any_shape(solve):
    a, b = rotated(POSITIVE), vector(2, 2, 2)
    solution = solve(lambda v: (v.reshape(8) @ a).reshape(2, 2, 2), b, max_iter=5)
    assert solution.x.shape == (2, 2, 2)
    torch.testing.assert_close(solution.x.reshape(8), solve(Counted(a), b.reshape(8), max_iter=5).x)


# --- what it costs ------------------------------------------------------------------------------


@every_solver
def test_products_are_counted_and_none_is_wasted(solve):
    a, b = Counted(rotated(POSITIVE)), vector(8)
    assert solve(a, b, max_iter=5).products == a.products == 5
    assert solve(a, b, max_iter=5, x0=b).products == 6  # the residual of the warm start


def test_fixed_point_without_certificate_saves_the_last_product():
    a, b = Counted(rotated(POSITIVE)), vector(8)
    certified = fixed_point(a, b, step=0.1, max_iter=5)
    bare = fixed_point(a, b, step=0.1, max_iter=5, compute_residual=False)
    assert bare.products == 4 and bare.iterations == 5
    assert torch.equal(bare.x, certified.x)
    assert torch.equal(bare.residuals, certified.residuals[:-1])
    assert not bare.converged and "iterate before x" in bare.reason


def test_warm_start_at_the_solution_ends_at_once():
    a, b = rotated(POSITIVE), vector(8)
    exact = torch.linalg.solve(a, b)
    for solve in SOLVERS.values():
        solution = solve(Counted(a), b, max_iter=50, tol=1e-10, x0=exact)
        assert solution.iterations == 0 and solution.products == 1 and solution.converged


@pytest.mark.parametrize("rank", [1, 20, 40])
def test_nystrom_preconditions_conjugate_gradients(rank):
    a, b, mu = rotated(torch.logspace(3, -5, 40, dtype=torch.float64)), vector(40), 1e-2
    eye = torch.eye(40, dtype=torch.float64)
    model = nystrom(Counted(a), 40, rank, dtype=torch.float64)
    solve = functools.partial(conjugate_gradient, max_iter=200, tol=1e-10, damping=mu)
    plain, solution = (
        solve(Counted(a), b, preconditioner=p) for p in (None, model.preconditioner(mu))
    )
    torch.testing.assert_close(solution.x, torch.linalg.solve(a + mu * eye, b))
    if rank >= 20:
        assert solution.iterations <= plain.iterations / 2
    # The deterministic bound of Frangella, Tropp and Udell, proposition 5.3.
    inverse = torch.stack([model.preconditioner(mu)(e) for e in eye])
    eigenvalues = torch.linalg.eigvals(inverse @ (a + mu * eye)).real
    missed = torch.linalg.matrix_norm(a - model(eye), 2)
    bound = (model.values[0] + mu + missed) / mu
    assert eigenvalues.max() / eigenvalues.min() <= bound * (1 + 1e-6)


# --- what can go wrong --------------------------------------------------------------------------


@every_solver
def test_zero_right_hand_side_has_the_zero_solution(solve):
    a = Counted(rotated(POSITIVE))
    solution = solve(a, torch.zeros(8).double(), max_iter=5, tol=1e-6)
    assert not solution.x.any() and solution.converged and a.products == 0


@every_solver
def test_no_iterations_return_the_start(solve):
    a, b = Counted(rotated(POSITIVE)), vector(8)
    solution = solve(a, b, max_iter=0)
    assert not solution.x.any() and not solution.converged and a.products == 0
    assert solution.reason.startswith("stopped as asked")
    with pytest.warns(ConvergenceWarning, match="did not reach its tolerance"):
        assert not solve(a, b, max_iter=0, tol=1e-6).converged


@every_solver
def test_tolerance_not_reached_is_said(solve):
    with pytest.warns(ConvergenceWarning, match="did not reach its tolerance"):
        solution = solve(Counted(rotated(POSITIVE)), vector(8), max_iter=2, tol=1e-10)
    assert not solution.converged and "tolerance 1e-10 not reached" in solution.reason


@every_solver
@pytest.mark.parametrize("tol", [None, 1e-8])
def test_nan_stays_nan_and_is_said(solve, tol):
    a, b = rotated(POSITIVE), vector(8)
    bad = b.clone()
    bad[3] = torch.nan
    calls = []

    def breaks_later(v):
        calls.append(0)
        return v @ a * (torch.nan if len(calls) == 3 else 1.0)

    for matvec, right in ((Counted(a), bad), (breaks_later, b)):
        with pytest.warns(ConvergenceWarning, match="not finite"):
            solution = solve(matvec, right, max_iter=5, tol=tol)
        assert solution.x.isnan().all() and not solution.converged
        assert solution.reason.startswith("not finite")


def test_nan_in_one_right_hand_side_leaves_the_others_alone():
    a, b = rotated(POSITIVE), vector(3, 8)
    b[1, 0] = torch.inf
    for solve in SOLVERS.values():
        with pytest.warns(ConvergenceWarning):
            solution = solve(Counted(a), b, max_iter=6, batched=True)
        assert solution.x[1].isnan().all()
        torch.testing.assert_close(solution.x[0], solve(Counted(a), b[0], max_iter=6).x)


def test_conjugate_gradient_never_uses_negative_curvature():
    b = torch.ones(3).double()
    with pytest.warns(NegativeCurvatureWarning, match="ConjugateGradient met negative"):
        solution = conjugate_gradient(lambda v: -v, b, max_iter=5)
    assert solution.negative_curvature and not solution.converged and not solution.x.any()
    # Met later, it keeps the last iterate before: the minimiser over the directions that were fine.
    values = torch.tensor([4.0, 3.0, -2.0]).double()
    with pytest.warns(NegativeCurvatureWarning):
        solution = conjugate_gradient(lambda v: values * v, b, max_iter=5, tol=1e-8)
    assert solution.iterations == 1
    torch.testing.assert_close(solution.x, b * (3 / (4 + 3 - 2)))


def test_conjugate_gradient_refuses_a_zero_operator():
    with pytest.warns(NegativeCurvatureWarning):
        assert not conjugate_gradient(lambda v: 0 * v, vector(8), max_iter=5).x.any()


def test_conjugate_gradient_refuses_a_negative_preconditioner():
    a = rotated(POSITIVE)
    with pytest.warns(NegativeCurvatureWarning):
        solution = conjugate_gradient(
            Counted(a), vector(8), max_iter=5, preconditioner=lambda r: -r
        )
    assert not solution.x.any()


def test_damping_makes_an_indefinite_operator_solvable():
    a, b = rotated(INDEFINITE), vector(8)
    solution = conjugate_gradient(Counted(a), b, max_iter=50, tol=1e-10, damping=3.5)
    torch.testing.assert_close(solution.x, torch.linalg.solve(a + 3.5 * torch.eye(8).double(), b))


def test_fixed_point_says_that_it_diverges():
    a, b = rotated(POSITIVE), vector(8)
    with pytest.warns(ConvergenceWarning, match="step is too large"):
        solution = fixed_point(Counted(a), b, step=2.1 / POSITIVE[-1], max_iter=60)
    assert not solution.converged and solution.residuals[-1] > solution.residuals[0]
    with pytest.warns(ConvergenceWarning, match="not finite"):
        overflow = fixed_point(Counted(a), b, step=1e3, max_iter=300)
    assert overflow.x.isnan().all()


def test_fixed_point_reports_negative_curvature_and_keeps_its_formula():
    values, b = torch.tensor([-2.0, 1.0]).double(), torch.ones(2).double()
    with pytest.warns(NegativeCurvatureWarning):
        solution = fixed_point(lambda v: values * v, b, step=0.1, max_iter=5)
    torch.testing.assert_close(solution.x, (1 - (1 - 0.1 * values) ** 5) / values)
    assert solution.negative_curvature


def test_minres_on_a_singular_system():
    values = torch.tensor([1.0, 2.0, 0.0]).double()
    consistent = minres(lambda v: values * v, values, max_iter=5, tol=1e-10)
    torch.testing.assert_close(consistent.x, torch.tensor([1.0, 1.0, 0.0]).double())
    with pytest.warns(ConvergenceWarning, match="singular"):
        solution = minres(lambda v: values * v, torch.ones(3).double(), max_iter=5, tol=1e-10)
    assert solution.reason.startswith("least squares")
    torch.testing.assert_close(values * solution.x, torch.tensor([1.0, 1.0, 0.0]).double())


@pytest.mark.parametrize("solve", [conjugate_gradient, minres])
def test_convergence_is_claimed_only_for_a_true_residual(solve):
    """With rounded products the recurrences run to 1e-10 while the truth stays near 1e-3."""
    a, b = rotated(POSITIVE), vector(8)

    def rounded(v):
        return (v @ a).to(torch.bfloat16).double()

    with pytest.warns(ConvergenceWarning):
        solution = solve(rounded, b, max_iter=40, tol=1e-7)
    assert not solution.converged
    assert solution.residuals[-1] > 1e-7 * b.norm()


@pytest.mark.parametrize("solve", [conjugate_gradient, minres])
def test_nor_without_a_tolerance(solve):
    """There the recurrences run below the rounding unit."""
    a, b = rotated(POSITIVE), vector(8)

    def rounded(v):
        return (v @ a).to(torch.bfloat16).double()

    solution = solve(rounded, b, max_iter=200)
    true = (b - rounded(solution.x)).norm()
    assert true > 1e-4 * b.norm()
    assert not solution.converged
    torch.testing.assert_close(solution.residuals[-1], true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solve", [conjugate_gradient, minres])
def test_what_was_found_is_not_spoilt_by_going_on(solve, dtype):
    """A singular system with a solution: far more steps than it needs, and no tolerance."""
    for seed in range(10):
        draws = torch.Generator().manual_seed(seed)
        root = torch.randn(60, 10, generator=draws, dtype=dtype)
        b = root @ (root.T @ torch.randn(60, generator=draws, dtype=dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = solve((root @ root.T).matmul, b, max_iter=80).x
        rest = (b - root @ (root.T @ x)).norm() / b.norm()
        assert rest < 1000 * torch.finfo(dtype).eps, seed


def test_warnings_of_one_kind_carry_one_text():
    """So that Python's default filter shows a solve repeated in a loop once."""
    texts = set()
    for k in (2, 3, 4):
        with pytest.warns(ConvergenceWarning) as caught:
            minres(Counted(rotated(POSITIVE)), vector(8), max_iter=k, tol=1e-12)
        texts.add(str(caught[0].message))
        assert caught[0].filename == __file__
    assert len(texts) == 1


@every_solver
@pytest.mark.parametrize(
    "bad",
    [
        {"max_iter": -1},
        {"max_iter": 2.5},
        {"tol": -1e-3},
        {"tol": float("nan")},
        {"damping": -1.0},
        {"x0": torch.zeros(7).double()},
        {"b": torch.zeros(0).double()},
        {"b": torch.zeros(8, dtype=torch.long)},
        {"b": {"a": torch.zeros(4).double(), "b": torch.zeros(4)}},
        {"matvec": lambda v: v[:4]},
        {"b": torch.tensor(1.0), "batched": True},
    ],
    ids=lambda bad: "-".join(bad),  # the same in every process: a lambda prints its address
)
def test_unusable_arguments_are_refused(solve, bad):
    arguments = {"matvec": lambda v: v, "b": vector(8), "max_iter": 3} | bad
    with pytest.raises(ValueError, match="expected|disagree|no axis"):
        solve(arguments.pop("matvec"), arguments.pop("b"), **arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: FixedPoint(step=0.1, max_iter=5, **more),
        lambda **more: ConjugateGradient(max_iter=5, **more),
        lambda **more: MINRES(max_iter=5, **more),
    ],
    ids=["FixedPoint", "ConjugateGradient", "MINRES"],
)
def test_equal_settings_are_equal_solvers(make):
    assert make() == make() and hash(make()) == hash(make())
    assert make(damping=0.5) != make() and make(tol=0.1) != make()
    assert "max_iter=5" in repr(make())
    for bad in ({"max_iter": -1}, {"tol": -1.0}, {"damping": -1.0}):
        with pytest.raises(ValueError, match="expected"):  # at the door, not at the first solve
            dataclasses.replace(make(), **bad)


def test_a_solution_does_not_keep_the_operator_alive():
    a = Counted(rotated(POSITIVE))
    alive = weakref.ref(a)
    solution = minres(a, vector(8), max_iter=3)
    del a
    assert alive() is None and solution.iterations == 3 and len(solution.residuals) == 4


def test_fixed_point_refuses_what_only_it_has():
    for bad in (
        {"step": 0.0},
        {"step": float("nan")},
        {"step": 0.1, "tol": 1e-3, "compute_residual": False},
    ):
        with pytest.raises(ValueError, match="step|certify"):
            fixed_point(lambda v: v, vector(8), max_iter=3, **bad)
    with pytest.raises(TypeError, match="expected a tensor or a dict"):
        minres(lambda v: v, [1.0, 2.0], max_iter=3)


# --- eigenpairs and low rank --------------------------------------------------------------------


def test_lanczos_finds_every_eigenvalue_and_vector():
    a = rotated(INDEFINITE)
    ritz = lanczos(Counted(a), 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ritz.values, torch.tensor(INDEFINITE, dtype=torch.float64))
    torch.testing.assert_close(a @ ritz.vectors, ritz.vectors * ritz.values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ritz.weights.sum(), torch.tensor(1.0).double())
    assert ritz.negative_curvature and ritz.products == 8


@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_an_eigenvalue_lies_within_every_lanczos_error(seed, k):
    ritz = lanczos(Counted(rotated(INDEFINITE, seed)), 8, k, seed=seed, dtype=torch.float64)
    distance = (
        (ritz.values[:, None] - torch.tensor(INDEFINITE, dtype=torch.float64)).abs().amin(dim=1)
    )
    assert (distance <= ritz.errors + 1e-10).all()


def test_lanczos_quadrature_is_exact_to_degree_2k_minus_1():
    a, start = rotated(INDEFINITE), vector(8)
    ritz = lanczos(Counted(a), 8, 3, start=start)
    unit = start / start.norm()
    for power in range(6):
        moment = unit @ torch.linalg.matrix_power(a, power) @ unit
        torch.testing.assert_close((ritz.weights * ritz.values**power).sum(), moment)


def test_lanczos_stops_where_the_krylov_space_ends():
    ritz = lanczos(lambda v: 2 * v, 8, 5, dtype=torch.float64)
    assert ritz.products == 1
    torch.testing.assert_close(ritz.values, torch.tensor([2.0]).double())


def test_lanczos_goes_on_in_a_large_space_in_single_precision():
    values = torch.linspace(-0.01, 0.01, 12288)
    values[0] = 10.0
    ritz = lanczos(lambda v: values * v, 12288, 15)
    assert ritz.products == 15
    assert float(ritz.values[0]) < -0.009


def test_lanczos_reaches_scipys_extremes():
    a = rotated(torch.linspace(-5, 9, 60))
    ritz = lanczos(Counted(a), 60, 40, dtype=torch.float64)
    ends = scipy_linalg.eigsh(a.numpy(), k=2, which="BE", return_eigenvectors=False)
    np.testing.assert_allclose([ritz.values[0], ritz.values[-1]], ends, rtol=1e-5)


def test_nystrom_is_exact_at_full_rank_of_the_operator():
    a = rotated([0, 0, 0, 0, 0, 1.0, 2.0, 5.0])
    for batched in (False, True):
        counted = Counted(a)
        model = nystrom(counted, 8, 4, dtype=torch.float64, batched=batched)
        assert model.products == 4 and counted.products == (1 if batched else 4)
        torch.testing.assert_close(model(torch.eye(8).double()), a)
        torch.testing.assert_close(model.values[-3:], torch.tensor([1.0, 2.0, 5.0]).double())
        assert not model.negative_curvature


@pytest.mark.parametrize("dim", [3072, 150528])
def test_nystrom_sees_one_direction_among_many_in_single_precision(dim):
    """Random directions of a large space are nearly orthogonal to any one: little of it is seen."""
    u = torch.randn(dim, generator=torch.Generator().manual_seed(1))
    u /= u.norm()
    model = nystrom(lambda v: 10 * u * (u @ v), dim, 20)
    torch.testing.assert_close(model.values[-1], torch.tensor(10.0), rtol=1e-3, atol=0)
    assert not model.negative_curvature


def test_nystrom_lies_below_its_operator():
    a = rotated(POSITIVE)
    model = nystrom(Counted(a), 8, 4, dtype=torch.float64)
    gap = torch.linalg.eigvalsh(a - model(torch.eye(8).double()))
    assert gap[0] > -1e-10 and gap[-1] < POSITIVE[-1] and (model.values >= 0).all()


def test_nystrom_reports_an_indefinite_operator_and_stays_positive():
    with pytest.warns(NegativeCurvatureWarning, match="nystrom met negative"):
        model = nystrom(Counted(rotated(INDEFINITE)), 8, 8, dtype=torch.float64)
    assert model.negative_curvature and (model.values > 0).all()
    assert not nystrom(lambda v: 0 * v, 8, 3).negative_curvature


def test_low_rank_solve_is_the_inverse():
    mu, b = 0.3, vector(2, 4)
    dense = rotated([0, 0, 0, 0, 0, 1.0, 2.0, 5.0])
    exact = torch.linalg.solve(dense + mu * torch.eye(8).double(), b.reshape(8))
    model = nystrom(Counted(dense), 8, 3, dtype=torch.float64)
    counted = Counted(dense)
    solution = model.solve(b, damping=mu, tol=1e-10)
    assert isinstance(solution, Solution) and solution.products == 0 and solution.converged
    torch.testing.assert_close(solution.x.reshape(8), exact)
    true = model.solve(b.reshape(8), damping=mu, matvec=counted, tol=1e-10)
    assert true.converged and true.products == counted.products == 1


def test_low_rank_solve_reports_the_residual_of_the_true_operator():
    a, b = rotated(POSITIVE), vector(8)
    model = nystrom(Counted(a), 8, 2, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning):
        solution = model.solve(b, damping=0.1, matvec=Counted(a), tol=1e-6)
    shifted = a + 0.1 * torch.eye(8).double()
    torch.testing.assert_close(solution.residuals[-1], (b - shifted @ solution.x).norm())


def test_low_rank_refusals():
    model = lanczos(Counted(rotated(INDEFINITE)), 8, 8, dtype=torch.float64)
    for damping in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="damping > 0"):
            model.solve(vector(8), damping=damping)
    with pytest.raises(ValueError, match="expected > 0"):
        model.preconditioner(1.0)
    with pytest.raises(ValueError, match="coordinates"):
        model.solve(vector(7), damping=1.0)
    for bad in (0, 9):
        with pytest.raises(ValueError, match="expected 1 <="):
            nystrom(lambda v: v, 8, bad)
        with pytest.raises(ValueError, match="expected 1 <="):
            lanczos(lambda v: v, 8, bad)
    with pytest.raises(ValueError, match="finite non-zero"):
        lanczos(lambda v: v, 8, 3, start=torch.zeros(8))
    for approximate in (nystrom, lanczos):
        with pytest.raises(ValueError, match="not finite"):
            approximate(lambda v: v * torch.nan, 8, 3)


def test_same_seed_same_bits():
    for approximate in (nystrom, lanczos):
        one, two, three = (
            approximate(rotated(POSITIVE).mv, 8, 3, seed=s, dtype=torch.float64) for s in (0, 0, 1)
        )
        assert torch.equal(one.vectors, two.vectors) and not torch.equal(one.values, three.values)
