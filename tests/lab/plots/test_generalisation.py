from __future__ import annotations

import pytest

from ibau_lab.plots import generalisation as plots

ROW = {"n": 100, "empirical": 0.2, "complexity": 0.5, "confidence": 0.1, "left": 0.05}


def test_the_terms_of_a_bound_are_stacked_and_the_measurement_stands_beside_them() -> None:
    rows = [ROW, {**ROW, "n": 400, "complexity": 0.25}]
    figure = plots.bound_terms({"one": rows, "two": rows}, "n", xlabel="n (images)")
    first, second = figure.axes
    tops = [bar.get_y() + bar.get_height() for bar in first.containers[2]]
    assert tops == pytest.approx([0.8, 0.55])
    assert [bar.get_y() for bar in first.containers[1]] == [0.2, 0.2]
    assert first.lines[0].get_ydata().tolist() == [0.05, 0.05]
    assert first.lines[1].get_ydata()[0] == 1
    assert [tick.get_text() for tick in second.get_xticklabels()] == ["100", "400"]


def test_a_power_law_lies_on_the_line_of_its_slope() -> None:
    figure = plots.laws(
        [1, 4, 16], {"law": [2, 1, 0.5]}, xlabel="n", ylabel="complexity", slope=-0.5
    )
    (axes,) = figure.axes
    law, line = axes.lines
    assert line.get_ydata() == pytest.approx(law.get_ydata())
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    figure.draw_without_rendering()
    assert "10" in [tick.get_text() for tick in axes.get_xticklabels()]


def test_gaps_are_in_order_each_with_its_own_limit() -> None:
    rows = [
        {"left": 0.3, "sample_error": 0.1, "total": 0.9},
        {"left": 0.2, "sample_error": 0.1, "total": 0.6},
    ]
    measured, allowed, zero = plots.gaps(rows).axes[0].lines
    assert measured.get_ydata() == pytest.approx([0.1, 0.2])
    assert allowed.get_ydata() == pytest.approx([0.5, 0.8])
    assert zero.get_ydata()[0] == 0


def test_groups_differ_in_marker_and_colour() -> None:
    figure = plots.orders({"a": [(1, 2), (10, 3)], "b": [(5, 1)]}, xlabel="x", ylabel="y")
    first, second = figure.axes[0].lines
    assert first.get_marker() != second.get_marker()
    assert first.get_color() != second.get_color()
    assert first.get_xdata().tolist() == [1, 10]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        plots.bound_terms({"one": []}, "n", xlabel="n")
    with pytest.raises(ValueError, match="2 positive numbers"):
        plots.laws([1, 2], {"a": [1, 0]}, xlabel="", ylabel="")
    with pytest.raises(ValueError, match="at least one draw"):
        plots.gaps([])
    with pytest.raises(ValueError, match="positive finite x"):
        plots.orders({"a": [(0.0, 1.0)]}, xlabel="", ylabel="")
