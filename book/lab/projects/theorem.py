r"""Project (c): drop one assumption of T1, and show that its conclusion fails.

T1 says: under five assumptions ‖∇ψ̃ − ∇ψ‖ ≤ 𝒞 ‖e‖ for an exact solve, with e = δ̃ − δ(θ) and a 𝒞
that is made of eight constants. Here δ and θ are one real number each, so that a computer can look
at every point of U. The submission defines

    def counterexample(k): ...   # k = 1, 2, …, 6 → a `Problem`

with an assumption that is dropped, the constants of the others, the same for every k, and
‖∇ψ̃ − ∇ψ‖ / ‖e‖ that grows by half or more from each k to the next. Who drops 1, 3 or 4 must do it
with ONE problem, in which only δ̃ and U depend on k. For 2 and 5 it may be a family. This is a check
in float64 on thousands of points, not a proof: the proof is in the report.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .submission import SubmissionError, asked
from .verdict import Verdict

FUNCTION = "counterexample"

NEEDED: dict[int, tuple[str, ...]] = {
    1: (),
    2: ("mu_H", "L_H"),
    3: ("eta_1", "eta_2"),
    4: ("rho_1", "rho_2"),
    5: ("L_21", "M"),
}
"""The constants that go with each assumption of T1."""

NAMES = {
    1: "interior maximum",
    2: "strong concavity and smoothness",
    3: "Lipschitz gradients",
    4: "Lipschitz Hessians",
    5: "sizes",
}
WORTH = {1: 60.0, 2: 45.0, 3: 60.0, 4: 60.0, 5: 45.0}
"""The points for a counterexample that is confirmed; a family is easier to find than a problem."""

HOLDS = 20.0
"""The points if the other assumptions hold and the conclusion does not fail."""

STEPS, GROWTH, SMALLEST = 6, 1.5, 1e-8

Values = dict[str, Tensor]
Objective = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A minimax problem in two real numbers, and an inner solution that is a little wrong.

    `H` and `F` take two float64 tensors (delta, theta) of one shape, and work elementwise. `theta`
    is where the gradient is taken, `radius` is C_δ, `delta_tilde` is δ̃ and `U` = (low, high) is the
    interval on which the assumptions hold. `dropped` is the number of the dropped assumption and
    `constants` holds the constants of the others: see `NEEDED`.
    """

    H: Objective
    F: Objective
    theta: float
    delta_tilde: float
    U: tuple[float, float]
    radius: float
    dropped: int
    constants: Mapping[str, float] = field(default_factory=dict)


def given(seed: int) -> dict[str, Any]:
    """Nothing is hidden."""
    return {}


