r"""Derivatives through the solution of an inner problem: δ(θ) with ∇₁ inner(δ(θ), θ) = 0.

Pure mathematics: `inner` and `outer` are functions (delta, theta) -> scalar, ``delta`` is a tensor
and ``theta`` a dict of tensors; nothing here knows what they mean. With A = ∇₁² inner [d × d],
B = ∇²₂₁ inner [p × d] and g = ∇₁ outer [d], at an interior stationary point

    ∇δ(θ) = -A⁻¹ Bᵀ,      ∇ψ(θ) = ∇₂ outer - B A⁻¹ g      for ψ(θ) = outer(δ(θ), θ).

With an active constraint A - λI on the tangent space takes the place of A (see `ibau_lite.sets`).
Every derivative is one of `torch.func`; `ibau_lite.speed` has the same second derivatives faster.
Attention takes the kernel that can be differentiated twice, and an operation that cannot, as
hardsigmoid, is a ValueError that names it.

======================== ==========================================================================
`hypergradient`          direct and indirect term of ∇ψ, by K products with A
`unrolled_hypergradient` the same through the last steps of the ascent itself
`inverse_hvp`            A⁻¹ v
`response_jacobian`      ∇δ(θ), exact and dense
`response_jvp`           ∇δ(θ) t, and
`response_vjp`           ∇δ(θ)ᵀ u, without forming it
`SecondDerivatives`      v -> A v and v -> B v
`ImplicitSystem`         the linear system of an implicit derivative
======================== ==========================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev, vjp

from ibau_lite.second_derivatives import refuse_once_differentiable, twice_differentiable
from ibau_lite.sets import INTERIOR, Constraint
from ibau_lite.solvers import MatVec, Solution

__all__ = [
    "Hypergradient",
    "ImplicitSystem",
    "Objective",
    "Parameters",
    "SecondDerivatives",
    "Sense",
    "Solver",
    "ascent_step",
    "hypergradient",
    "inverse_hvp",
    "response_jacobian",
    "response_jvp",
    "response_vjp",
    "unrolled_hypergradient",
]

Parameters = dict[str, Tensor]
"""theta: name -> tensor, as ``dict(model.named_parameters())``."""

Objective = Callable[[Tensor, Parameters], Tensor]
"""(delta, theta) -> scalar, made of operations that `torch.func` can differentiate twice."""

Solver = Callable[[MatVec, Tensor], Solution]
"""(matvec, b) -> Solution, e.g. ``ConjugateGradient(max_iter=5)``."""

Sense = Literal["max", "min"]
"""What δ does to `inner`."""


class SecondDerivatives:
    r"""∇₁ f at (δ, θ), and its products with vectors: what implicit differentiation needs of f.

    .. math:: A v = \nabla_1^2 f\, v, \qquad B v = \nabla^2_{21} f\, v .

    A v and B v are the vector-Jacobian products of (δ, θ) ↦ ∇₁ f, in δ and in θ: reverse over
    reverse, on activations that are kept until the object is dropped. Attributes: ``value`` is
    f(δ, θ), ``gradient`` ∇₁ f like δ, and with ``theta_gradient=True`` the attribute of that name
    is ∇₂ f like θ.

    Raises TypeError (delta, theta), and ValueError for an f that gives no differentiable scalar or
    reaches no entry of θ. Source: Pearlmutter 1994, *Fast exact multiplication by the Hessian*.

    >>> f = lambda delta, theta: (theta["w"] * delta**2).sum() / 2
    >>> at = SecondDerivatives(f, torch.tensor([1.0, 2.0]), {"w": torch.tensor([3.0, 4.0])})
    >>> at.hessian(torch.ones(2)), at.mixed(torch.ones(2))
    (tensor([3., 4.]), {'w': tensor([1., 2.])})
    """

    @twice_differentiable()
    def __init__(
        self,
        function: Objective,
        delta: Tensor,
        theta: Mapping[str, Tensor],
        *,
        theta_gradient: bool = False,
    ) -> None:
        delta, theta = _point(delta, theta)
        _check_reach(_scalar(function, "inner", constant=True), delta, theta, "inner")
        f = _scalar(function, "inner")
        self.value: Tensor
        self.gradient: Tensor
        self.gradient, self._hessian, self.value = vjp(  # type: ignore[misc]
            lambda d: grad_and_value(f)(d, theta), delta, has_aux=True
        )
        self._mixed = vjp(lambda t: grad(f)(delta, t), theta)[1]
        self.theta_gradient = grad(f, argnums=1)(delta, theta) if theta_gradient else {}

    @twice_differentiable()
    def hessian(self, v: Tensor) -> Tensor:
        """A v: shape of δ to shape of δ."""
        image: Tensor = self._hessian(v)[0]
        return image

    @twice_differentiable()
    def mixed(self, v: Tensor) -> Parameters:
        """B v: shape of δ to a dict like θ."""
        slopes: Parameters = self._mixed(v)[0]
        return slopes

    def last(self, v: Tensor, *, hessian: bool) -> tuple[Tensor | None, Parameters]:
        """(A v or None, B v), where no product will be asked for any more."""
        return self.hessian(v) if hessian else None, self.mixed(v)

    @staticmethod
    def outer_gradients(
        function: Objective, delta: Tensor, theta: Parameters
    ) -> tuple[Tensor, Tensor, Parameters]:
        """(f, ∇₁ f, ∇₂ f) of the outer function."""
        f = _scalar(function, "outer")
        (g, direct), value = grad_and_value(f, argnums=(0, 1))(delta, theta)
        return value, g, direct

    @staticmethod
    def outer_theta_gradient(
        function: Objective, delta: Tensor, theta: Parameters
    ) -> tuple[Tensor, Parameters]:
        """(f, ∇₂ f) of the outer function."""
        f = _scalar(function, "outer", constant=True)
        slopes, value = grad_and_value(f, argnums=1)(delta, theta)
        return value, slopes


class ImplicitSystem:
    r"""M = P (λI - s∇₁² inner) P at (δ, θ), with P and λ from the constraint (I and 0 without one).

    .. math:: \nabla\delta(\theta)^\top u = s\,\nabla^2_{21}\mathrm{inner}\; P\, M^{+} P\, u, \qquad
              s = +1 \text{ (max)},\ -1 \text{ (min)} .

    The sign makes M positive definite (on the range of P) at a nondegenerate optimum of either
    sense, which is what `FixedPoint` and `ConjugateGradient` need; ∇δ does not depend on it.
    ``hessian`` replaces the products with ∇₁² inner, e.g. by those of `gauss_newton`;
    ``derivatives`` takes the place of `SecondDerivatives`. Raises TypeError for a constraint
    without a tangent, and as `SecondDerivatives`.
    """

    def __init__(
        self,
        inner: Objective,
        delta: Tensor,
        theta: Mapping[str, Tensor],
        *,
        sense: Sense = "max",
        constraint: Constraint | None = None,
        hessian: Callable[[Tensor], Tensor] | None = None,
        derivatives: type[SecondDerivatives] = SecondDerivatives,
        theta_gradient: bool = False,
    ) -> None:
        if not (constraint is None or hasattr(constraint, "tangent")):
            raise TypeError(
                "constraint is a set of ibau_lite.sets, as L2Ball(4.0), or None, "
                f"got {constraint!r}"
            )
        self.sign = _sign(sense)
        self.inner = derivatives(inner, delta, theta, theta_gradient=theta_gradient)
        self.tangent = INTERIOR
        if constraint is not None:
            self.tangent = constraint.tangent(delta.detach(), self.sign * self.inner.gradient)
        self._hessian = hessian or self.inner.hessian

    def matvec(self, v: Tensor) -> Tensor:
        """M v, of the shape of δ."""
        v = self.tangent.project(v)
        return self._shifted(v, self._hessian(v))

    def solve(self, solver: Solver, u: Tensor) -> Solution:
        """w with M w ≈ P u. ValueError where u has not the shape of δ; TypeError for no
        Solution."""
        if u.shape != self.inner.gradient.shape:
            expected = tuple(self.inner.gradient.shape)
            raise ValueError(
                f"the vector has shape {tuple(u.shape)}; expected {expected}, as delta"
            )
        b = self.tangent.project(u)
        b = self.tangent.project(b)  # again: where u is almost normal the first leaves its rounding
        solution = solver(self.matvec, b)
        if not isinstance(solution, Solution):
            raise TypeError(f"solver gave {type(solution).__name__}; expected a Solution")
        return solution

    def pull(
        self, u: Tensor, w: Tensor, *, compute_residual: bool = True
    ) -> tuple[Parameters, Tensor | None]:
        """(s B P w, ‖P u - M w‖/‖P u‖): the response and its true residual, with the exact Hessian.

        ``compute_residual=False`` leaves the residual out: None, for one product less.
        """
        w = self.tangent.project(w)
        image, mixed = self.inner.last(w, hessian=compute_residual)
        response = {name: self.sign * b for name, b in mixed.items()}
        if image is None:
            return response, None
        target = self.tangent.project(u)
        size = torch.linalg.vector_norm(target)
        error = torch.linalg.vector_norm(target - self._shifted(w, image))
        return response, error / torch.where(size > 0, size, 1.0)

    def _shifted(self, v: Tensor, image: Tensor) -> Tensor:
        return self.tangent.project(self.tangent.multiplier * v - self.sign * image)


@dataclass(frozen=True, eq=False)
class Hypergradient:
    """dψ/dθ = direct + indirect, as dicts like θ.

    ``direct`` is ∇₂ outer; ``indirect`` is ∇δ(θ)ᵀ ∇₁ outer, None where it was not asked for;
    ``total`` is their sum. ``value`` is outer(δ, θ), ``delta`` the δ it was taken at. ``solution``
    is what the solver answered. ``residual`` is ‖P g - M w‖/‖P g‖, the true relative residual with
    the exact Hessian and without damping (see ``compute_residual``).
    """

    direct: Parameters = field(repr=False)
    indirect: Parameters | None = field(repr=False)
    value: Tensor
    delta: Tensor = field(repr=False)
    solution: Solution | None = None
    residual: Tensor | None = None

    @property
    def total(self) -> Parameters:
        """dψ/dθ."""
        if self.indirect is None:
            return self.direct
        return {name: slope + self.indirect[name] for name, slope in self.direct.items()}


def hypergradient(
    outer: Objective,
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    solver: Solver | None,
    constraint: Constraint | None = None,
    sense: Sense = "max",
    hessian: Callable[[Tensor], Tensor] | None = None,
    compute_residual: bool = True,
    derivatives: type[SecondDerivatives] = SecondDerivatives,
) -> Hypergradient:
    r"""The gradient in θ of ψ(θ) = outer(δ(θ), θ), where δ(θ) maximises inner(·, θ).

    .. math:: \nabla\psi = \underbrace{\nabla_2\,\mathrm{outer}}_{\text{direct}}
              + \underbrace{\nabla^2_{21}\,\mathrm{inner}\; P w}_{\text{indirect}}, \qquad
              M w = P\,\nabla_1\,\mathrm{outer}, \quad
              M = P\,(\lambda I - \nabla_1^2\,\mathrm{inner})\,P .

    Without a constraint P = I, λ = 0: the indirect term is -B A⁻¹ g, and δ is assumed to be
    stationary, ∇₁ inner(δ, θ) = 0, and nothing more. With one (`Sphere`, `L2Ball`, `LinfBall`) it
    is the derivative of the KKT system. ``sense="min"`` is for a δ that minimises `inner` (see
    `ImplicitSystem`). Where δ is only near δ(θ), outer = inner and the system is solved exactly,
    the error is of second order in the distance, that of the direct term alone of first order.

    ``delta``: any shape; ``theta``: dict of tensors; ``solver``: (matvec, b) -> `Solution`, or None
    for the naive gradient, which pays for nothing but ∇₂ outer. ``hessian``: v ->
    approximate ∇₁² inner v, for the solve only. ``derivatives``: how the second derivatives of
    `inner` are taken; `speed.DoubleBackward` gives the same ones faster.

    Cost with K products: the gradient of `outer`, the gradient of `inner` with what it takes to
    pull back through it, K products, the mixed product, and with ``compute_residual`` one product
    more. Raises TypeError and ValueError for unusable arguments: `inner` must reach θ (without a
    solver, `inner` or `outer`), while an `outer` of δ alone is fine. The solver warns as its class
    says; ``residual`` of the result tells how good its answer is.

    Source: Grazzi et al. 2020 (AID); Zeng et al. 2022, *Adversarial unlearning of backdoors via
    implicit hypergradient* (I-BAU); the KKT form: Fiacco 1976, on sensitivity in programming.

    >>> from ibau_lite.solvers import ConjugateGradient
    >>> inner = lambda delta, theta: (theta["w"] * delta - delta**2 / 2).sum()  # δ(θ) = w
    >>> outer = lambda delta, theta: (delta**2).sum()  # ψ(θ) = ‖w‖²
    >>> w = torch.tensor([1.0, 2.0])
    >>> hypergradient(outer, inner, w, {"w": w}, solver=ConjugateGradient(max_iter=2)).total
    {'w': tensor([2., 4.])}
    """
    _sign(sense)
    if solver is None:
        return _naive(outer, inner, delta, theta, derivatives)
    shared = outer is inner
    system = ImplicitSystem(
        inner, delta, theta, sense=sense, constraint=constraint, hessian=hessian,
        derivatives=derivatives, theta_gradient=shared,
    )  # fmt: skip
    if shared:
        value, g, direct = system.inner.value, system.inner.gradient, system.inner.theta_gradient
    else:
        value, g, direct = derivatives.outer_gradients(outer, *_point(delta, theta))
    solution = system.solve(solver, g)
    assert isinstance(solution.x, Tensor)
    indirect, residual = system.pull(g, solution.x, compute_residual=compute_residual)
    return Hypergradient(direct, indirect, value, delta.detach(), solution, residual)


def _naive(
    outer: Objective,
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    derivatives: type[SecondDerivatives],
) -> Hypergradient:
    """∇₂ outer alone: δ is a constant."""
    delta, theta = _point(delta, theta)
    value, direct = derivatives.outer_theta_gradient(outer, delta, theta)
    if not any(bool(slope.any()) for slope in direct.values()):
        # Fine for an outer function of δ alone, if the inner one knows θ.
        try:
            _check_reach(_scalar(outer, "outer", constant=True), delta, theta, "outer")
        except ValueError:
            _check_reach(_scalar(inner, "inner", constant=True), delta, theta, "inner")
    return Hypergradient(direct, None, value, delta)


@twice_differentiable()
def unrolled_hypergradient(
    outer: Objective,
    step: Callable[[Tensor, Parameters], Tensor],
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    steps: int,
    truncate: int | None = None,
) -> Hypergradient:
    r"""The gradient in θ of outer(δ_T, θ), through the last k steps of δ_{t+1} = step(δ_t, θ).

    .. math:: \nabla_2\,\mathrm{outer} + \sum_{t = T-k}^{T-1}
              \partial_2 \mathrm{step}_t^\top\, \partial_1 \mathrm{step}_{t+1}^\top \cdots
              \partial_1 \mathrm{step}_{T-1}^\top\, \nabla_1\,\mathrm{outer} .

    T = ``steps``, k = ``truncate`` (all T by default); δ_0 = ``delta`` is a constant. ``step`` is
    made of operations that `torch.func` can differentiate, as `ascent_step` is. Memory grows with
    k: every step keeps its activations. The result's ``delta`` is δ_T, its ``solution`` None. At a
    fixed point, truncation to k steps of ascent equals `FixedPoint` with k iterations of the same
    step.

    Raises ValueError unless 0 <= k <= T, or where ``step`` changes the shape; TypeError as
    elsewhere. Source: Domke 2012; Shaban et al. 2019 for the truncation.
    """
    kept = steps if truncate is None else truncate
    if not 0 <= kept <= steps:
        raise ValueError(f"steps = {steps}, truncate = {truncate}; expected 0 <= truncate <= steps")
    delta, theta = _point(delta, theta)

    def iterate(d: Tensor, t: Parameters, times: int) -> Tensor:
        for _ in range(times):
            moved = step(d, t)
            if moved.shape != d.shape:
                raise ValueError(f"step gave shape {tuple(moved.shape)} for {tuple(d.shape)}")
            d = moved
        return d

    with torch.no_grad():
        delta = iterate(delta, theta, steps - kept).detach()
    # Without a step that is kept, δ_T is a constant, and only `outer` can reach θ.
    path = (lambda d, t: iterate(d, t, kept)) if kept else outer
    _check_reach(path, delta, theta, "step" if kept else "outer")
    last, pull = vjp(lambda t: iterate(delta, t, kept), theta)[:2]
    value, g, direct = SecondDerivatives.outer_gradients(outer, last, theta)
    return Hypergradient(direct, pull(g)[0], value, last)


def ascent_step(
    inner: Objective, size: float, project: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor, Parameters], Tensor]:
    r"""One differentiable step of (projected) gradient ascent on `inner`: (δ, θ) -> the next δ.

    .. math:: \delta \leftarrow \Pi(\delta + \alpha\,\nabla_1\,\mathrm{inner}(\delta, \theta)).

    ``size`` is α (negative: descent), ``project`` is Π, differentiable. ValueError for α = 0.
    """
    if not size:
        raise ValueError("size = 0; a step of no length never reaches the inner solution")
    f = _scalar(inner, "inner")

    def step(delta: Tensor, theta: Parameters) -> Tensor:
        moved: Tensor = delta + size * grad(f)(delta, theta)
        return moved if project is None else project(moved)

    return step


@twice_differentiable()
def response_jacobian(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    *,
    constraint: Constraint | None = None,
    sense: Sense = "max",
    chunk_size: int | None = None,
) -> Parameters:
    r"""How the inner solution answers a change of θ, exactly, from dense matrices.

    .. math:: \nabla\delta(\theta) = -A^{-1} B^\top, \qquad A = \nabla_1^2\,\mathrm{inner},\quad
              B = \nabla^2_{21}\,\mathrm{inner},

    and with a constraint ∇δ = [P (λI - A) P + (I - P)]⁻¹ P Bᵀ (for ``sense="max"``). Gives a dict
    like θ of tensors [*delta.shape, *parameter.shape]. With d and p the numbers of coordinates it
    takes d pulled-back rows of A and Bᵀ, ``chunk_size`` at a time, d(d + p) numbers and O(d³)
    operations: for small problems, and to check everything else.

    Raises TypeError (delta, theta) and ValueError (no scalar; A singular, so that δ(θ) is not
    differentiable here).
    Source: the implicit function theorem; Zeng et al. 2022 call it the response Jacobian.

    >>> inner = lambda delta, theta: (theta["w"] * delta - delta**2 / 2).sum()  # δ(θ) = w
    >>> w = torch.tensor([1.0, 2.0])
    >>> response_jacobian(inner, w, {"w": w})["w"]
    tensor([[1., 0.],
            [0., 1.]])
    """
    sign = _sign(sense)
    delta, theta = _point(delta, theta)
    _check_reach(_scalar(inner, "inner", constant=True), delta, theta, "inner")
    f = _scalar(inner, "inner")
    hessian, mixed = jacrev(grad(f), argnums=(0, 1), chunk_size=chunk_size)(delta, theta)

    d = delta.numel()
    tangent = INTERIOR
    if constraint is not None:
        tangent = constraint.tangent(delta, sign * grad(f)(delta, theta))
    eye = torch.eye(d, dtype=delta.dtype, device=delta.device)
    projector = torch.stack([tangent.project(e.reshape(delta.shape)).reshape(d) for e in eye])
    shifted = tangent.multiplier * eye - sign * hessian.reshape(d, d)
    operator = projector @ shifted @ projector + (eye - projector)
    factors, pivots, failed = torch.linalg.lu_factor_ex(operator)
    if bool(failed != 0) or not bool(torch.isfinite(factors).all()):
        raise ValueError(
            "the Hessian of inner in delta is singular or not finite here, so that δ(θ) has no "
            "derivative; is inner strictly concave at delta, and is the constraint the right one?"
        )
    right = sign * projector
    return {
        name: torch.linalg.lu_solve(factors, pivots, right @ m.reshape(d, -1)).reshape(m.shape)
        for name, m in mixed.items()
    }


def response_vjp(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    cotangent: Tensor,
    *,
    solver: Solver,
    constraint: Constraint | None = None,
    sense: Sense = "max",
) -> tuple[Parameters, Solution]:
    r"""∇δ(θ)ᵀ u for a u like δ, as a dict like θ, and what the solver answered.

    .. math:: \nabla\delta(\theta)^\top u = -B A^{-1} u .

    K products and one mixed product; arguments and errors as in `hypergradient`.
    """
    system = ImplicitSystem(inner, delta, theta, sense=sense, constraint=constraint)
    solution = system.solve(solver, cotangent)
    assert isinstance(solution.x, Tensor)
    return system.pull(cotangent, solution.x, compute_residual=False)[0], solution


@twice_differentiable()
def response_jvp(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    tangent: Mapping[str, Tensor],
    *,
    solver: Solver,
    constraint: Constraint | None = None,
    sense: Sense = "max",
) -> tuple[Tensor, Solution]:
    r"""∇δ(θ) t for a t like θ, as a tensor like δ, and what the solver answered.

    .. math:: \nabla\delta(\theta)\, t = -A^{-1} B^\top t, \qquad
              B^\top t = \nabla_\delta \langle \nabla_2\,\mathrm{inner}, t\rangle .

    Arguments and errors as in `hypergradient`; ValueError where t is not built like θ.
    """
    if {n: t.shape for n, t in tangent.items()} != {n: p.shape for n, p in theta.items()}:
        raise ValueError("tangent must have the names and shapes of theta")
    system = ImplicitSystem(inner, delta, theta, sense=sense, constraint=constraint)
    delta, theta = _point(delta, theta)

    def along(d: Tensor) -> Tensor:
        slopes = grad(_scalar(inner, "inner"), argnums=1)(d, theta)
        return torch.stack([(slopes[name] * t).sum() for name, t in tangent.items()]).sum()

    solution = system.solve(solver, system.sign * grad(along)(delta))
    assert isinstance(solution.x, Tensor)
    return system.tangent.project(solution.x), solution


def inverse_hvp(
    inner: Objective,
    delta: Tensor,
    theta: Mapping[str, Tensor],
    vector: Tensor,
    *,
    solver: Solver,
    constraint: Constraint | None = None,
    sense: Sense = "max",
) -> Solution:
    r"""A⁻¹ v, the inverse-Hessian-vector product in δ: a `Solution` whose x is like δ.

    .. math:: A x = v, \qquad A = \nabla_1^2\,\mathrm{inner},

    with a constraint (A - sλI) x = P v on the tangent space, s = 1 for "max" and -1 for "min". The
    solver sees the operator that is positive definite at a nondegenerate optimum, -A for
    ``sense="max"``, so that its damping μ solves (A - μI) x = v there and (A + μI) x = v for "min".
    Arguments and errors as in `hypergradient`.
    """
    system = ImplicitSystem(inner, delta, theta, sense=sense, constraint=constraint)
    solution = system.solve(solver, vector)
    assert isinstance(solution.x, Tensor)
    return dataclasses.replace(solution, x=-system.sign * system.tangent.project(solution.x))


def _sign(sense: Sense) -> float:
    """s with f = s · inner the function that δ maximises."""
    if sense not in ("max", "min"):
        raise ValueError(f"sense = {sense!r}; expected 'max' or 'min': what δ does to inner")
    return 1.0 if sense == "max" else -1.0


def _point(delta: Tensor, theta: Mapping[str, Tensor]) -> tuple[Tensor, Parameters]:
    """δ and θ without a graph, on the same memory; TypeError where they cannot be."""
    if not isinstance(delta, Tensor) or not delta.is_floating_point():
        raise TypeError("delta must be a tensor of a floating dtype")
    if not isinstance(theta, Mapping) or not theta:
        raise TypeError(
            "theta must be a non-empty dict name -> tensor, as dict(model.named_parameters())"
        )
    wrong = [name for name, p in theta.items() if not p.is_floating_point()]
    if wrong:
        raise TypeError(f"theta holds tensors without a derivative: {wrong}; leave buffers out")
    return delta.detach(), {name: p.detach() for name, p in theta.items()}


def _scalar(function: Objective, name: str, *, constant: bool = False) -> Objective:
    """`function`; ValueError, naming it, where it gives no scalar, or one without a derivative.

    With `constant` it may have none.

    The fused kernels of attention have no second derivative, so the plain one is taken.
    """

    def scalar(delta: Tensor, theta: Parameters) -> Tensor:
        with twice_differentiable():
            value = function(delta, theta)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}(delta, theta) gave {got}; expected a tensor with one element")
        if not (value.requires_grad or constant):
            raise ValueError(
                f"{name}(delta, theta) does not depend on its arguments in autograd's eyes; use "
                "them as given (torch.func.functional_call(model, theta, ...)), without detach or "
                "no_grad"
            )
        return value.reshape(())

    return scalar


def _check_reach(
    function: Callable[[Tensor, Parameters], Tensor], delta: Tensor, theta: Parameters, name: str
) -> None:
    """Evaluate the function, and raise ValueError where it does not reach θ or, but for the outer
    function, cannot be differentiated twice."""
    with torch.enable_grad():
        point = delta.detach().requires_grad_(True)
        leaves = {key: p.detach().requires_grad_(True) for key, p in theta.items()}
        value = function(point, leaves)
    if name != "outer":
        refuse_once_differentiable(value)
    _check_reached(value, leaves, name)


def _check_reached(value: Tensor, theta: Parameters, name: str) -> None:
    """Raise ValueError where the graph of `value` ends at no entry of θ.

    The derivative would be zero without a word.
    """
    wanted = {id(p) for p in theta.values()}
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if id(getattr(node, "variable", None)) in wanted:
            return
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    raise ValueError(
        f"{name}(delta, theta) reaches no entry of theta; expected a function of both arguments: "
        "use the theta that is given, as torch.func.functional_call(model, theta, (x + delta,)), "
        "where model(x + delta) uses the parameters that the model holds; without detach or no_grad"
    )
