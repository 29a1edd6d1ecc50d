"""How a notebook gets a figure: lines as SVG, pictures as PNG."""

import torch

from ibau_lite.plots.style import new_figure, show_image


def test_lines_are_svg_and_the_same_each_time():
    def drawn():
        figure, [[axes]] = new_figure(1, 1, 3.0, 2.0)
        axes.plot([0, 1], [1, 0])
        return figure._repr_svg_()

    first = drawn()
    assert first is not None and first.rstrip().endswith("</svg>")
    assert drawn() == first


def test_a_figure_with_a_picture_is_no_svg():
    figure, [[axes]] = new_figure(1, 1, 3.0, 2.0)
    show_image(axes, torch.zeros(3, 4, 4))
    assert figure._repr_svg_() is None
