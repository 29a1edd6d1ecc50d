"""Figures of numerical methods: what is drawn is what was given."""

from __future__ import annotations

import pytest
import torch

from ibau_lite.plots.numerics import Panel, eigenvalue_stems, lines
from ibau_lite.plots.style import SERIES


def test_lines_draw_each_series_in_its_panel_with_labels_and_scales() -> None:
    left = Panel({"CG": ([1, 2], [0.5, 0.1])}, "products", "residual", log="y", levels={"none": 1})
    right = Panel({"top": ([0.0], [2.0]), "hill": ([0, 1], [1, 2])}, "δ", "h", only_marks=("top",))
    figure = lines(left, right)
    one, two = figure.axes
    assert [list(line.get_ydata()) for line in one.lines] == [[0.5, 0.1], [1, 1]]
    assert [text.get_text() for text in one.get_legend().get_texts()] == ["CG", "none"]
    assert (one.get_xlabel(), one.get_ylabel(), one.get_yscale()) == ("products", "residual", "log")
    assert (one.get_xscale(), two.get_yscale()) == ("linear", "linear")
    assert [line.get_linestyle() for line in two.lines] == ["None", "--"]


def test_series_differ_in_more_than_colour() -> None:
    names = [f"series {k}" for k in range(4)]
    [axes] = lines(Panel({n: ([0, 1], [0, 1]) for n in names}, "x", "y")).axes
    assert len({line.get_marker() for line in axes.lines}) == 4
    assert len({line.get_linestyle() for line in axes.lines}) == 4


@pytest.mark.parametrize(
    "wrong, complaint",
    [
        ({"series": {}}, "at least one"),
        ({"series": {"a": ([1, 2], [1])}}, "2 values of x, but 1 of y"),
        ({"series": {"a": ([1], [1])}, "log": "z"}, "log must be"),
        ({"series": {"a": ([1], [1])}, "only_marks": ("b",)}, "no series b"),
    ],
)
def test_a_panel_refuses_what_it_cannot_draw(wrong: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Panel(**{"xlabel": "x", "ylabel": "y", **wrong})


def test_spectra_tell_the_signs_apart_and_share_one_axis() -> None:
    weights = torch.tensor([0.25, 0.75])
    figure = eigenvalue_stems(
        {"A": (torch.tensor([-1.0, 2.0]), weights), "M": ([3.0, 5.0], None)},
        xlabel="eigenvalue",
        marks={"λ": 4.0},
    )
    one, two = figure.axes
    dots = {
        line.get_color(): (list(line.get_xdata()), list(line.get_ydata())) for line in one.lines
    }
    assert dots[SERIES[1][0]] == ([-1.0], [0.25])
    assert dots[SERIES[0][0]] == ([2.0], [0.75])
    assert one.get_xlim() == two.get_xlim()
    assert one.get_xlim()[0] < -1 and one.get_xlim()[1] > 5
    assert [axes.get_title("left") for axes in figure.axes] == ["A", "M"]
    assert two.get_xlabel() == "eigenvalue"
    assert [text.get_text() for text in two.texts] == ["λ"]


def test_spectra_and_lines_refuse_nothing_and_misfits() -> None:
    with pytest.raises(ValueError, match="at least one matrix"):
        eigenvalue_stems({}, xlabel="x")
    with pytest.raises(ValueError, match="A: 2 values, but 1 weights"):
        eigenvalue_stems({"A": ([1.0, 2.0], [1.0])}, xlabel="x")
    with pytest.raises(ValueError, match="at least one"):
        lines()
