from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.colors import to_rgb

from ibau_lite import plots
from ibau_lite.plots.style import PAPER, SERIES


def test_bars_are_per_cent_in_the_order_given_and_do_not_overlap() -> None:
    figure = plots.bars(["a", "b", "c"], {"ACC": [1, 0.5, 0.25], "ASR": [0, 0.125, 1]}, chance=0.1)
    (axes,) = figure.axes
    first, second = axes.containers[:2]
    assert [bar.get_height() for bar in first] == [100, 50, 25]
    assert [bar.get_height() for bar in second] == [0, 12.5, 100]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in [*first, *second])
    assert all(left[1] <= right[0] for left, right in pairwise(edges))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert "12.5" in [text.get_text() for text in axes.texts]
    assert axes.lines[0].get_ydata()[0] == pytest.approx(10)
    assert "%" in axes.get_ylabel()


def test_curves_pass_through_their_points_and_name_their_axes() -> None:
    figure = plots.curves([1, 10], {"ACC": [0.9, 0.8]}, xlabel="rate (%)", logarithmic=True)
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 90], [10, 80]]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "rate (%)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]


def test_figures_are_opaque_and_left_to_the_cell_that_returns_them() -> None:
    import matplotlib.pyplot as plt

    figure = plots.bars(["a"], {"ACC": [1.0]})
    assert figure.get_facecolor() == (*to_rgb(PAPER), 1.0)
    assert plt.get_fignums() == []


def test_series_differ_in_more_than_colour() -> None:
    assert len({hatch for _, hatch, _ in SERIES}) == len(SERIES)
    assert len({marker for _, _, marker in SERIES}) == len(SERIES)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({}, "at least one"),
        ({"ACC": [0.5]}, "2 values are expected, got 1"),
        ({"ACC": [0.5, 50.0]}, r"fractions in \[0, 1\]"),
        ({"ACC": [0.5, float("nan")]}, r"fractions in \[0, 1\]"),
    ],
)
def test_fractions_are_checked(series, message) -> None:
    with pytest.raises(ValueError, match=message):
        plots.bars(["a", "b"], series)
    with pytest.raises(ValueError, match=message):
        plots.curves([1, 2], series, xlabel="x")


def test_no_such_figure_is_named() -> None:
    with pytest.raises(AttributeError, match="no figure 'pie'"):
        _ = plots.pie
    assert {"bars", "image_grid"} <= set(dir(plots))
