from __future__ import annotations

import numpy as np
import pytest
import torch

from ibau_lite import plots


def shown(axes) -> np.ndarray:
    (image,) = axes.images
    return np.asarray(image.get_array())


def test_grid_shows_each_image_under_its_title_and_leaves_the_rest_empty() -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    figure = plots.image_grid(images, list("abcde"), columns=3)
    assert len(figure.axes) == 6
    for axes, image, title in zip(figure.axes, images, "abcde"):
        np.testing.assert_array_equal(shown(axes), image.permute(1, 2, 0).numpy())
        assert axes.get_title() == title
    assert not figure.axes[5].images


def test_grey_images_keep_their_scale() -> None:
    figure = plots.image_grid(torch.full((1, 1, 4, 4), 0.5))
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_stamping_has_three_rows_and_an_amplified_difference() -> None:
    clean = torch.full((2, 3, 4, 4), 0.5)
    stamped = clean.clone()
    stamped[:, :, 0, 0] = 0.54
    stamped[:, :, 1, 1] = 1.0
    figure = plots.stamping(clean, stamped, gain=10)
    assert len(figure.axes) == 6
    assert [figure.axes[row * 2].get_ylabel() for row in range(3)] == [
        "original",
        "stamped",
        "difference × 10",
    ]
    difference = shown(figure.axes[4])
    assert difference[0, 0] == pytest.approx([0.4] * 3, abs=1e-5)
    assert difference[1, 1] == pytest.approx([1.0] * 3)
    assert difference[2:].max() == 0


@pytest.mark.parametrize(
    ("images", "titles", "columns", "message"),
    [
        (torch.zeros(0, 3, 4, 4), None, 3, "N >= 1"),
        (torch.zeros(3, 4, 4), None, 3, "shape"),
        (torch.full((1, 3, 4, 4), 1.5), None, 3, "1.5"),
        (torch.full((1, 3, 4, 4), float("nan")), None, 3, "nan"),
        (torch.zeros(2, 3, 4, 4), ["one"], 3, "2 are expected"),
        (torch.zeros(2, 3, 4, 4), None, 0, "at least 1"),
    ],
)
def test_grid_refuses(images, titles, columns, message) -> None:
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images, titles, columns)


def test_stamping_refuses_other_shapes_and_a_gain_of_nothing() -> None:
    clean = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="the shape of clean"):
        plots.stamping(clean, clean[:1])
    with pytest.raises(ValueError, match="positive"):
        plots.stamping(clean, clean, gain=0)


def test_readings_mark_each_wrong_answer_and_no_right_one() -> None:
    figure = plots.predictions(
        torch.zeros(2, 3, 4, 4), ["clean", "stamped"], {"net": ["cat", "dog"]}, ["cat", "cat"]
    )
    assert [axes.get_title() for axes in figure.axes] == ["clean", "stamped"]
    right, wrong = (axes.texts[0] for axes in figure.axes)
    assert (right.get_text(), wrong.get_text()) == ("✓ net: cat", "✗ net: dog")
    assert right.get_color() != wrong.get_color()


def test_readings_refuse_a_missing_answer() -> None:
    with pytest.raises(ValueError, match="net: 2 are expected"):
        plots.predictions(torch.zeros(2, 3, 4, 4), ["a", "b"], {"net": ["cat"]}, ["cat", "cat"])
