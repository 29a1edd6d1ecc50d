"""Theorem 1 put to the test: measured errors of the hypergradient beside its bound.

Chapter 8 calls these functions. A `Problem` has a known maximiser δ(θ) and a known gradient ∇ψ, in
float64, so that an error is measured and not estimated.

    python -m ibau_lab.convergence --profile cpu --data gtsrb --penalty 20

samples the constants on a poisoned network of the first run, with a penalty that makes H concave,
and records errors beside bounds (some minutes of one CPU core; fewer with fewer --images).
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from ibau_lite.theory.certified import certified_constants
from ibau_lite.theory.convergence import (
    Constants,
    ascent_factor,
    damped,
    optimal_step,
    solver_factor,
)
from ibau_lite.theory.quadratic import quadratic
from ibau_lite.theory.sampled import sampled_constants
from torch import Tensor, nn

from ibau_lite.attacks import AllToOne, Attack, Patch
from ibau_lite.data import LabelledImages
from ibau_lite.hypergrad import ImplicitSystem, Objective, Parameters, ascent_step, hypergradient
from ibau_lite.minimax import Ascent, Risk
from ibau_lite.models import mlp
from ibau_lite.sets import Constraint, L2Ball, Sphere
from ibau_lite.solvers import MINRES, ConjugateGradient, FixedPoint, Solution
from ibau_lite.training import Recipe, fit

from .studies import command_line, measure_networks, small_digits

METHODS = ("fixed_point", "conjugate_gradient")

CORNER = Attack("corner", ((Patch.square(2, value=1.0), AllToOne(8)),))
"""A white 2×2 square in the bottom right corner of an 8×8 digit means class 8."""

_EXACT = ConjugateGradient(max_iter=500, tol=1e-15)


@dataclass(frozen=True, eq=False)
class Problem:
    """An inner and an outer objective with the truth about them at one θ.

    `solution` is δ(θ), `truth` is ∇ψ(θ), `start` is where an ascent begins. `bounds(delta)` gives
    the constants of Theorem 1 for δ̃ = delta (None: there are none). `constraint` is None for a
    maximum in the interior.
    """

    name: str
    inner: Objective
    outer: Objective
    theta: Parameters = field(repr=False)
    solution: Tensor = field(repr=False)
    truth: Parameters = field(repr=False)
    start: Tensor = field(repr=False)
    bounds: Callable[[Tensor], Constants] | None = field(repr=False, default=None)
    constraint: Constraint | None = None

    def constants(self, delta: Tensor) -> Constants:
        """The constants of Theorem 1 for δ̃ = delta; `ValueError` where it has none."""
        if self.bounds is None:
            raise ValueError(
                f"{self.name}: Theorem 1 has no constants here; its maximum is no hill"
            )
        return self.bounds(delta)


def quadratic_problem(
    kappa: float, *, moving: float = 0.0, different: float = 0.0, seed: int = 0
) -> Problem:
    """A random `theory.quadratic` of that condition number, its start at distance 1 from δ(θ).

    `moving` and `different` as in `theory.quadratic.quadratic`, which also raises.
    """
    problem, theta = quadratic(kappa, moving=moving, different=different, seed=seed)
    best = problem.solution(theta)
    away = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed + 1)).to(best)
    return Problem(
        name=f"quadratic, κ = {kappa:g}",
        inner=problem.inner,
        outer=problem.outer,
        theta=theta,
        solution=best,
        truth=problem.gradient(theta),
        start=best + away / away.norm(),
        bounds=functools.partial(problem.constants, theta),
    )


def digits_network(*, smooth: bool = True, seed: int = 0) -> tuple[nn.Module, LabelledImages]:
    """A network of 16 hidden units that reads 8×8 digits and obeys a trigger, and clean digits.

    Softplus, or ReLU if not `smooth`. `CORNER` poisons 20 % of the 1,000 training images. Returns
    the network in float64 and 200 clean training images [200, 1, 8, 8] as float32.
    """
    train = small_digits(seed).train
    network = mlp(64, (16,), 10, smooth=smooth, seed=seed)
    recipe = Recipe(epochs=20, lr=0.1, weight_decay=0.01, batch_size=50, channels_last=False)
    fit(network, CORNER.poison(train, 0.2, seed), recipe, seed=seed)
    return network.double().eval(), train[:200]


def fresh_digits(count: int = 200, *, seed: int = 0) -> LabelledImages:
    """Clean 8×8 digits [count, 1, 8, 8] that `digits_network` has not been trained on."""
    return small_digits(seed).test[:count]


def _cross_entropy(
    network: nn.Module, part: LabelledImages, penalty: float = 0.0
) -> tuple[Objective, Risk, Parameters, Tensor]:
    """H as a plain function (`torch.func` and `is` see one object), as a risk, θ, and δ = 0."""
    risk = Risk(network, part.images, part.labels, penalty=penalty)
    theta = {name: p.detach() for name, p in network.named_parameters()}
    zero = torch.zeros_like(part.images[0], dtype=torch.float64)
    return lambda delta, theta: risk(delta, theta), risk, theta, zero


def digits_problem(
    network: nn.Module,
    part: LabelledImages,
    *,
    penalty: float | None = None,
    same: bool = True,
    certified: bool = True,
    radius: float = 0.5,
) -> Problem:
    """H = cross-entropy of `network` (softplus, float64) − penalty·‖δ‖², started at δ = 0.

    F = H, or H without its penalty if not `same`. `certified` constants hold on the ball of
    `radius`; the others are sampled between and around δ(θ) and 0. ``penalty=None`` takes 1.5
    times the smallest certified one. Raises `ValueError` where H is not (certified or seen to be)
    strongly concave, or where 2‖δ(θ)‖ > radius for certified ones: the ascent might leave the ball.
    """
    if penalty is None:
        huge = certified_constants(_cross_entropy(network, part, 1e9)[1], radius)
        penalty = 1.5 * (2e9 - huge.mu_H) / 2
    inner, risk, theta, start = _cross_entropy(network, part, penalty)
    outer = inner if same else _cross_entropy(network, part)[0]
    best = newton(inner, start, theta)
    if certified and not 2 * float(best.norm()) <= radius:
        raise ValueError(f"‖δ(θ)‖ = {float(best.norm()):.3g}; expected at most radius/2")

    @functools.cache
    def constants() -> Constants:
        if certified:
            return certified_constants(risk, radius, None if same else best)
        return sampled_constants(inner, outer, best, start, theta)

    exact = ConjugateGradient(max_iter=200, tol=1e-14)
    truth = hypergradient(outer, inner, best, theta, solver=None if same else exact).total
    name = f"digits, penalty {penalty:.3g}"
    return Problem(name, inner, outer, theta, best, truth, start, lambda delta: constants())


def network_problem(
    network: nn.Module,
    part: LabelledImages,
    *,
    penalty: float,
    points: int = 1,
    lanczos_steps: int = 10,
    iterations: int = 200,
) -> Problem:
    """F = H = cross-entropy of any `network` − penalty·‖δ‖², with sampled constants, matrix-free.

    In float64. δ(θ) is the fixed point of δ ← ∇₁CE(δ)/2c, reached from zero; the constants are
    sampled between it and zero. A network with kinks (max-pooling) or with ELU has no ρ̂₁: its
    sampled value is one of a secant; and at a kink the iteration may jump to and fro for ever.
    Warns where it does, for ∇ψ is then approximate. Raises `ValueError` where it moves by more than
    a tenth of ‖δ‖ (the penalty is too small), and as `Constants` where H is not concave on the way.
    """
    network = copy.deepcopy(network).double().eval()
    inner, _, theta, start = _cross_entropy(network, part, penalty)
    bare = _cross_entropy(network, part)[1]
    best, left = start, math.inf
    for _ in range(iterations):
        moved = bare.value_and_gradient(best, theta)[1] / (2 * penalty)
        best, left = moved, float((moved - best).norm())
        if left < 1e-14:
            break
    if not left < 0.1 * float(best.norm()):
        raise ValueError(f"δ still moves by {left:.2g} a step; use a larger penalty")
    if left > 1e-9:
        warnings.warn(
            f"δ still moves by {left:.2g} a step, of a length of {float(best.norm()):.2g}: a kink; "
            "errors are measured against an approximate truth",
            RuntimeWarning,
            stacklevel=2,
        )

    @functools.cache
    def constants() -> Constants:
        return sampled_constants(
            inner, inner, best, start, theta, points=points, steps=lanczos_steps
        )

    truth = hypergradient(inner, inner, best, theta, solver=None).total
    name = f"network, penalty {penalty:.3g}"
    return Problem(name, inner, inner, theta, best, truth, start, lambda delta: constants())


def sphere_problem(network: nn.Module, part: LabelledImages, *, radius: float) -> Problem:
    """F = H = cross-entropy of `network` (softplus, float64), with ‖δ‖ = `radius` at the maximum.

    δ(θ) is where an ascent in the ball ends, settled by Newton's method on the sphere; ∇ψ is the
    direct term there (Danskin). Raises as `settle`.
    """
    inner, risk, theta, _ = _cross_entropy(network, part)
    found = Ascent(60)(risk, theta, L2Ball(radius)).delta
    best = settle(inner, found * (radius / found.norm()), theta)
    truth = hypergradient(inner, inner, best, theta, solver=None).total
    name = f"digits on the sphere, radius {radius:g}"
    return Problem(name, inner, inner, theta, best, truth, found, constraint=Sphere())


def settle(inner: Objective, delta: Tensor, theta: Parameters, *, steps: int = 8) -> Tensor:
    r"""A maximiser on the sphere through `delta`, by Newton's method on it.

    .. math:: \delta \leftarrow \Pi(\delta + M^+ P\, \nabla_1 H), \qquad
              M = P(\lambda I - \nabla_1^2 H)P .

    Raises `ValueError` where ‖P∇₁H‖ is not small after `steps`, or λ ≤ 0: no maximum on the ball.
    """
    radius = delta.norm()
    solver = MINRES(max_iter=2 * delta.numel(), tol=1e-13)
    for step in range(steps + 1):
        system = ImplicitSystem(inner, delta, theta, constraint=Sphere())
        slope = system.tangent.project(system.inner.gradient)
        if float(slope.norm()) < 1e-14 or step == steps:
            break
        newton_step = system.solve(solver, slope).x
        assert isinstance(newton_step, Tensor)
        moved = delta + system.tangent.project(newton_step)
        delta = moved * (radius / moved.norm())
    left, multiplier = float(slope.norm()), float(system.tangent.multiplier)
    if not (left < 1e-11 and multiplier > 0):
        raise ValueError(
            f"no maximum on the sphere found: ‖P∇₁H‖ = {left:.2g}, λ = {multiplier:.2g}; "
            "expected 0 and > 0: start nearer to one"
        )
    return delta


def away(problem: Problem, distance: float, *, seed: int = 0) -> Tensor:
    """A δ̃ at that distance from δ(θ), in a random direction; on the sphere along a great circle."""
    best = problem.solution
    u = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)).to(best)
    if problem.constraint is None:
        return best + distance / u.norm() * u
    radius = best.norm()
    u = u - (u * best).sum() / radius**2 * best
    angle = distance / float(radius)
    return math.cos(angle) * best + math.sin(angle) * radius / u.norm() * u


def newton(inner: Objective, start: Tensor, theta: Parameters, *, steps: int = 20) -> Tensor:
    """The interior maximiser of a concave `inner`, by Newton's method with dense Hessians.

    Raises `ValueError` where the gradient is not small after `steps`, or H not concave there.
    """
    delta = start.detach()
    for number in range(steps + 1):
        slope = torch.func.grad(inner)(delta, theta)
        hessian = torch.func.hessian(inner)(delta, theta).reshape(delta.numel(), -1)
        if float(slope.norm()) < 1e-14 or number == steps:
            break
        # Least squares: where no maximum is, ∇₁²H may be singular on the way.
        step = torch.linalg.lstsq(hessian, slope.reshape(-1, 1), driver="gelsd").solution
        delta = delta - step.reshape(delta.shape)
    left, highest = float(slope.norm()), float(torch.linalg.eigvalsh(hessian)[-1])
    if not (left < 1e-11 and highest < 0):
        raise ValueError(
            f"no interior maximum found: ‖∇₁H‖ = {left:.2g}, largest eigenvalue of ∇₁²H = "
            f"{highest:.2g}; expected 0 and < 0: use a larger penalty"
        )
    return delta


def ascend(problem: Problem, steps: int) -> Iterable[Tensor]:
    """δ₀, δ₁, …, δ_T of gradient ascent from `problem.start` with the step 2/(μ_H + L_H)."""
    c = problem.constants(problem.start)
    step = ascent_step(problem.inner, optimal_step(c.mu_H, c.L_H))
    delta = problem.start
    yield delta
    for _ in range(steps):
        delta = step(delta, problem.theta).detach()
        yield delta


def error(
    problem: Problem, delta: Tensor, solver: Callable[..., Solution] | None
) -> tuple[float, Any]:
    """(‖∇ψ̃ − ∇ψ‖, the `Hypergradient`) at δ̃ = delta; ``solver=None`` is the naive gradient."""
    h = hypergradient(
        problem.outer, problem.inner, delta, problem.theta,
        solver=solver, constraint=problem.constraint,
    )  # fmt: skip
    return norm({name: h.total[name] - problem.truth[name] for name in problem.truth}), h


def grid(
    problem: Problem,
    *,
    ascents: Sequence[int],
    solves: Sequence[int],
    methods: Sequence[str] = METHODS,
    dampings: Sequence[float] = (0.0,),
) -> list[dict[str, Any]]:
    """Measured error and bound for every number of ascent steps T and solver steps K.

    One dict a cell: T, K, method, damping, distance ‖e‖, error, `bound` (Theorem 1, with ‖e‖ and
    ‖v‖ as measured), `prior` (the same from T, K and ‖e₀‖ only), `second` (the second-order law,
    None where F is not H or there is damping), and ratio = bound/error. Damping is in units of μ_H.
    """
    first = problem.constants(problem.start)
    far = float((problem.start - problem.solution).norm())
    rows = []
    for T, delta in enumerate(ascend(problem, max(ascents))):
        if T not in ascents:
            continue
        c = problem.constants(delta) if first.kind == "exact" else first
        distance = float((delta - problem.solution).norm())
        size = float(error(problem, delta, _EXACT)[1].solution.x.norm())  # ‖v‖ = ‖A⁻¹g‖
        known = c.M / c.mu_H + (c.eta_1 * ascent_factor(c, T) * far) / c.mu_H
        for method, damping, K in product(methods, dampings, solves):
            m = damping * c.mu_H
            kappa, bias = damped(c.mu_H, c.L_H, m)
            left = solver_factor(kappa, K, method) + bias
            measured, _ = error(problem, delta, _solver(method, c, K, m))
            bound = c.bound(distance, left * size)
            rows.append(
                {
                    "T": T, "K": K, "method": method, "damping": damping,
                    "kappa": c.kappa, "kind": c.kind, "distance": distance,
                    "error": measured, "bound": bound,
                    "second": c.second_order(distance, left) if c.M == 0 else None,
                    "prior": c.bound(ascent_factor(c, T) * far, left * known),
                    "ratio": bound / measured if measured else math.inf,
                }
            )  # fmt: skip
    return rows


def _solver(method: str, c: Constants, steps: int, damping: float) -> Callable[..., Solution]:
    if method == "fixed_point":
        step = optimal_step(c.mu_H + damping, c.L_H + damping)
        return FixedPoint(step=step, max_iter=steps, damping=damping)
    return ConjugateGradient(max_iter=steps, damping=damping)


def orders(
    problem: Problem,
    distances: Sequence[float],
    *,
    solvers: Mapping[str, Callable[..., Solution] | None] | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Errors at δ̃ = `away` at each distance, in one direction: one dict a distance.

    By default of the naive gradient and of the implicit one with an exact solve; `solvers` maps
    other names to solvers.
    """
    chosen = solvers or {"naive": None, "implicit": _EXACT}
    rows = []
    for distance in distances:
        delta = away(problem, distance, seed=seed)
        errors = {name: error(problem, delta, solver)[0] for name, solver in chosen.items()}
        rows.append({"distance": distance, **errors})
    return rows