def answer(module: ModuleType, counterexample: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Check the problems here, in the student's process: the functions are the student's."""
    problems = [asked(partial(counterexample, k), f"k = {k}") for k in range(1, STEPS + 1)]
    _check_statement(problems)
    rows = []
    for k, problem in enumerate(problems, 1):
        found = asked(partial(check, problem, f"k = {k}"), f"k = {k}")
        rows.append({"k": k, **found})
    if problems[0].dropped in (1, 3, 4):
        _check_one_problem(problems)
    growth = [b["error / |e|"] / a["error / |e|"] for a, b in itertools.pairwise(rows)]
    return {"dropped": problems[0].dropped, "rows": rows, "growth": min(growth)}


def judge(seed: int, answer: dict[str, Any], limit: float) -> Verdict:
    """The points: all other assumptions hold, and the conclusion fails."""
    dropped, growth = int(answer["dropped"]), float(answer["growth"])
    head = f"without assumption {dropped} ({NAMES[dropped]}): all others hold"
    if growth >= GROWTH:
        said = f"{head}, and the conclusion fails"
        return Verdict(WORTH[dropped], said, answer["rows"])
    said = (
        f"{head}, but the conclusion does not fail: error / |e| is to grow by {GROWTH:g} at every "
        f"step of k, and grew by {growth:.3g} at one"
    )
    return Verdict(HOLDS, said, answer["rows"])


def check(problem: Problem, where: str = "problem") -> dict[str, float]:
    """Check one problem: δ(θ), e, both gradients and the error.

    Raises `SubmissionError` if an assumption that is not dropped is violated; the message says
    which, where, and by how much.
    """
    points = _points(problem)
    _check_derivatives(problem, points, where)
    star = maximiser(problem, problem.theta)
    low, high = problem.U
    if not low <= star <= high:
        raise SubmissionError(
            f"{where}: the maximum of H over the ball is at δ = {star:.6g}, outside of U"
        )
    error = problem.delta_tilde - star
    if not abs(error) >= SMALLEST:
        raise SubmissionError(
            f"{where}: |e| = {abs(error):.2g}; at least {SMALLEST:g} is asked for, so that float64 "
            "can tell the two gradients apart"
        )
    points = _points(problem, star)
    _check_assumptions(problem, points, star, where)
    at = derivatives(problem, torch.tensor([star, problem.delta_tilde], dtype=torch.float64))
    slope = [_implicit(at, 0), _implicit(at, 1)]
    if problem.dropped == 1:  # the formula is a part of what is dropped
        slope[0] = _slope_of_psi(problem, where)
    missed = abs(slope[1] - slope[0])
    if not math.isfinite(missed):
        raise SubmissionError(f"{where}: the gradients {slope} are not finite: ∇₁²H must not be 0")
    return {
        "delta(theta)": star,
        "|e|": abs(error),
        "gradient": slope[0],
        "computed": slope[1],
        "error / |e|": missed / abs(error),
    }


def derivatives(problem: Problem, delta: Tensor, theta: float | None = None) -> Values:
    """All derivatives that T1 speaks of, at each δ [N], by automatic differentiation."""
    d = delta.detach().clone().requires_grad_()
    t = torch.full_like(d, problem.theta if theta is None else theta).requires_grad_()

    def grad(of: Tensor, *by: Tensor) -> tuple[Tensor, ...]:
        zero = 0 * d.sum() + 0 * t.sum()  # an objective need not depend on both
        return torch.autograd.grad(of.sum() + zero, by, create_graph=True, materialize_grads=True)

    H, F = problem.H(d, t), problem.F(d, t)
    for name, value in (("H", H), ("F", F)):
        if value.shape != d.shape or value.dtype != torch.float64:
            raise SubmissionError(
                f"{name}: float64 of the shape of delta is expected, got {value.dtype} "
                f"{list(value.shape)}"
            )
    (H1,) = grad(H, d)
    H11, H12 = grad(H1, d, t)
    F1, F2 = grad(F, d, t)
    made = {"H": H, "F": F, "H1": H1, "H11": H11, "H12": H12, "F1": F1, "F2": F2}
    return {name: value.detach() for name, value in made.items()}


def maximiser(problem: Problem, theta: float) -> float:
    """δ(θ): the largest of many values of H on the ball, then bisection of ∇₁H beside it."""
    ball = torch.linspace(-problem.radius, problem.radius, 20_001, dtype=torch.float64)
    inside = torch.linspace(*problem.U, 2_001, dtype=torch.float64)
    points = torch.cat([ball, inside]).unique()
    best = int(derivatives(problem, points, theta)["H"].argmax())
    low, high = (float(points[min(max(k, 0), len(points) - 1)]) for k in (best - 1, best + 1))
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        rises = derivatives(problem, torch.tensor([middle], dtype=torch.float64), theta)["H1"] > 0
        low, high = (middle, high) if bool(rises) else (low, middle)
    ends = torch.tensor([low, high, float(points[best])], dtype=torch.float64)
    return float(ends[int(derivatives(problem, ends, theta)["H"].argmax())])


def _implicit(at: Values, k: int) -> float:
    """∇₂F − B A⁻¹ g."""
    return float(at["F2"][k] - at["H12"][k] * at["F1"][k] / at["H11"][k])


def _slope_of_psi(problem: Problem, where: str) -> float:
    """dψ/dθ from ψ(θ) = F(δ(θ), θ) alone, without the formula that is in doubt."""

    def psi(theta: float) -> float:
        best = torch.tensor([maximiser(problem, theta)], dtype=torch.float64)
        return float(derivatives(problem, best, theta)["F"])

    step = 1e-5 * (1 + abs(problem.theta))
    below, here, above = (psi(problem.theta + k * step) for k in (-1, 0, 1))
    left, right = (here - below) / step, (above - here) / step
    if abs(left - right) > 1e-2 * (1 + abs(left)):
        raise SubmissionError(
            f"{where}: ψ has the slopes {left:.6g} and {right:.6g} on the two sides of θ: the "
            "gradient that T1 speaks of does not exist there"
        )
    return (above - below) / (2 * step)


def _points(problem: Problem, *centres: float) -> Tensor:
    """Points of U: a grid, a random sample, and more and more of them toward each centre."""
    low, high = problem.U
    grid = torch.linspace(low, high, 2_001, dtype=torch.float64)
    draws = torch.rand(2_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [grid, low + (high - low) * draws]
    near = (high - low) * 2.0 ** -torch.arange(1.0, 31.0, dtype=torch.float64)
    for centre in (*centres, problem.delta_tilde):
        middle = torch.tensor([centre], dtype=torch.float64)
        parts += [middle - near, middle, middle + near]
    points = torch.cat(parts)
    return points[(points >= low) & (points <= high)].unique()


def _check_statement(problems: list[Any]) -> None:
    """Every k gives a `Problem` with one and the same statement, in numbers that make sense."""
    for k, problem in enumerate(problems, 1):
        if not isinstance(problem, Problem):
            raise SubmissionError(f"k = {k}: a Problem is expected, got {type(problem).__name__}")
        if problem.dropped not in NEEDED:
            raise SubmissionError(f"dropped: 1 to 5 is expected, got {problem.dropped!r}")
        wanted = {name for key, names in NEEDED.items() if key != problem.dropped for name in names}
        if set(problem.constants) != wanted:
            raise SubmissionError(
                f"k = {k}: without assumption {problem.dropped} the constants are "
                f"{sorted(wanted)}, got {sorted(problem.constants)}"
            )
        low, high = problem.U
        numbers = [problem.theta, problem.delta_tilde, low, high, problem.radius]
        if not all(map(math.isfinite, [*numbers, *problem.constants.values()])):
            raise SubmissionError(f"k = {k}: finite numbers are expected, got {problem}")
        if not -problem.radius <= low <= problem.delta_tilde <= high <= problem.radius:
            raise SubmissionError(
                f"k = {k}: −C_δ ≤ low ≤ δ̃ ≤ high ≤ C_δ is expected, got C_δ = {problem.radius}, "
                f"U = [{low}, {high}], δ̃ = {problem.delta_tilde}"
            )
        first = problems[0]
        if (problem.dropped, dict(problem.constants)) != (first.dropped, dict(first.constants)):
            raise SubmissionError(f"k = {k}: dropped and the constants must not depend on k")


def _check_one_problem(problems: list[Problem]) -> None:
    first = problems[0]
    for k, other in enumerate(problems[1:], 2):
        same = (other.theta, other.radius) == (first.theta, first.radius)
        where = torch.linspace(-first.radius, first.radius, 501, dtype=torch.float64)
        for theta in (first.theta, first.theta + 0.01):
            one, two = (derivatives(p, where, theta) for p in (first, other))
            same = same and all(torch.equal(one[name], two[name]) for name in ("H", "F"))
        if not same:
            raise SubmissionError(
                f"k = {k}: who drops assumption {first.dropped} gives one problem: H, F, theta and "
                "radius must not depend on k, only delta_tilde and U"
            )


def _check_derivatives(problem: Problem, points: Tensor, where: str) -> None:
    """Automatic differentiation against differences: no derivative is hidden from it."""
    some, step = points[:: max(1, len(points) // 200)], 1e-6
    at = derivatives(problem, some)
    ahead, behind = derivatives(problem, some + step), derivatives(problem, some - step)
    up, down = (derivatives(problem, some, problem.theta + s) for s in (step, -step))
    pairs = {
        "∇₁H": ("H1", "H", ahead, behind),
        "∇₁²H": ("H11", "H1", ahead, behind),
        "∇²₂₁H": ("H12", "H1", up, down),
        "∇₁F": ("F1", "F", ahead, behind),
        "∇₂F": ("F2", "F", up, down),
    }
    for name, (claimed, of, above, below) in pairs.items():
        measured = (above[of] - below[of]) / (2 * step)
        apart = (measured - at[claimed]).abs() > 0.05 * (1 + at[claimed].abs())
        if not bool(torch.isfinite(at[of]).all()) or float(apart.double().mean()) > 0.05:
            raise SubmissionError(
                f"{where}: {name} by automatic differentiation is not the derivative of what the "
                "function returns, or not finite; use torch's elementwise functions on the tensors "
                "that are given"
            )


def _check_assumptions(problem: Problem, points: Tensor, star: float, where: str) -> None:
    """All assumptions of T1 but the dropped one, at `points` of U."""
    at, c, dropped = derivatives(problem, points), problem.constants, problem.dropped
    here = derivatives(problem, torch.tensor([star, problem.delta_tilde], dtype=torch.float64))

    def refuse(number: int, why: str) -> None:
        raise SubmissionError(
            f"{where}: assumption {number} ({NAMES[number]}) does not hold: {why}"
        )

    if dropped != 1:
        if abs(star) >= problem.radius * (1 - 1e-9):
            refuse(1, f"δ(θ) = {star:.6g} lies on the boundary of the ball")
        if float(here["H1"][0].abs()) > 1e-6 * (1 + float(at["H1"].abs().max())):
            refuse(1, f"∇₁H = {float(here['H1'][0]):.3g} at the maximum δ(θ) = {star:.6g}")
        for name, shown in (("H11", "∇₁²H"), ("H12", "∇²₂₁H"), ("F1", "∇₁F"), ("F2", "∇₂F")):
            if jump := _jump(problem, points, name):
                refuse(1, f"{shown} jumps at δ = {jump[0]:.6g}, by {jump[1]:.3g}")
    if dropped != 2:
        mu, smooth = c["mu_H"], c["L_H"]
        if not 0 < mu <= smooth:
            refuse(2, f"0 < mu_H <= L_H is expected, got {mu:g} and {smooth:g}")
        slack = 1e-9 * (1 + smooth)
        curved = -at["H11"]
        falls = -at["H1"].diff() - mu * points.diff()
        for bad in (curved < mu - slack, curved > smooth + slack, ~torch.isfinite(curved)):
            if bool(bad.any()):
                k = int(bad.nonzero()[0])
                refuse(2, f"−∇₁²H = {float(curved[k]):.6g} at δ = {float(points[k]):.6g}, "
                          f"not in [{mu:g}, {smooth:g}]")  # fmt: skip
        if float(falls.min()) < -1e-9 * (1 + float(at["H1"].abs().max())):
            refuse(2, f"∇₁H rises near δ = {float(points[int(falls.argmin())]):.6g}")
    elif float(here["H11"].max()) >= 0:
        refuse(2, "−∇₁²H must be positive at δ(θ) and at δ̃, or there is nothing to compute")
    lipschitz = {
        3: {"F1": ("eta_1", "∇₁F"), "F2": ("eta_2", "∇₂F")},
        4: {"H11": ("rho_1", "∇₁²H"), "H12": ("rho_2", "∇²₂₁H")},
    }
    for number, conditions in lipschitz.items():
        for name, (constant, shown) in conditions.items() if number != dropped else ():
            change, apart = at[name].diff().abs(), points.diff()
            slack = 1e-9 * (1 + float(at[name].abs().max()))
            over = change - (1 + 1e-6) * c[constant] * apart - slack
            if not float(over.max()) <= 0:
                k = int(over.argmax())
                refuse(
                    number,
                    f"between δ = {float(points[k]):.6g} and {float(points[k + 1]):.6g} {shown} "
                    f"changes by {float(change[k] / apart[k]):.3g} times the distance, and "
                    f"{constant} = {c[constant]:g} is stated",
                )
    if dropped != 5:
        sizes = {"L_21": ("∇²₂₁H at δ̃", here["H12"][1]), "M": ("∇₁F at δ(θ)", here["F1"][0])}
        for constant, (shown, value) in sizes.items():
            size = abs(float(value))
            if not size <= c[constant] * (1 + 1e-6) + 1e-9:
                refuse(5, f"|{shown}| = {size:.6g}, and {constant} = {c[constant]:g} is stated")


def _jump(problem: Problem, points: Tensor, name: str) -> tuple[float, float] | None:
    """Where and by how much a derivative jumps: its largest step does not shrink with the grid."""
    low, high = float(points[0]), float(points[-1])
    steps = derivatives(problem, points)[name].diff().abs()
    first = float(steps.max())
    if first < 1e-6:
        return None
    k = int(steps.argmax())
    low, high = float(points[k]), float(points[k + 1])
    size = first
    for _ in range(4):
        finer = torch.linspace(low, high, 65, dtype=torch.float64)
        if high - low < 1e-12:
            break
        steps = derivatives(problem, finer)[name].diff().abs()
        k, size = int(steps.argmax()), float(steps.max())
        low, high = float(finer[k]), float(finer[k + 1])
    return (low, size) if not size <= 0.3 * first else None
