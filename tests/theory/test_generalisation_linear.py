"""Theorem 2: its constants against brute force, its laws, and a check of it that can fail."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ibau_lite.theory import generalisation_linear as linear
from ibau_lite.theory.margins import Bound, confidence, margin_error, margins, ramp_risk
from ibau_lite.theory.rademacher import complexity_bound, complexity_monte_carlo, supremum
from ibau_lite.theory.worst_shift import image_by_image, worst_shift

from ibau_lite.data import load

F64 = torch.float64
quick = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 10_000)
SIZES = st.floats(1e-2, 1e2)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def labels_of(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


# --- margins ------------------------------------------------------------------------------------


@quick
@given(SEEDS, st.integers(2, 5), st.integers(1, 6))
def test_margins_are_those_of_the_definition(seed, classes, n):
    scores, labels = draw(3, n, classes, seed=seed), labels_of(n, classes, seed)
    found = margins(scores, labels)
    for r in range(3):
        for i in range(n):
            rivals = [float(scores[r, i, j]) for j in range(classes) if j != labels[i]]
            assert float(found[r, i]) == float(scores[r, i, labels[i]]) - max(rivals)


@quick
@given(SEEDS, SIZES)
def test_the_ramp_lies_between_the_two_counts(seed, gamma):
    margin = gamma * torch.cat([draw(20, seed=seed), torch.tensor([0.0, 1.0], dtype=F64)])
    ramp = float(ramp_risk(margin, gamma))
    assert float(margin_error(margin)) <= ramp <= float(margin_error(margin, gamma))


def test_margins_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at least two classes"):
        margins(draw(3, 1), labels_of(3, 1))
    with pytest.raises(ValueError, match=r"shape \[3\] is expected"):
        margins(draw(3, 2), labels_of(4, 2))
    with pytest.raises(ValueError, match="classes 0 to 1"):
        margins(draw(3, 2), torch.tensor([0, 1, 2]))


def test_a_bound_is_the_sum_of_its_terms_and_says_when_it_is_empty():
    assert Bound(0.25, 0.5, 0.125).total == 0.875
    assert not Bound(0.25, 0.5, 0.125).vacuous
    assert Bound(0.25, 0.5, 0.25).vacuous


# --- the complexity term ------------------------------------------------------------------------


@quick
@given(SEEDS, st.integers(2, 4), st.floats(0, 3))
def test_no_theta_and_no_delta_exceed_the_supremum_and_one_attains_it(seed, classes, c_delta):
    n, d = 5, 3
    noise, features = draw(n, classes, seed=seed), draw(n, d, seed=seed + 1)
    best = float(supremum(noise, features, c_delta))

    def value(theta: torch.Tensor, delta: torch.Tensor) -> float:
        theta = linear.centred(theta)
        theta = theta / theta.norm()
        return float((noise * ((features + delta) @ theta.T)).sum())

    for trial in range(20):
        delta = draw(d, seed=seed + 100 + trial)
        delta = c_delta * delta / delta.norm()
        assert value(draw(classes, d, seed=seed + 200 + trial), delta) <= best + 1e-9
    centred_noise = noise - noise.mean(1, keepdim=True)
    a, b = centred_noise.T @ features, centred_noise.sum(0)
    delta = c_delta * (a.T @ b) / (a.T @ b).norm()
    assert value(a + torch.outer(b, delta), delta) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize(("classes", "c_delta"), [(2, 0.0), (2, 2.0), (10, 0.5)])
def test_the_monte_carlo_complexity_is_below_its_bound_and_not_far(noise, classes, c_delta):
    features = draw(200, 15, seed=3)
    measured = complexity_monte_carlo(features, classes, c_delta, noise=noise, draws=150)
    bound = complexity_bound(features, classes, c_delta)
    assert measured.mean <= bound + 3 * measured.error
    assert measured.mean >= 0.75 * bound


def test_a_delta_for_every_image_would_break_the_bound():
    """What makes δ cheap is that it is one: with δᵢ free the noise does not average out."""
    features, c_delta, n = draw(400, 15, seed=4), 1.0, 400
    noise = draw(n, 2, seed=5)
    centred_noise = noise - noise.mean(1, keepdim=True)
    along = (centred_noise.T @ features)[0]
    direction = along / along.norm()
    theta = torch.stack([direction, -direction]) / math.sqrt(2)
    own = (noise * (features @ theta.T)).sum() + c_delta * centred_noise.norm(dim=1).sum()
    assert float(own) / n > 3 * complexity_bound(features, 2, c_delta)


@quick
@given(st.integers(2, 50), SIZES, SIZES, SIZES, st.floats(0, 1e2), st.integers(1, 10**6))
def test_complexity_scales_as_the_formula_says(classes, norm, gamma, chi, c_delta, n):
    value = linear.complexity(norm, gamma, n, classes, chi, c_delta)
    same = pytest.approx(value, rel=1e-12)
    assert linear.complexity(3 * norm, 3 * gamma, n, classes, chi, c_delta) == same
    assert linear.complexity(norm, 3 * gamma, n, classes, 3 * chi, 3 * c_delta) == same
    assert linear.complexity(2 * norm, gamma, 4 * n, classes, chi, c_delta) == same
    assert linear.complexity(norm, gamma, n, classes, chi, c_delta + 1) > value
    assert linear.complexity(norm, gamma, n, classes, chi + 1, c_delta) > value
    assert linear.complexity(norm, gamma, n, classes + 1, chi, c_delta) > value
    assert linear.complexity(norm, gamma, n + 1, classes, chi, c_delta) < value
    assert linear.complexity(norm, 1.1 * gamma, n, classes, chi, c_delta) < value


@quick
@given(SEEDS, st.integers(2, 12))
def test_the_form_of_the_talk_is_never_smaller(seed, classes):
    theta = draw(classes, 4, seed=seed)
    norm = float(linear.centred(theta).norm())
    rows = float(theta.norm(dim=1).max())
    ours = linear.complexity(norm, 0.3, 50, classes, 1.0, 0.5)
    assert ours <= linear.talk_complexity(rows, 0.3, 50, classes, 1.0, 0.5)


def test_two_classes_pay_twice_the_norm_of_the_difference():
    theta = draw(2, 7)
    difference = float((theta[0] - theta[1]).norm())
    found = linear.complexity(float(linear.centred(theta).norm()), 0.5, 25, 2, 3.0, 1.0)
    assert found == pytest.approx(2 * difference * (3 + 1) / (0.5 * 5), rel=1e-12)


def test_confidence_falls_with_n_and_rises_with_certainty():
    assert confidence(200, math.exp(-4)) == pytest.approx(0.1)
    assert confidence(200, 2 * math.exp(-4), empirical=True) == pytest.approx(0.3)
    assert confidence(100, 0.05) < confidence(100, 0.01) < confidence(50, 0.01)
    with pytest.raises(ValueError, match="0 < xi < 1"):
        confidence(10, 1.0)


# --- the worst universal shift ------------------------------------------------------------------


@quick
@given(SEEDS, st.just(0.0) | st.floats(1e-6, 2), st.floats(0, 1))
def test_two_classes_are_solved_exactly(seed, c_delta, gamma):
    theta, features, labels = draw(2, 3, seed=seed), draw(30, 3, seed=seed + 1), labels_of(30, 2)
    found = worst_shift(theta, features, labels, c_delta, gamma=gamma)
    w = theta[0] - theta[1]
    along = torch.linspace(-1, 1, 401, dtype=F64)[:, None, None] * c_delta * w / w.norm()
    errors = margin_error(margins((features + along) @ theta.T, labels), gamma)
    assert found.exact
    assert float(found.delta.norm()) <= c_delta * (1 + 1e-12)
    # The grid may step over a maximum that is a single point, never above it.
    assert found.error >= float(errors.max())
    here = margins((features + found.delta) @ theta.T, labels)
    assert float(margin_error(here - 1e-9, gamma)) >= found.error  # up to rounding at a jump


@pytest.mark.parametrize("seed", range(4))
def test_three_classes_in_the_plane_agree_with_a_fine_grid(seed):
    theta, features, labels = draw(3, 2, seed=seed), draw(40, 2, seed=seed + 9), labels_of(40, 3)
    radius = 0.7
    found = worst_shift(theta, features, labels, radius, restarts=64, steps=80)
    axis = torch.linspace(-radius, radius, 201, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[grid.norm(dim=1) <= radius]
    scores = (features[None] + grid[:, None]) @ theta.T
    best = float(margin_error(margins(scores, labels)).max())
    assert best - 1 / 40 <= found.error <= found.ceiling
    assert float(found.delta.norm()) <= radius * (1 + 1e-9)
    again = margins((features + found.delta) @ theta.T, labels)
    assert float(margin_error(again)) == pytest.approx(found.error)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_ceiling_is_the_adversary_who_sees_every_image(gamma):
    theta, features, labels = draw(3, 2), draw(25, 2, seed=1), labels_of(25, 3)
    radius = 0.4
    angle = torch.linspace(0, 2 * math.pi, 20_001, dtype=F64)
    circle = radius * torch.stack([angle.cos(), angle.sin()], 1)
    worst = torch.stack([margins((x + circle) @ theta.T, y.expand(len(circle))).min()
                         for x, y in zip(features, labels)])  # fmt: skip
    found = image_by_image(theta, features @ theta.T, labels, radius, gamma)
    assert float(found) == float(margin_error(worst, gamma))


def test_the_shift_leaves_fixed_features_alone_and_does_nothing_without_room():
    theta, features, labels = draw(3, 4), draw(20, 4, seed=1), labels_of(20, 3)
    assert float(worst_shift(theta, features, labels, 1.0, fixed=1).delta[-1].abs()) < 1e-12
    still = worst_shift(theta, features, labels, 0.0, restarts=2, steps=1)
    assert still.error == float(margin_error(margins(features @ theta.T, labels)))
    with pytest.raises(ValueError, match="c_delta >= 0"):
        worst_shift(theta, features, labels, -1.0)


# --- the bound for a θ that was trained ---------------------------------------------------------


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1,797 digits as 8×8 pixels, with the constant: a population that is known to the last."""
    data = load("digits")
    parts = (data.train, data.clean, data.validation, data.test)
    images = torch.cat([part.images[:, :1, ::4, ::4] for part in parts])
    return linear.augmented(images).double(), torch.cat([part.labels for part in parts])


