"""Figures of ours beside the talk's: what is where, and that missing results are no obstacle."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ibau_lab.plots import over_setting, paths, price


def marks(figure: Figure, panel: int, label: str) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[panel].lines if line.get_label() == label]
    return [point for line in lines for point in zip(*line.get_data(), strict=True)]


def test_price_is_in_points_and_per_cent_and_a_line_joins_one_row() -> None:
    rows = [((0.01, 0.1), (0.02, 0.3)), (None, (0.5, 0.0)), ((0.03, 0.9), None)]
    figure = price({"a": rows, "b": []}, removed=0.2, kept=0.1)
    assert marks(figure, 0, "ours") == [(1, 10), (3, 90)]
    assert marks(figure, 0, "the talk") == [(2, 30), (50, 0)]
    joins = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert [list(line.get_xdata()) for line in joins] == [[1, 2]]
    (corner,) = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert (corner.get_x() + corner.get_width(), corner.get_y() + corner.get_height()) == (10, 20)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours", "the talk"]


def test_over_setting_draws_each_seed_and_a_line_through_the_means() -> None:
    panels = {"a": {"ours": {5.0: [0.2, 0.4], 0.5: [0.1]}, "the talk": {20.0: [1.0]}}, "b": {}}
    figure = over_setting(panels, xlabel="rate (%)", ylabel="ASR (%)", line=0.2)
    assert sorted(marks(figure, 0, "ours")) == [(0.5, 10), (5, 20), (5, 40)]
    through = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0.5, 5.0]]
    assert [list(line.get_ydata()) for line in through] == [[10, pytest.approx(30)]]
    assert figure.axes[0].get_xscale() == "log"
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["0.5", "5", "20"]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("rate (%)", "ASR (%)")


def test_paths_start_at_zero_and_keep_a_colour_for_a_name() -> None:
    panels = {"a": {"x": [1.0, 0.5], "y": [0.9]}, "b": {"y": [0.8, 0.7]}}
    figure = paths(panels, xlabel="round", ylabel="ASR (%)")
    assert marks(figure, 0, "x") == [(0, 100), (1, 50)]
    colours = {
        (number, line.get_label()): line.get_color()
        for number, axes in enumerate(figure.axes)
        for line in axes.lines
    }
    assert colours[0, "y"] == colours[1, "y"] != colours[0, "x"]


def test_seven_panels_share_their_axes_and_leave_no_empty_ones() -> None:
    figure = price({f"{k}": [] for k in range(7)}, removed=0.2, kept=0.1)
    assert len(figure.axes) == 7 and not figure.legends
    figure.axes[0].set_xlim(0, 5)
    assert figure.axes[6].get_xlim() == (0, 5)


def test_no_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one defence"):
        price({}, removed=0.2, kept=0.1)
