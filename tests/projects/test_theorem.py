"""Project (c): each assumption of T1 can be dropped, and a violated one is named."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ibau_lite.theory.convergence import Constants

from ibau_lab import projects
from ibau_lab.projects import theorem
from ibau_lab.projects.submission import SubmissionError
from ibau_lab.projects.theorem import GROWTH, HOLDS, NEEDED, WORTH, Problem

HERE = Path(__file__).parent
ONES = dict.fromkeys(("mu_H", "L_H", "eta_1", "eta_2", "rho_1", "rho_2", "L_21", "M"), 1.0)


def without(dropped: int, **changes: float) -> dict[str, float]:
    kept = {name: value for name, value in ONES.items() if name not in NEEDED[dropped]}
    return {**kept, **changes}


def parabola(delta, theta):
    return -(delta**2) / 2 + delta * theta


def obedient(k: int, dropped: int = 4) -> Problem:
    """Every assumption holds, with all constants 1."""
    return Problem(
        H=parabola, F=lambda delta, theta: delta**2 / 2, theta=0.0, delta_tilde=4.0**-k,
        U=(-0.5, 0.5), radius=1.0, dropped=dropped, constants=without(dropped),
    )  # fmt: skip


def on_the_boundary(k: int) -> Problem:
    return replace(
        obedient(k, 1), F=lambda delta, theta: delta, theta=2.0, U=(0.5, 1.0),
        delta_tilde=1 - 4.0**-k,
    )  # fmt: skip


def at_a_kink(k: int) -> Problem:
    return replace(
        obedient(k, 1), H=lambda delta, theta: -(delta - theta).abs() - delta**2 / 2,
        F=lambda delta, theta: delta, theta=0.2, delta_tilde=0.2 + 4.0**-k,
    )  # fmt: skip


def ever_flatter(k: int) -> Problem:
    return replace(
        obedient(k, 2), H=lambda delta, theta: -(4.0**-k) * delta**2 / 2 + delta * theta,
        delta_tilde=0.25,
    )  # fmt: skip


def square_root(k: int) -> Problem:
    return replace(obedient(k, 3), F=lambda delta, theta: delta.abs() ** 1.5)


def ever_steeper(k: int) -> Problem:
    return replace(
        obedient(k, 5), H=lambda delta, theta: parabola(delta, theta) - delta**3 / 6,
        F=lambda delta, theta: 2.0**k * delta, delta_tilde=0.25,
        constants=without(5, mu_H=0.5, L_H=1.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    "counterexample", [on_the_boundary, at_a_kink, ever_flatter, square_root, ever_steeper]
)
def test_each_assumption_can_be_dropped(counterexample) -> None:
    """Assumption 4 is dropped by the solution."""
    answer = theorem.answer(None, counterexample, {})
    verdict = theorem.judge(0, answer, 1.0)
    assert verdict.points == WORTH[counterexample(1).dropped], verdict
    assert "the conclusion fails" in verdict.message


def test_the_error_of_a_problem_in_closed_form() -> None:
    """F'(e) / |e| = 1.5 |e|^(−1/2), as −∇₁²H and the mixed derivative are 1."""
    found = theorem.check(square_root(3))
    assert found["|e|"] == pytest.approx(4.0**-3)
    assert found["error / |e|"] == pytest.approx(1.5 * 2**3)


def test_where_all_assumptions_hold_the_bound_does() -> None:
    constants = Constants(**ONES, kind="exact")
    for k in range(1, 7):
        found = theorem.check(obedient(k))
        assert found["error / |e|"] <= constants.stability
    verdict = theorem.judge(0, theorem.answer(None, obedient, {}), 1.0)
    assert verdict.points == HOLDS and "does not fail" in verdict.message


def hidden_from_autograd(delta, theta):
    return -(delta**2) / 2 + delta * theta.detach()


