from __future__ import annotations

import pytest

from ibau_lab import plots

ACC = {"cifar10": {"a": [70.0, 80.0], "b": [60.0]}, "gtsrb": {"a": [90.0]}}
ASR = {"cifar10": {"a": [5.0, 7.0], "b": [9.0]}, "gtsrb": {"a": [1.0]}}


def test_every_value_is_a_dot_in_its_row_and_the_bar_is_the_mean() -> None:
    figure = plots.per_row({"ACC (%)": ACC, "ASR (%)": ASR}, reference="a")
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["a", "b"]
    assert left.get_xlabel() == "ACC (%)" and right.get_xlabel() == "ASR (%)"
    drawn = [(line.get_xdata(), line.get_ydata(), line.get_linestyle()) for line in left.lines]
    dots = [(list(x), {round(v) for v in y}) for x, y, style in drawn if style == "None"]
    assert ([70.0, 80.0], {0}) in dots and ([60.0], {1}) in dots and ([90.0], {0}) in dots
    means = [x[0] for x, y, style in drawn if style == "-" and x[0] == x[1] and y[0] < y[1] < 0.5]
    assert sorted(means) == [75.0, 90.0]
    assert [x[0] for x, _, style in drawn if style == ":"] == [75.0, 90.0]


def test_the_first_row_is_on_top_and_the_legend_names_each_series_once() -> None:
    (axes,) = plots.per_row({"ACC (%)": ACC}).axes
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cifar10", "gtsrb"]


def test_a_panel_keeps_to_its_limits() -> None:
    (axes,) = plots.per_row({"ASR (%)": ASR}, limits={"ASR (%)": (0, 100)}).axes
    assert axes.get_xlim() == (0, 100)


def test_nothing_to_draw_and_a_reference_that_is_no_row_are_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        plots.per_row({"ACC (%)": {}})
    with pytest.raises(ValueError, match="got 'c'"):
        plots.per_row({"ACC (%)": ACC}, reference="c")


def test_a_row_without_values_keeps_its_place_and_every_series_its_colour_and_name() -> None:
    empty: dict[str, list[float]] = {"a": [], "b": []}
    figure = plots.per_row(
        {"s": {"ours": empty, "talk": {"b": [9.0]}}, "t": {"ours": {"b": [2.0]}}}
    )
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["a", "b"]
    colour = {line.get_label(): line.get_color() for axes in (left, right) for line in axes.lines}
    assert colour["ours"] != colour["talk"]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["talk", "ours"]


def test_the_values_can_be_on_a_logarithmic_axis() -> None:
    (axes,) = plots.per_row({"s": {"ours": {"a": [1.0, 1000.0]}}}, logarithmic=True).axes
    assert axes.get_xscale() == "log"