def order(distances: Sequence[float], errors: Sequence[float]) -> float:
    """The slope of log(error) over log(distance), by least squares. ValueError for a zero."""
    if len(distances) < 2 or not all(v > 0 for v in [*distances, *errors]):
        raise ValueError("a slope in log-log needs two points or more, all of them positive")
    return float(np.polyfit(np.log(distances), np.log(errors), 1)[0])


def norm(theta: Parameters) -> float:
    """The Euclidean norm of a dict like θ."""
    return float(torch.stack([part.norm() for part in theta.values()]).norm())


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample the constants on poisoned networks; print and record errors beside bounds."""
    parser = command_line(__doc__, "convergence", "only this data set")
    parser.add_argument("--penalty", type=float, default=20.0)
    parser.add_argument("--images", type=int, default=20)
    return measure_networks(parser, arguments, ["penalty"], _on_network, _told)


def _on_network(
    experiment: Any, dataset: Any, model: nn.Module, part: LabelledImages, penalty: float
) -> dict[str, Any]:
    """What `main` records: sampled constants, and errors beside bounds, as JSON.

    `slope` is the ‖∇₁H‖ that is left at δ(θ): it says how far the truth is to be trusted.
    """
    problem = network_problem(model, part, penalty=penalty)
    rows = grid(problem, ascents=[0, 2], solves=[0, 4], methods=["conjugate_gradient"])
    slope = torch.func.grad(problem.inner)(problem.solution, problem.theta)
    constants = {**vars(problem.constants(problem.start))}
    del constants["kind"]
    kept = ("T", "K", "distance", "error", "bound", "second", "ratio")
    return {
        "images": len(part),
        "penalty": penalty,
        "norm": float(problem.solution.norm()),
        "slope": float(slope.norm()),
        "truth": norm(problem.truth),
        "constants": constants,
        "rows": [{key: row[key] for key in kept} for row in rows],
    }


def _told(record: Mapping[str, Any]) -> str:
    lines = [
        f"{record['data']}, penalty {record['penalty']:g}: ‖δ(θ)‖ = {record['norm']:.3g}",
        "  ".join(f"{name} {value:.3g}" for name, value in record["constants"].items()),
    ]
    lines += [
        f"T = {row['T']}, K = {row['K']}: error {row['error']:.3g}, bound {row['bound']:.3g}, "
        f"second-order law {row['second']:.3g}"
        for row in record["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
