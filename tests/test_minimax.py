"""The minimax problem: balls against brute force, H against a transcription, ascents."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ibau_lite import models
from ibau_lite.minimax import (
    Ascent,
    OnePass,
    Risk,
    Scattered,
    Targeted,
    Toward,
    Untargeted,
    climbed,
    scores,
    toward_each_class,
)
from ibau_lite.sets import L2Ball, LinfBall

CLASSES, SHAPE = 3, (1, 2, 2)
BALLS = {"l2": L2Ball, "linf": LinfBall}
NORMS = list(BALLS)
F64 = torch.float64
quick = settings(deadline=None, max_examples=40)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def smooth_network(seed: int = 0, dtype: torch.dtype = F64) -> nn.Module:
    return models.mlp(math.prod(SHAPE), (6,), CLASSES, seed=seed).to(dtype).eval()


def theta_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def risk_of(model: nn.Module, count: int = 7, seed: int = 0, **settings) -> Risk:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *SHAPE, generator=generator, dtype=F64)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Risk(model, images, labels, **settings)


def plain(risk: Risk, delta: torch.Tensor) -> torch.Tensor:
    """H of the talk, image by image, written out."""
    total = torch.zeros((), dtype=delta.dtype)
    for i in range(len(risk.images)):
        carries = risk.stamped is None or bool(risk.stamped[i])
        x = risk.images[i] + delta if carries else risk.images[i]
        if risk.clamp:
            x = torch.minimum(torch.maximum(x, torch.zeros_like(x)), torch.ones_like(x))
        logits = risk.model(x[None])[0]
        total = total + torch.logsumexp(logits, 0) - logits[risk.labels[i]]
    return total / len(risk.images) - risk.penalty * (delta**2).sum()


# --- balls --------------------------------------------------------------------------------------

POINTS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6)
RADII = st.floats(1e-2, 1e2)


def norm_of(delta: torch.Tensor, norm: str) -> float:
    return max(map(abs, delta.tolist())) if norm == "linf" else math.hypot(*delta.tolist())


@quick
@given(POINTS, RADII, st.sampled_from(NORMS), st.integers(0, 10_000))
def test_the_projection_is_the_nearest_point_of_the_ball(entries, radius, norm, seed):
    ball, point = BALLS[norm](radius), torch.tensor(entries, dtype=F64)
    nearest = ball.project(point)
    assert norm_of(nearest, norm) <= radius * (1 + 1e-12)
    torch.testing.assert_close(ball.project(nearest), nearest, rtol=1e-14, atol=0)
    # The nearest point p of a convex set: ⟨x − p, z − p⟩ ≤ 0 for every z in the set.
    others = draw(50, len(entries), seed=seed)
    sizes = torch.tensor([norm_of(z, norm) for z in others], dtype=F64)
    others = others / sizes[:, None] * radius
    slack = (others - nearest) @ (point - nearest)
    assert float(slack.max()) <= 1e-9 * (1 + radius) * (1 + float(point.norm()))


@quick
@given(POINTS, st.sampled_from(NORMS))
def test_points_inside_do_not_move_by_a_bit(entries, norm):
    point = torch.tensor(entries, dtype=F64)
    assert torch.equal(BALLS[norm](norm_of(point, norm) * 1.01 + 1.0).project(point), point)


@quick
@given(POINTS, st.sampled_from(NORMS))
def test_the_steepest_direction_attains_the_dual_norm(entries, norm):
    gradient = torch.tensor(entries, dtype=F64)
    direction = BALLS[norm](1.0).lmo(gradient)
    dual = math.hypot(*entries) if norm == "l2" else sum(map(abs, entries))
    assert norm_of(direction, norm) <= 1 + 1e-12
    assert float(direction @ gradient) == pytest.approx(dual, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_no_direction(norm):
    assert torch.equal(BALLS[norm](1.0).lmo(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("size", [1e-15, 1e-23, 1e-30, 1e-37])
def test_a_gradient_whose_squares_vanish_in_float32_still_has_a_direction_of_length_one(size):
    direction = L2Ball(1.0).lmo(torch.tensor([3.0, -4.0]) * size)
    torch.testing.assert_close(direction, torch.tensor([0.6, -0.8]))


def test_length_and_gradient_shape():
    delta = draw(*SHAPE)
    assert float(L2Ball(1.0).norm(delta)) == pytest.approx(norm_of(delta.flatten(), "l2"))
    assert float(LinfBall(1.0).norm(delta)) == norm_of(delta.flatten(), "linf")
    assert L2Ball(1e-3).project(delta).shape == delta.shape


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf, math.nan])
def test_a_ball_needs_a_radius(radius):
    with pytest.raises(ValueError, match="radius must be a positive finite number"):
        L2Ball(radius)


# --- H ------------------------------------------------------------------------------------------

MASK = torch.tensor([True, False, False, True, False, True, False])
VARIANTS = [
    {},
    {"penalty": 0.3},
    {"clamp": True},
    {"stamped": MASK},
    {"penalty": 0.1, "clamp": True, "stamped": MASK},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_h_is_what_the_talk_says(settings):
    model, delta = smooth_network(), 0.6 * draw(*SHAPE)
    risk = risk_of(model, **settings)
    value = risk(delta, theta_of(model))
    assert value.dtype == F64 and value.shape == ()
    torch.testing.assert_close(value, plain(risk, delta), rtol=1e-13, atol=1e-13)
    other = smooth_network(seed=1)  # θ is taken from the argument, not from the model
    expected = plain(risk_of(other, **settings), delta)
    torch.testing.assert_close(risk(delta, theta_of(other)), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_labels_may_be_probabilities(settings):
    """L is linear in the label: H with q is the mean of the H with each class, weighted by q."""
    model, delta = smooth_network(), 0.6 * draw(*SHAPE)
    risk = risk_of(model, **settings)
    q = draw(7, CLASSES, seed=3).softmax(1)
    expected = torch.zeros((), dtype=F64)
    for i in range(7):
        for k in range(CLASSES):
            one = replace(risk.subset([i]), labels=torch.tensor([k]), penalty=0.0)
            expected = expected + q[i, k] * plain(one, delta) / 7
    expected = expected - risk.penalty * (delta**2).sum()
    soft = replace(risk, labels=q)
    torch.testing.assert_close(soft(delta, theta_of(model)), expected, rtol=1e-12, atol=1e-12)
    value, _ = replace(soft, chunk=3).value_and_gradient(delta, theta_of(model))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="labels must have shape"):
        replace(soft, labels=q[:-1])


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@pytest.mark.parametrize("chunk", [1, 3, 7, 500])
def test_in_chunks_it_is_the_same_number_and_the_same_gradient(settings, chunk):
    model, delta = smooth_network(), 0.6 * draw(*SHAPE)
    risk = risk_of(model, chunk=chunk, **settings)
    assert next(len(part) for _, part in risk.chunks()) == min(chunk, 7)
    point = delta.clone().requires_grad_(True)
    whole = plain(risk, point)
    (slope,) = torch.autograd.grad(whole, point)
    value, gradient = risk.value_and_gradient(delta, theta_of(model))
    assert value.dtype == gradient.dtype == F64
    assert not value.requires_grad and not gradient.requires_grad
    torch.testing.assert_close(value, whole.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-13)


def test_the_value_without_a_graph_can_be_had_where_gradients_are_off():
    model = smooth_network()
    risk = risk_of(model)
    with torch.no_grad():
        _, gradient = risk.value_and_gradient(torch.zeros(SHAPE, dtype=F64), theta_of(model))
    assert float(gradient.norm()) > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("chunk", [2, 500])
def test_the_penalty_has_derivatives_at_zero(chunk):
    model, zero = smooth_network(), torch.zeros(SHAPE, dtype=F64)
    theta = theta_of(model)
    with_penalty = risk_of(model, penalty=5.0, chunk=chunk)
    without = risk_of(model, chunk=chunk)
    for a, b in zip(
        with_penalty.value_and_gradient(zero, theta), without.value_and_gradient(zero, theta)
    ):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)

    def hessian(risk: Risk) -> torch.Tensor:
        return torch.autograd.functional.hessian(lambda d: risk(d, theta), zero).reshape(4, 4)

    curvature = hessian(with_penalty) - hessian(without)
    torch.testing.assert_close(curvature, -10 * torch.eye(4, dtype=F64), rtol=1e-12, atol=1e-12)


def test_images_that_do_not_carry_delta_do_not_feel_it():
    model = smooth_network()
    none = risk_of(model, stamped=torch.zeros(7, dtype=torch.bool))
    theta, zero = theta_of(model), torch.zeros(SHAPE, dtype=F64)
    value, gradient = none.value_and_gradient(5 * draw(*SHAPE), theta)
    torch.testing.assert_close(value, risk_of(model)(zero, theta).detach())
    assert torch.equal(gradient, zero)


def test_a_subset_keeps_every_setting():
    risk = risk_of(smooth_network(), penalty=0.2, clamp=True, stamped=MASK, chunk=3)
    part = risk.subset(torch.tensor([5, 0]))
    assert torch.equal(part.images, risk.images[[5, 0]]) and len(part) == 2
    assert torch.equal(part.labels, risk.labels[[5, 0]])
    assert part.stamped is not None and part.stamped.tolist() == [True, True]
    assert (part.penalty, part.clamp, part.chunk) == (0.2, True, 3)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_the_network_decides_in_which_numbers_h_is_computed(dtype):
    model = smooth_network(dtype=dtype)
    risk = risk_of(model)
    risk = Risk(model, risk.images.float(), risk.labels, chunk=3)
    found = Ascent(2)(risk, theta_of(model), L2Ball(1.0))
    assert found.delta.dtype == found.values.dtype == dtype
    assert OnePass(1.0)(risk, theta_of(model), L2Ball(1.0)).delta.dtype == dtype


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": torch.zeros(0, *SHAPE), "labels": torch.zeros(0).long()}, "at least one"),
        ({"images": torch.zeros(7, 4)}, r"\[n, C, H, W\]"),
        ({"labels": torch.zeros(6).long()}, r"labels must have shape \[7\], got \[6\]"),
        ({"stamped": MASK[:5]}, r"stamped must have shape \[7\], got \[5\]"),
        ({"stamped": MASK.float()}, "stamped must be boolean"),
        ({"penalty": -1.0}, "penalty"),
        ({"penalty": math.nan}, "penalty"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_problems_that_make_no_sense_are_refused(change, says):
    fields = {"images": torch.zeros(7, *SHAPE), "labels": torch.zeros(7).long(), **change}
    with pytest.raises(ValueError, match=says):
        Risk(smooth_network(), **fields)


def test_a_network_in_training_mode_is_refused_even_if_only_a_part_of_it_is():
    model = nn.Sequential(nn.Dropout(0.5), smooth_network())
    with pytest.raises(ValueError, match="evaluation mode"):
        risk_of(model.train())
    model.eval()
    model[0].train()
    with pytest.raises(ValueError, match="evaluation mode"):
        risk_of(model)


@pytest.mark.parametrize("shape", [(2, 2), (3, 2, 2), (7, 1, 2, 2), (1, 1, 1)])
def test_a_delta_that_would_be_spread_over_the_image_silently_is_refused(shape):
    model = smooth_network()
    with pytest.raises(ValueError, match=r"shape \[1, 2, 2\] of one image"):
        risk_of(model)(torch.zeros(shape, dtype=F64), theta_of(model))


# --- ascent -------------------------------------------------------------------------------------


PLANE = (1, 1, 2)


def concave_risk(scale: float = 2.0, seed: int = 0) -> Risk:
    """A linear network on two pixels: −penalty·‖δ‖² outweighs the convex loss, so H is concave.

    ∇² CE ⪯ ½‖W‖² I for logits W x (the Hessian of log-sum-exp has norm at most ½).
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, CLASSES)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(20, *PLANE, generator=generator, dtype=F64)
    labels = torch.randint(CLASSES, (20,), generator=generator)
    weight = scale * draw(CLASSES, 2, seed=seed)
    model[1].weight.data.copy_(weight)
    model[1].bias.data.zero_()
    penalty = 0.3 * float(torch.linalg.matrix_norm(weight, 2)) ** 2  # > ½ · ½‖W‖²
    return Risk(model, images, labels, penalty=penalty)


