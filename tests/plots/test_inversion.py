from __future__ import annotations

import pytest
import torch

from ibau_lite.plots.inversion import reversed_triggers, trigger_sizes

NAMES = ["a", "b", "c", "d"]
SIZES = {"one": torch.tensor([40.0, 5.0, 60.0, 50.0]), "two": torch.tensor([3.0, 3.0, 3072.0, 4.0])}
UNITS = {"one": "pixels", "two": "values"}


def test_flagged_classes_are_squares_and_those_without_a_trigger_crosses_at_the_edge() -> None:
    works = torch.tensor([True, True, False, True])
    figure = trigger_sizes(SIZES, NAMES, 1, {"one": {1}, "two": ()}, UNITS, {"two": works})
    one, two = figure.axes
    median, *points = one.lines
    assert list(median.get_xdata()) == [45.0, 45.0]
    assert [point.get_marker() for point in points] == ["o", "s", "o", "o"]
    assert [float(point.get_xdata()[0]) for point in points] == SIZES["one"].tolist()
    assert len({point.get_color() for point in points[:2]}) == 2, "the target has its own colour"
    markers = [line.get_marker() for line in two.lines[1:]]
    assert markers == ["o", "o", "x", "o"]
    assert float(two.lines[3].get_xdata()[0]) == pytest.approx(4.4)  # 10 % beyond the largest
    assert [axes.get_xlabel() for axes in (one, two)] == ["size (pixels)", "size (values)"]


def test_every_class_needs_a_size() -> None:
    with pytest.raises(ValueError, match="one for each of the 3 classes, got"):
        trigger_sizes(SIZES, NAMES[:3], 1, {"one": (), "two": ()}, UNITS)


def test_each_trigger_stands_above_the_image_that_carries_it() -> None:
    image, trigger = torch.full((3, 4, 4), 0.25), torch.rand(3, 4, 4)
    figure = reversed_triggers({"true": (trigger, image)}, image)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["no trigger", "true", "", ""]
    shown = torch.as_tensor(figure.axes[1].images[0].get_array())
    assert torch.allclose(shown.float(), trigger.permute(1, 2, 0))


def test_pictures_of_another_shape_are_refused() -> None:
    image = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="one shape"):
        reversed_triggers({"true": (image, torch.zeros(3, 5, 5))}, image)