def ridge(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    wanted = torch.nn.functional.one_hot(labels, classes).to(F64) - 1 / classes
    gram = features.T @ features + 10 * torch.eye(features.shape[1], dtype=F64)
    return torch.linalg.solve(gram, features.T @ wanted).T


CHI = math.sqrt(64 / 4 + 1)


def test_augmented_weights_give_the_scores_of_the_affine_model():
    images, weight, bias = torch.rand(6, 1, 2, 2, dtype=F64), draw(3, 4), draw(3, seed=1)
    scores = images.flatten(1) @ weight.T + bias
    found = linear.augmented(images, 0.3) @ linear.augmented_weights(weight, bias, 0.3).T
    torch.testing.assert_close(found, linear.centred(scores.T).T)
    assert float(linear.augmented(torch.ones(1, 3, 4, 4)).norm()) == pytest.approx(
        math.sqrt(48 / 4 + 1)
    )


def test_the_chosen_bound_pays_for_its_cell_of_the_grid():
    features, labels = digits()
    theta = ridge(features[:500], labels[:500], 10)
    choice = linear.choose_margin(
        theta, features[:500], labels[:500], chi=CHI, c_delta=1.0, xi=0.05
    )
    norm, start = float(linear.centred(theta).norm()), math.sqrt(2) * (CHI + 1)
    m = math.ceil(math.log(start * norm / choice.gamma) / math.log(1.1))
    cell = start * 1.1**-m
    assert cell <= choice.gamma / norm * (1 + 1e-12) < 1.1 * cell
    margin = margins(features[:500] @ theta.T, labels[:500])
    assert choice.bound.empirical == pytest.approx(float(ramp_risk(margin, cell * norm)))
    assert choice.bound.complexity == pytest.approx(
        2 * math.sqrt(9 * math.pi) * (CHI + 1) / (cell * math.sqrt(500))
    )
    assert choice.bound.confidence == pytest.approx(
        math.sqrt(math.log((m + 1) * (m + 2) / 0.05) / 1000)
    )


def test_the_bound_knows_no_scale_no_class_order_and_no_axes():
    features, labels = digits()
    features, labels = features[:300], labels[:300]
    theta = ridge(features, labels, 10)

    def total(theta, features, labels):
        return linear.choose_margin(theta, features, labels, chi=CHI, c_delta=0.5).bound.total

    plain = pytest.approx(total(theta, features, labels), rel=1e-9)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(draw(65, 65))[0]
    assert total(7.3 * theta, features, labels) == plain
    assert total(theta + draw(65), features, labels) == plain
    assert total(theta[order], features, order.argsort()[labels]) == plain
    assert total(theta @ rotation, features @ rotation, labels) == plain


def test_what_the_corollary_supposes_is_checked_at_the_door():
    features, labels = digits()
    theta = ridge(features, labels, 10)
    with pytest.raises(ValueError, match="chi must bound every image"):
        linear.choose_margin(theta, features, labels, chi=3.0, c_delta=0.5)
    with pytest.raises(ValueError, match="norm of at most c_delta = 0.5"):
        linear.choose_margin(
            theta, features, labels, chi=CHI, c_delta=0.5, delta=torch.ones(65) / 8
        )
    with pytest.raises(ValueError, match="other than zero"):
        linear.choose_margin(0 * theta, features, labels, chi=CHI, c_delta=0.5)


# --- coverage, and what breaks it ---------------------------------------------------------------


def coverage(pair: tuple[int, int], n: int, draws: int, xi: float) -> tuple[int, int]:
    """Draws in which the bound failed, and in which it failed without its complexity term.

    The population is all the digits of two classes, so the left side is known exactly.
    """
    features, labels = digits()
    of_pair = (labels == pair[0]) | (labels == pair[1])
    features, labels = features[of_pair], (labels[of_pair] == pair[1]).long()
    generator = torch.Generator().manual_seed(0)
    failed = bare = 0
    for _ in range(draws):
        index = torch.randint(len(labels), (n,), generator=generator)
        theta = ridge(features[index], labels[index], 2)
        shift = worst_shift(theta, features, labels, 0.5, fixed=1)
        choice = linear.choose_margin(
            theta, features[index], labels[index], chi=CHI, c_delta=0.5, xi=xi, delta=shift.delta
        )
        moved = margins((features[index] + shift.delta) @ theta.T, labels[index])
        failed += shift.error > choice.bound.total
        bare += shift.error > float(margin_error(moved))
    return failed, bare


def test_the_bound_covers_and_the_same_check_fails_without_its_penalty():
    failed, bare = coverage((3, 8), n=60, draws=60, xi=0.05)
    assert failed <= 0.05 * 60
    assert bare > 0.05 * 60


def test_images_that_are_not_independent_break_the_bound():
    """20,000 copies of one digit are no sample of 20,000: the bound is small, the truth is not."""
    features, labels = digits()
    one = features[:1].expand(20_000, -1)
    theta = torch.zeros(10, 65, dtype=F64)
    theta[labels[0]] = features[0]
    choice = linear.choose_margin(theta, one, labels[:1].expand(20_000), chi=CHI, c_delta=0.0)
    truth = float(margin_error(margins(features @ linear.centred(theta).T, labels)))
    assert choice.bound.total < 0.3 < truth