def everywhere_in(ball: L2Ball | LinfBall, resolution: int = 201) -> torch.Tensor:
    """A grid of the whole ball in the plane, its boundary included: [n, 1, 1, 2]."""
    line = torch.linspace(-1, 1, resolution, dtype=F64)
    if isinstance(ball, LinfBall):
        points = torch.cartesian_prod(line, line)
    else:
        turns, sizes = torch.meshgrid(math.pi * line, (line + 1) / 2, indexing="ij")
        points = torch.stack([sizes * turns.cos(), sizes * turns.sin()], -1)
    return ball.radius * points.reshape(-1, *PLANE)


def brute_force(risk: Risk, ball: L2Ball | LinfBall) -> float:
    """The maximum of H over a grid of the ball, and over a finer one around its best point."""
    weight, bias = (p.detach() for p in risk.model.parameters())

    def h(deltas: torch.Tensor) -> torch.Tensor:
        logits = (risk.images[None] + deltas[:, None]).flatten(2) @ weight.T + bias
        right = logits.gather(2, risk.labels[None, :, None].expand(len(deltas), -1, 1))[..., 0]
        return (logits.logsumexp(2) - right).mean(1) - risk.penalty * (deltas**2).sum((1, 2, 3))

    coarse = everywhere_in(ball)
    values = h(coarse)
    fine = coarse[values.argmax()] + everywhere_in(LinfBall(0.02 * ball.radius), 101)
    inside = torch.tensor([float(ball.norm(d)) <= ball.radius for d in fine])
    return max(float(values.max()), float(h(fine[inside]).max()))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.02, 0.5], ids=["on the boundary", "inside"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_ascent_arrives_at_the_maximum_of_a_concave_problem(norm, radius, seed):
    risk, ball = concave_risk(seed=seed), BALLS[norm](radius)
    theta, best = theta_of(risk.model), brute_force(risk, ball)
    start = risk(torch.zeros(PLANE, dtype=F64), theta).item()
    assert best - start > 1e-3  # there is something to climb
    found = Ascent(steps=100)(risk, theta, ball)
    assert found.value == pytest.approx(best, abs=2e-3 * (best - start))
    assert float(ball.norm(found.delta)) <= radius * (1 + 1e-12)
    on_boundary = float(ball.norm(found.delta)) > 0.99 * radius
    assert on_boundary == (radius == 0.02)  # both cases are what their names say
    assert found.gap >= best - found.value - 1e-12
    if on_boundary:  # there the certificate is sharp: the steps follow a corner or an arc
        assert found.gap < 0.1 * (best - start)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 50), st.floats(0.01, 5.0), st.sampled_from(NORMS), st.integers(1, 4))
