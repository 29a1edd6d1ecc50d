"""Balls against root finding and variational inequalities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from ibau_lite.sets import L1Ball, L2Ball, LinfBall

SHAPE = (2, 5, 4)
F64 = torch.float64
quick = settings(deadline=None, max_examples=30)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


SETS = [L2Ball(0.7), LinfBall(0.7), L1Ball(0.7, fraction=0.2)]


def members(region, count: int = 200) -> torch.Tensor:
    """Points of the set, near and far, and its corners if it is the sparse ball."""
    points = [
        region.project(size * draw(*SHAPE, seed=j)) for j in range(count) for size in (0.1, 9)
    ]
    if isinstance(region, L1Ball):
        corners = region.radius * torch.eye(40, dtype=F64).reshape(-1, *SHAPE)
        points += [*corners, *-corners]
    return torch.stack(points)


@pytest.mark.parametrize("region", SETS, ids=str)
def test_the_projection_is_the_nearest_point(region):
    inside = members(region)
    lengths = torch.stack([region.norm(z) for z in inside])
    assert float(lengths.max()) <= region.radius * (1 + 1e-12)
    for seed in range(5):
        point = 3 * draw(*SHAPE, seed=seed)
        nearest = region.project(point)
        torch.testing.assert_close(region.project(nearest), nearest)
        # ⟨x − Πx, z − Πx⟩ ≤ 0 for all z of a convex set, and only for the nearest point
        products = ((point - nearest) * (inside - nearest)).flatten(1).sum(1)
        assert float(products.max()) <= 1e-9


@pytest.mark.parametrize("region", SETS, ids=str)
def test_the_dual_norm_bounds_what_any_step_of_length_one_gains(region):
    gradient = draw(*SHAPE, seed=7)
    inside = members(region) / region.radius
    gains = (gradient * inside).flatten(1).sum(1)
    assert float(gains.max()) <= float(region.dual_norm(gradient)) * (1 + 1e-12)
    step = region.lmo(gradient)
    assert float(region.norm(step)) == pytest.approx(1)
    torch.testing.assert_close(region.project(region.radius * step), region.radius * step)
    if not isinstance(region, L1Ball):  # which takes more than one entry for speed
        assert float((gradient * step).sum()) == pytest.approx(float(region.dual_norm(gradient)))
    assert not region.lmo(torch.zeros(SHAPE, dtype=F64)).any()


@quick
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.floats(0.01, 50))
def test_the_sparse_projection_is_the_soft_threshold_of_that_length(entries, radius):
    point = torch.tensor(entries, dtype=F64)
    found = L1Ball(radius).project(point)
    if float(point.abs().sum()) <= radius:
        assert torch.equal(found, point)
        return

    def excess(threshold: float) -> float:
        return float((point.abs() - threshold).clamp_min(0).sum()) - radius

    threshold = brentq(excess, 0, float(point.abs().max()), xtol=1e-13)
    expected = point.sign() * (point.abs() - threshold).clamp_min(0)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_sparse_step_changes_the_largest_entries_alone():
    gradient = torch.tensor([[[0.1, -5.0], [3.0, 0.2]]], dtype=F64)
    half = L1Ball(1.0, fraction=0.5).lmo(gradient)
    torch.testing.assert_close(half, torch.tensor([[[0, -0.5], [0.5, 0]]], dtype=F64))
    one = L1Ball(1.0, fraction=1e-9).lmo(gradient)  # one entry: the exact steepest direction
    assert float((one * gradient).sum()) == float(L1Ball(1.0).dual_norm(gradient)) == 5


def test_from_far_away_the_nearest_point_is_still_on_the_sphere():
    """The squares of 1e30 are infinite in single precision."""
    far = torch.tensor([3e30, 0.0, -4e30])
    torch.testing.assert_close(L2Ball(2.0).project(far), torch.tensor([1.2, 0.0, -1.6]))


def test_sets_that_make_no_sense_are_refused():
    for radius in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="radius"):
            L1Ball(radius)
    for fraction in (0.0, 1.1):
        with pytest.raises(ValueError, match="fraction"):
            L1Ball(1.0, fraction=fraction)


@pytest.mark.parametrize("far", [1e8, 1e30])
def test_from_far_away_the_sparse_projection_is_still_the_nearest_point(far):
    ball = L1Ball(1.0)
    torch.testing.assert_close(ball.project(torch.tensor([far, 1, 1])), torch.tensor([1.0, 0, 0]))
    both = ball.project(torch.tensor([far, -far, 3]))
    torch.testing.assert_close(both, torch.tensor([0.5, -0.5, 0]))


@pytest.mark.parametrize("size", [1e-30, 1e-23, 1.0, 1e30])
def test_the_direction_of_a_step_survives_under_and_overflow(size):
    """In float32 the square of 1e-23 is zero, and a network that is sure has such gradients."""
    gradient = draw(3, 4).float()
    found = L2Ball(1.0).lmo(size * gradient)
    torch.testing.assert_close(found, gradient / gradient.norm(), rtol=1e-5, atol=1e-6)
    assert not L2Ball(1.0).lmo(torch.zeros(3, 4)).any()