def touchy(delta, theta):
    raise ZeroDivisionError("ouch")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"theta": 2.0, "U": (0.5, 1.0), "delta_tilde": 0.7},
            r"assumption 1 \(interior.* on the boundary",
        ),
        ({"U": (0.5, 1.0), "delta_tilde": 0.7}, "the maximum of H over the ball is at δ = 0, out"),
        ({"delta_tilde": 0.0}, r"\|e\| = .*at least 1e-08"),
        ({"F": lambda d, t: d.abs()}, r"assumption 1 .*∇₁F jumps at δ = "),
        ({"H": lambda d, t: 2 * parabola(d, t)}, r"assumption 2 .*−∇₁²H = 2 .*not in \[1, 1\]"),
        ({"H": lambda d, t: parabola(d, t) / 2}, r"assumption 2 .*−∇₁²H = 0.5 "),
        ({"F": lambda d, t: d**2}, r"assumption 3 .*∇₁F changes by 2 times .*eta_1 = 1"),
        ({"F": lambda d, t: 2 * d * t}, r"assumption 3 .*∇₂F changes by 2 times .*eta_2 = 1"),
        ({"H": lambda d, t: 3 * parabola(d, t)}, "assumption 2"),
        ({"F": lambda d, t: 2 * d}, r"assumption 5 .*∇₁F at δ\(θ\)\| = 2, and M = 1"),
        ({"H": lambda d, t: parabola(d, 2 * t)}, r"assumption 5 .*at δ̃\| = 2, and L_21 = 1"),
        ({"H": hidden_from_autograd}, "∇²₂₁H by automatic differentiation is not the derivative"),
        ({"H": touchy}, r"ZeroDivisionError: ouch \(line \d+: raise ZeroDivisionError"),
        ({"H": lambda d, t: parabola(d, t).sum()}, "H: float64 of the shape of delta"),
        ({"constants": {"mu_H": 1.0}}, "the constants are .*'L_21'.* got .'mu_H'"),
        ({"dropped": 6}, "1 to 5 is expected, got 6"),
        ({"U": (-2.0, 0.5)}, "−C_δ ≤ low"),
        ({"theta": float("nan")}, "finite numbers"),
    ],
)
def test_what_is_wrong_is_named(changes: dict, message: str) -> None:
    def counterexample(k: int) -> Problem:
        return replace(obedient(k), **changes)

    with pytest.raises(SubmissionError, match=message):
        theorem.answer(None, counterexample, {})


def test_rho_is_checked_where_it_is_kept() -> None:
    """H bends more at one end of U than at the other."""
    bent = replace(
        obedient(1, 3), H=lambda delta, theta: parabola(delta, theta) - delta**3 / 3,
        U=(-0.1, 0.5), constants=without(3, mu_H=0.5, L_H=2.5),
    )  # fmt: skip
    with pytest.raises(SubmissionError, match="assumption 4 .*∇₁²H changes by 2 times.*rho_1 = 1"):
        theorem.check(bent)


def test_a_family_is_no_counterexample_where_one_problem_is_asked_for() -> None:
    def family(k: int) -> Problem:
        return replace(obedient(k, 3), F=lambda delta, theta: 2.0**k * delta**2)

    with pytest.raises(SubmissionError, match="k = 2: who drops assumption 3 gives one problem"):
        theorem.answer(None, family, {})

    def sliding(k: int) -> Problem:
        return replace(obedient(k, 2), constants=without(2, rho_1=float(k)))

    with pytest.raises(SubmissionError, match="k = 2: dropped and the constants must not depend"):
        theorem.answer(None, sliding, {})


def test_a_jump_is_told_from_a_steep_slope() -> None:
    jump = partial(theorem._jump, points=theorem._points(obedient(1)), name="F1")
    steps = replace(obedient(1), F=lambda delta, theta: (delta - 0.1).abs())
    where, size = jump(steps)
    assert where == pytest.approx(0.1, abs=1e-3) and size == pytest.approx(2.0)
    assert jump(square_root(1)) is None and jump(obedient(1)) is None


def test_solution_and_wrong_submission() -> None:
    right = projects.grade("theorem", HERE / "solutions" / "my_theorem.py")
    assert right.points == WORTH[4] and right.seconds > 0
    ratios = [row["error / |e|"] for row in right.rows]
    assert min(b / a for a, b in itertools.pairwise(ratios)) >= GROWTH
    wrong = projects.grade("theorem", HERE / "wrong" / "my_theorem.py")
    assert wrong.points == 0
    assert "assumption 1 (interior maximum) does not hold: ∇₁F jumps at δ = " in wrong.message
