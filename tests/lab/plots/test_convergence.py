from __future__ import annotations

import pytest

from ibau_lab.plots.convergence import distributions, errors_and_bounds

ROWS = [
    {"T": T, "K": K, "error": 0.5**T * 0.1**K, "bound": 3 * 0.5**T * 0.1**K}
    for T in (4, 0, 2)
    for K in (1, 0)
]


def test_every_K_has_a_measured_line_and_its_bound_over_T() -> None:
    (axes,) = errors_and_bounds({"a": ROWS}).axes
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "-", "--"]
    assert axes.get_yscale() == "log"
    error, bound = axes.lines[2:]
    assert error.get_label() == "K = 1"
    assert list(error.get_xdata()) == [0, 2, 4]
    assert list(error.get_ydata()) == pytest.approx([0.1, 0.025, 0.00625])
    assert list(bound.get_ydata()) == pytest.approx([0.3, 0.075, 0.01875])


def test_an_error_of_zero_is_drawn_at_the_floor() -> None:
    rows = [{"T": 0, "K": 0, "error": 0.0, "bound": 1.0}]
    (axes,) = errors_and_bounds({"a": rows}).axes
    assert list(axes.lines[0].get_ydata()) == [1e-16]


def test_a_distribution_climbs_to_a_hundred_per_cent_and_counts_what_is_negative() -> None:
    seen = {"values": [2.0, -1.0, 0.5], "weights": [0.2, 0.3, 0.5]}
    (axes,) = distributions({"net": {"at 0": seen}}).axes
    steps, ends = axes.lines[:2]
    assert list(steps.get_xdata()) == [-1.0, 0.5, 2.0]
    assert list(steps.get_ydata()) == pytest.approx([30, 80, 100])
    assert list(ends.get_xdata()) == [-1.0, 2.0]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: errors_and_bounds({}),
        lambda: errors_and_bounds({"a": []}),
        lambda: distributions({}),
    ],
)
def test_nothing_to_draw_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="expected, got none"):
        draw()