def test_the_gap_bounds_what_is_missing_of_a_concave_maximum(seed, radius, norm, steps):
    risk, ball = concave_risk(seed=seed), BALLS[norm](radius)
    theta = theta_of(risk.model)
    found = Ascent(steps)(risk, theta, ball, start=draw(*PLANE, seed=seed))
    better = Ascent(20)(risk, theta, ball)
    assert found.gap >= better.value - found.value - 1e-12


def test_the_gap_is_that_of_the_returned_point():
    risk, ball = concave_risk(), L2Ball(0.5)
    theta = theta_of(risk.model)
    found = Ascent(3)(risk, theta, ball)
    _, gradient = risk.value_and_gradient(found.delta, theta)
    gaps = ((everywhere_in(ball) - found.delta) * gradient).flatten(1).sum(1)
    assert found.gap == pytest.approx(float(gaps.max()), rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_every_iterate_is_recorded_and_the_best_one_returned(norm):
    model = smooth_network()
    risk, theta, ball = risk_of(model, 30), theta_of(model), BALLS[norm](0.7)
    ascent = Ascent(steps=8, step=2.0)  # too long a step: the last is not the best
    delta, values, points = torch.zeros(SHAPE, dtype=F64), [], []
    for t in range(9):
        point = delta.clone().requires_grad_(True)
        value = plain(risk, point)
        (g,) = torch.autograd.grad(value, point)
        values.append(value.item())
        points.append(delta)
        u = g.sign() if norm == "linf" else g / g.norm()
        delta = delta + 2.0 * 0.7 * (1 - t / 8) * u
        delta = delta.clamp(-0.7, 0.7) if norm == "linf" else delta * min(1, 0.7 / delta.norm())
    found = ascent(risk, theta, ball)
    torch.testing.assert_close(found.values, torch.tensor(values, dtype=F64))
    best = max(range(9), key=values.__getitem__)
    assert found.value == pytest.approx(values[best], rel=1e-12)
    torch.testing.assert_close(found.delta, points[best])
    assert found.value == float(found.values.max())


def test_a_start_that_is_the_maximum_is_returned_and_one_outside_is_projected():
    risk, ball = concave_risk(), L2Ball(0.4)
    theta = theta_of(risk.model)
    first = Ascent(100)(risk, theta, ball)
    again = Ascent(3)(risk, theta, ball, start=first.delta)
    assert again.value >= first.value
    far = Ascent(1, step=1e-6)(risk, theta, ball, start=100 * first.delta)
    torch.testing.assert_close(far.values[0], risk(ball.project(100 * first.delta), theta).detach())
    with pytest.raises(ValueError, match="shape"):
        Ascent(1)(risk, theta, ball, start=torch.zeros(2, dtype=F64))


def test_the_start_and_the_network_are_left_alone():
    model = smooth_network()
    start = draw(*SHAPE)
    before = start.clone(), {name: p.clone() for name, p in theta_of(model).items()}
    for search in (Ascent(2), OnePass(1.0), OnePass(1.0, "adam")):
        search(risk_of(model), theta_of(model), L2Ball(0.1), start=start)
    assert torch.equal(start, before[0]) and not start.requires_grad and start.grad is None
    for name, p in model.named_parameters():
        assert torch.equal(p, before[1][name]) and p.grad is None


class TwoHills(nn.Module):
    """Logits (0, c) with c(δ) the higher of two bumps: a near low one and a far high one."""

    def __init__(self) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor([1.0, 3.0], dtype=F64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.flatten(1)[:, 0]
        bumps = torch.stack([-((x - 0.4) ** 2), -((x + 0.8) ** 2)], 1) * 8
        return torch.stack([torch.zeros_like(x), (self.height * bumps.exp()).sum(1)], 1)


def test_several_starts_find_the_hill_that_one_start_misses():
    image, label = torch.zeros(1, 1, 1, 1, dtype=F64), torch.tensor([0])
    model = TwoHills().eval()
    risk, ball = Risk(model, image, label), L2Ball(1.0)
    near = torch.full((1, 1, 1), 0.2, dtype=F64)
    alone = Ascent(30)(risk, theta_of(model), ball, near)
    several = Ascent(30, starts=6)(risk, theta_of(model), ball, near)
    assert float(alone.delta) > 0 > float(several.delta)
    assert len(alone.climbs) == 1 and len(several.climbs) == 6
    assert several.value == max(several.climbs) > alone.value == several.climbs[0]
    again = Ascent(30, starts=6)(risk, theta_of(model), ball, near)
    assert torch.equal(again.delta, several.delta)
    other = Ascent(1, step=1e-6, starts=6, seed=1)(risk, theta_of(model), ball, near)
    assert other.climbs != Ascent(1, step=1e-6, starts=6)(risk, theta_of(model), ball, near).climbs


class TwoWays(nn.Module):
    """Three classes of one pixel: a near, low way out to class 1, a far, high one to class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.tensor(2.0, dtype=F64))
        self.far = nn.Parameter(torch.tensor(6.0, dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten()
        low = self.near * torch.tanh(4 * x)
        return torch.stack([torch.zeros_like(x), low, -self.far * x - 3], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_climb_toward_a_class_finds_the_maximum_that_an_ascent_does_not_see(norm):
    model, ball = TwoWays().eval(), BALLS[norm](2.0)
    risk = Risk(model, torch.zeros(6, 1, 1, 1, dtype=F64), torch.zeros(6, dtype=torch.int64))
    (alone,) = Untargeted(Ascent(12))(risk, theta_of(model), (ball,))
    assert torch.equal(alone.delta, Ascent(12)(risk, theta_of(model), ball).delta)
    search = Targeted(Ascent(12), fallback=1, threshold=1e9)
    (found,) = search(risk, theta_of(model), (ball,))
    assert float(alone.delta) > 0 > float(found.delta) and found.target == 2
    points = torch.linspace(-2, 2, 4001, dtype=F64)
    heights = [float(risk(p.reshape(1, 1, 1), theta_of(model)).detach()) for p in points]
    assert found.value == pytest.approx(max(heights), rel=1e-6) and found.value > alone.value + 1


def test_a_climb_toward_a_class_is_descent_on_the_loss_with_that_label():
    model, ball, climb = smooth_network(), L2Ball(0.6), Ascent(5)
    risk, theta = risk_of(model, 4, penalty=0.3), theta_of(model)
    deltas, heights = toward_each_class(risk, theta, (ball, L2Ball(0.3)), climb)
    assert heights.shape == (2, len(deltas[0]))
    for label, height in enumerate(heights[0].tolist()):
        delta = torch.zeros(SHAPE, dtype=F64)
        best = None
        for t in range(6):  # written out
            point = delta.clone().requires_grad_(True)
            logits = model(risk.images + point)
            loss = -logits.log_softmax(1)[:, label].mean()
            (slope,) = torch.autograd.grad(loss, point)
            if best is None or loss < best[0]:
                best = (loss.detach(), delta)
            delta = delta - 0.5 * 0.6 * (1 - t / 5) * slope / slope.norm()
            delta = delta * min(1.0, 0.6 / max(float(delta.norm()), 1e-300))
        torch.testing.assert_close(deltas[0][label], best[1])
        assert height == pytest.approx(float(risk(best[1], theta).detach()), rel=1e-6)


def test_what_is_climbed_toward_a_class_can_be_called_and_differentiated():
    risk, delta = risk_of(smooth_network(), 9, penalty=0.3), 0.1 * torch.ones(SHAPE, dtype=F64)
    toward, theta = Toward(risk, 1), theta_of(risk.model)
    point = delta.clone().requires_grad_(True)
    value = toward(point, theta)
    (slope,) = torch.autograd.grad(value, point)
    climbed = toward.value_and_gradient(delta, theta)
    torch.testing.assert_close(climbed, (value.detach(), slope))
    logits = risk.model(risk.images + delta)
    assert value.item() == pytest.approx(logits.log_softmax(1)[:, 1].mean().item())


def test_later_rounds_climb_toward_the_suspects_of_the_first_and_keep_what_was_found():
    risk, sets = risk_of(smooth_network()), (L2Ball(0.5), L2Ball(0.2))
    theta, search = theta_of(risk.model), Targeted(Ascent(2), fallback=2, threshold=1e9)
    first = search(risk, theta, sets)
    heights = toward_each_class(risk, theta, sets, Ascent(2))[1]
    assert first[0].climbs == pytest.approx(scores(heights).tolist())
    two = scores(heights).argsort(descending=True)[:2].tolist()
    assert [m.target for m in first] == [two[0], two[0], two[1], two[1]]
    assert [m.region for m in first] == [*sets, *sets]
    other = risk.subset(slice(3))
    second = search(other, theta, sets, first)
    assert second[:4] == first and [m.target for m in second[4:]] == [m.target for m in first]
    assert second[4].value == pytest.approx(float(other(second[4].delta, theta).detach()))


def test_the_scattered_objective_is_its_formula_and_its_gradient_is_that_of_differences():
    model = smooth_network()
    risk, theta = risk_of(model, 9, penalty=0.3), theta_of(model)
    delta = 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=F64)
    value, slope = Scattered(risk).value_and_gradient(delta, theta)
    answers = model(risk.images + delta).detach().softmax(1)
    wrong = [1 - float(p[y]) for p, y in zip(answers, risk.labels, strict=True)]
    mean = answers.mean(0).tolist()
    entropy = -sum(m * math.log(m) for m in mean)
    assert float(value) == pytest.approx(sum(wrong) / 9 + entropy, rel=1e-12)
    for seed in range(3):
        way = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=F64)
        ahead, behind = (
            float(Scattered(risk)(delta + sign * 1e-5 * way, theta).detach()) for sign in (1, -1)
        )
        assert (ahead - behind) / 2e-5 == pytest.approx(float((slope * way).sum()), rel=1e-6)
    assert climbed(risk, "scattered").risk is climbed(risk, 2).risk is climbed(risk, None)


class Shown(nn.Module):
    """Class c shows in pixel c; a bright last pixel asks for the next class, or for class 1."""

    def __init__(self, *, one_target: bool) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(9.0, dtype=F64))
        self.one_target = one_target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shown, asked = x[:, 0, 0, :4], x[:, 0, 0, 4:]
        wanted = torch.eye(4, dtype=F64)[1] if self.one_target else shown.roll(1, 1)
        return 4 * shown + self.strength * asked * wanted


@pytest.mark.parametrize("one_target", [True, False])
def test_an_all_to_all_backdoor_scatters_and_one_with_a_target_does_not(one_target):
    labels = torch.arange(4).repeat(5)
    images = torch.zeros(20, 1, 1, 5, dtype=F64)
    images[torch.arange(20), 0, 0, labels] = 1
    risk = Risk(Shown(one_target=one_target).eval(), images, labels)
    theta, sets = theta_of(risk.model), (L2Ball(1.2), L2Ball(1.0))
    found = Targeted(Ascent(20))(risk, theta, sets)
    assert {m.target for m in found} == ({1} if one_target else {"scattered"})
    for maximum in found:
        answers = risk.model(images + maximum.delta).argmax(1)
        expected = torch.ones(20).long() if one_target else (labels + 1) % 4
        assert torch.equal(answers, expected)
    again = Targeted(Ascent(20))(risk, theta, sets, found)
    assert [m.target for m in again] == 2 * [m.target for m in found]
    asked_not = Targeted(Ascent(20), scattered=None)(risk, theta, sets)
    assert "scattered" not in {m.target for m in asked_not}


def test_the_newest_alone_when_nothing_is_kept():
    risk, sets = risk_of(smooth_network()), (L2Ball(0.5),)
    search = Targeted(Ascent(2), fallback=1, threshold=1e9, keep=False)
    first = search(risk, theta_of(risk.model), sets)
    second = search(risk, theta_of(risk.model), sets, first)
    assert len(first) == len(second) == 1 and second[0].target == first[0].target


@pytest.mark.parametrize(
    ("found", "suspects"),
    [
        ([1.0, 3.0, 0.5, 2.5], [1, 3]),  # two stand out
        ([1.0, 6.0, 0.5, 2.5], [1]),  # less than half as high as the highest
        ([1.0, 1.9, 0.5, 1.2], [1, 3, 0]),  # none does
    ],
)
def test_who_is_suspect(found, suspects):
    assert Targeted().suspects(torch.tensor(found)) == suspects


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_lie_on_the_sphere(norm, monkeypatch):
    ball, risk = BALLS[norm](0.7), risk_of(smooth_network())
    seen = []
    climb = Ascent._climb
    monkeypatch.setattr(Ascent, "_climb", lambda self, *a: (seen.append(a[-1]), climb(self, *a))[1])
    Ascent(1, starts=4)(risk, theta_of(risk.model), ball)
    assert not seen[0].any()
    torch.testing.assert_close(
        torch.stack([ball.norm(s) for s in seen[1:]]), torch.full((3,), 0.7, dtype=F64)
    )
    assert not torch.equal(seen[1], seen[2])


class BreaksFarAway(nn.Module):
    """NaN as soon as an image has moved by more than one."""

    def __init__(self, value: float = math.nan) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones((), dtype=F64))
        self.value = value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = self.slope * images.flatten(1).sum(1)
        broken = brightness.detach().abs().amax() > 1
        return torch.stack([brightness * (self.value if broken else 1.0), 0 * brightness], 1)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_where_h_breaks_the_best_finite_point_is_returned_with_a_warning(value):
    model = BreaksFarAway(value).eval()
    risk = Risk(model, torch.zeros(2, *SHAPE, dtype=F64), torch.ones(2).long())
    with pytest.warns(RuntimeWarning, match="best finite iterate"):
        found = Ascent(4)(risk, theta_of(model), L2Ball(10.0))
    assert found.value == pytest.approx(math.log(2)) and torch.equal(
        found.delta, torch.zeros(SHAPE, dtype=F64)
    )
    assert math.isfinite(found.gap) and not found.values.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Ascent(4)(risk, theta_of(model), L2Ball(0.4)).value > math.log(2)


def test_h_that_is_broken_from_the_start_is_no_maximum():
    model = BreaksFarAway().eval()
    model.slope.data.fill_(math.nan)
    risk = Risk(model, torch.zeros(2, *SHAPE, dtype=F64), torch.ones(2).long())
    with pytest.raises(FloatingPointError, match="all 3 iterates"):
        Ascent(2)(risk, theta_of(model), L2Ball(1.0))


@pytest.mark.parametrize(
    ("search", "says"),
    [
        (lambda: Ascent(starts=0), "steps and starts must be at least 1"),
        (lambda: Ascent(0), "steps and starts must be at least 1"),
        (lambda: Ascent(3, step=0.0), "step is a fraction"),
        (lambda: Ascent(3, step=2.1), "step is a fraction"),
        (lambda: Ascent(3, step=math.nan), "step is a fraction"),
        (lambda: OnePass(0.0), "positive"),
        (lambda: OnePass(math.nan), "positive"),
        (lambda: OnePass(batch_size=0), "positive"),
        (lambda: OnePass(optimizer="lbfgs"), "'sgd' or 'adam'"),
    ],
)
def test_searches_that_make_no_sense_are_refused(search, says):
    with pytest.raises(ValueError, match=says):
        search()


# --- the published loop -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("radius", [1e-3, 1e3])
@pytest.mark.parametrize("clamp", [False, True])
def test_one_pass_is_the_published_loop(optimizer, radius, clamp):
    model = smooth_network()
    risk = risk_of(model, 23, penalty=0.001, clamp=clamp)
    step = 3.0 if optimizer == "sgd" else 0.05

    delta = torch.zeros((1, *SHAPE), dtype=F64, requires_grad=True)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    descent, before = kind([delta], lr=step), []
    for first in range(0, 23, 10):
        x, y = risk.images[first : first + 10], risk.labels[first : first + 10]
        moved = (x + delta[0]).clamp(0, 1) if clamp else x + delta[0]
        loss = (-F.cross_entropy(model(moved), y, reduction="none")).mean()
        loss = loss + 0.001 * torch.pow(torch.norm(delta), 2)
        descent.zero_grad()
        loss.backward()
        descent.step()
        before.append(-loss.item())
    delta = delta.detach() * min(1, radius / torch.norm(delta.detach()))

    search = OnePass(step, optimizer, batch_size=10)
    found = search(risk, theta_of(model), L2Ball(radius))
    torch.testing.assert_close(found.delta, delta[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.values, torch.tensor(before, dtype=F64))
    assert found.value == pytest.approx(before[-1]) and math.isnan(found.gap)
    assert (float(found.delta.norm()) == pytest.approx(radius)) == (radius < 1)


def test_a_pass_with_too_long_a_step_is_named():
    model = smooth_network()
    with pytest.raises(FloatingPointError, match="lower step"):
        risk = replace(risk_of(model, 20), penalty=0.001)
        OnePass(1e200, batch_size=5)(risk, theta_of(model), L2Ball(1.0))


def test_one_pass_goes_on_from_a_start():
    model = smooth_network()
    risk, ball = risk_of(model, 20), L2Ball(1e3)
    first, second = risk.subset(slice(0, 10)), risk.subset(slice(10, 20))
    search, theta = OnePass(0.5, batch_size=10), theta_of(model)
    whole = search(risk, theta, ball)
    half = search(first, theta, ball)
    torch.testing.assert_close(search(second, theta, ball, start=half.delta).delta, whole.delta)
