"""The experiments of chapter 8: Theorem 1 on problems whose truth is known (float64)."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from ibau_lite.theory.active_constraint import arc

from ibau_lab import convergence as cv
from ibau_lab import read, studies
from ibau_lab.first_run import Experiment
from ibau_lite.hypergrad import hypergradient
from ibau_lite.minimax import Risk
from ibau_lite.models import mlp

ROUNDING = 1e-13  # of ‖∇ψ‖: what float64 leaves of a difference of two gradients


@pytest.fixture(scope="module")
def digits():
    return cv.digits_network()


@pytest.mark.parametrize("kappa", [3.0, 100.0])
@pytest.mark.parametrize("moving, different", [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0)])
def test_the_whole_grid_is_under_the_bound(kappa, moving, different):
    problem = cv.quadratic_problem(kappa, moving=moving, different=different)
    rows = cv.grid(problem, ascents=[0, 4, 20], solves=[0, 1, 6, 20], dampings=[0.0, 1.0])
    assert len(rows) == 3 * 4 * 2 * 2
    rounding = ROUNDING * cv.norm(problem.truth)
    for row in rows:
        assert row["error"] <= row["bound"] + rounding
        assert row["bound"] <= row["prior"] * (1 + 1e-9)
        assert row["ratio"] == pytest.approx(row["bound"] / max(row["error"], 1e-300))
        assert row["kind"] == "exact" and row["kappa"] == pytest.approx(kappa)
        if different == 0 and row["damping"] == 0:
            assert row["error"] <= row["second"] + rounding
        else:
            assert (row["second"] is None) == (different > 0)


def test_rates_are_straight_lines_with_the_predicted_slopes():
    kappa = 30.0
    q = (kappa - 1) / (kappa + 1)
    sigma = (kappa**0.5 - 1) / (kappa**0.5 + 1)
    problem = cv.quadratic_problem(kappa, different=1.0)

    def slope(rows, key):
        return math.log(rows[-1]["error"] / rows[0]["error"]) / (rows[-1][key] - rows[0][key])

    same = cv.quadratic_problem(kappa)
    by_T = cv.grid(same, ascents=[150, 300], solves=[0], methods=["fixed_point"])
    assert slope(by_T, "T") == pytest.approx(math.log(q), rel=0.01)
    by_K = cv.grid(problem, ascents=[500], solves=[150, 300], methods=["fixed_point"])
    assert slope(by_K, "K") == pytest.approx(math.log(q), rel=0.01)
    by_K = cv.grid(problem, ascents=[500], solves=[2, 8], methods=["conjugate_gradient"])
    assert slope(by_K, "K") < math.log(sigma)  # at least as fast as promised


def test_damping_leaves_an_error_that_no_step_removes():
    problem = cv.quadratic_problem(10.0, different=1.0)
    rows = cv.grid(
        problem, ascents=[300], solves=[20, 60], methods=["conjugate_gradient"], dampings=[0.0, 0.5]
    )
    plain = [row["error"] for row in rows if row["damping"] == 0]
    damped = [row["error"] for row in rows if row["damping"] > 0]
    assert plain[1] < 1e-9 and damped[1] > 1e-3
    assert damped[0] == pytest.approx(damped[1], rel=1e-6)


def test_orders_one_and_two_on_the_digits(digits):
    problem = cv.digits_problem(*digits, penalty=2.0, certified=False)
    distances = [0.02 * 2.0**-k for k in range(6)]
    rows = cv.orders(problem, distances)
    for name, expected in (("naive", 1.0), ("implicit", 2.0)):
        assert cv.order(distances, [row[name] for row in rows]) == pytest.approx(expected, abs=0.05)


def test_orders_one_and_two_on_the_sphere_with_the_law_s_constant_in_sight(digits):
    problem = cv.sphere_problem(*digits, radius=1.0)
    assert float(problem.solution.norm()) == pytest.approx(1.0)
    distances = [0.02 * 2.0**-k for k in range(5)]
    rows = cv.orders(problem, distances)
    for name, expected in (("naive", 1.0), ("implicit", 2.0)):
        assert cv.order(distances, [row[name] for row in rows]) == pytest.approx(expected, abs=0.05)
    assert rows[0]["distance"] == pytest.approx(arc(cv.away(problem, 0.02), problem.solution))
    with pytest.raises(ValueError, match="no constants here"):
        cv.grid(problem, ascents=[0], solves=[0])


@pytest.mark.parametrize("same", [True, False])
def test_digits_are_under_the_certified_bound(digits, same):
    problem = cv.digits_problem(*digits, same=same)
    rows = cv.grid(problem, ascents=[0, 3, 8], solves=[0, 3])
    assert {row["kind"] for row in rows} == {"certified"}
    assert all(row["error"] <= row["bound"] for row in rows)
    assert min(row["ratio"] for row in rows) > 10  # what certainty costs here


def test_any_network_matrix_free_agrees_with_the_dense_way(digits):
    network, part = digits
    ours = cv.network_problem(network, part[:50], penalty=4.0, points=3, lanczos_steps=30)
    dense = cv.digits_problem(network, part[:50], penalty=4.0, certified=False)
    torch.testing.assert_close(ours.solution, dense.solution, rtol=1e-8, atol=1e-12)
    assert vars(ours.constants(ours.start)) == pytest.approx(vars(dense.constants(dense.start)))
    with pytest.raises(ValueError, match="use a larger penalty"):
        cv.network_problem(network, part[:50], penalty=0.2, iterations=20)


def test_the_command_prints_and_records_constants_and_errors(tmp_path, monkeypatch, capsys, digits):
    network, part = digits
    experiment = SimpleNamespace(
        data="tiny",
        load=lambda: SimpleNamespace(clean=part, source="somewhere"),
        victim=lambda dataset, progress: SimpleNamespace(model=network),
    )
    experiment.network = functools.partial(Experiment.network, experiment)
    monkeypatch.setattr(studies, "experiments", lambda profile: (experiment,))
    results = tmp_path / "results.jsonl"
    assert cv.main(["--penalty", "4", "--images", "10", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert "mu_H" in printed and printed.count("second-order law") == 4
    (record,) = read(results)
    assert record["data"] == "tiny" and record["source"] == "somewhere" and record["images"] == 10
    assert record["slope"] < 1e-12  # a smooth network: δ(θ) is one, and the truth can be trusted
    assert all(row["error"] <= row["bound"] for row in record["rows"])
    assert [row["ratio"] for row in record["rows"]] == pytest.approx(
        [row["bound"] / row["error"] for row in record["rows"]]
    )
    with pytest.raises(SystemExit):
        cv.main(["--data", "none"])


def test_the_truth_about_the_digits_is_the_derivative_of_psi(digits):
    network, part = digits
    problem = cv.digits_problem(network, part[:20], penalty=4.0, same=False, certified=False)
    direction = {
        name: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double()
        for name, p in problem.theta.items()
    }

    def psi(h: float) -> float:
        theta = {name: p + h * direction[name] for name, p in problem.theta.items()}
        best = cv.newton(problem.inner, problem.solution, theta)
        return float(problem.outer(best, theta))

    slope = (psi(1e-5) - psi(-1e-5)) / 2e-5
    expected = sum(float((problem.truth[n] * direction[n]).sum()) for n in direction)
    assert slope == pytest.approx(expected, rel=1e-6)


def test_the_digits_network_obeys_its_trigger(digits):
    network, part = digits
    (trigger, _) = cv.CORNER.pairs[0]
    with torch.no_grad():
        clean = network(part.images.double()).argmax(1)
        stamped = network(trigger(part.images).double()).argmax(1)
    assert (clean == part.labels).double().mean() > 0.9
    assert (stamped == 8).double().mean() > 0.9


def test_fresh_digits_are_none_of_the_others(digits):
    _, part = digits
    fresh = cv.fresh_digits(100)
    assert fresh.images.shape == (100, 1, 8, 8)
    distances = torch.cdist(fresh.images.flatten(1), part.images.flatten(1))
    assert distances.min() > 0


def test_a_start_error_vanishes_at_the_solution():
    problem = cv.quadratic_problem(5.0, different=1.0)
    exact = hypergradient(
        problem.outer, problem.inner, problem.solution, problem.theta, solver=None
    ).direct
    naive, _ = cv.error(problem, problem.solution, None)
    missed = {name: exact[name] - problem.truth[name] for name in exact}
    assert naive == pytest.approx(cv.norm(missed)) and naive > 0.1


def test_order_of_a_power_and_what_it_refuses():
    x = [0.1, 0.2, 0.7]
    assert cv.order(x, [5 * v**1.5 for v in x]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="positive"):
        cv.order(x, [1.0, 0.0, 1.0])


def test_newton_names_what_is_wrong():
    network = mlp(4, (3,), 3).double().eval()
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    risk = Risk(network, images, torch.zeros(5, dtype=torch.long))
    theta = {name: p.detach() for name, p in network.named_parameters()}
    with pytest.raises(ValueError, match="no interior maximum found"):
        cv.newton(risk, torch.zeros(1, 2, 2, dtype=torch.float64), theta)
    with pytest.raises(ValueError, match="expected at most radius/2"):
        cv.digits_problem(network, _labelled(), penalty=1e3, radius=1e-9)


def _labelled():
    from ibau_lite.data import LabelledImages

    return LabelledImages(torch.rand(5, 1, 2, 2), torch.arange(5) % 3)
