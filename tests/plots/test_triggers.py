from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ibau_lite import plots
from ibau_lite.plots.triggers import amplitude_spectrum


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_a_wave_is_two_points_of_the_spectrum_at_its_frequency() -> None:
    wave = torch.sin(2 * math.pi * 5 * torch.arange(32) / 32).expand(3, 32, 32)
    peaks = (amplitude_spectrum(wave) > 0.5).nonzero().tolist()
    assert peaks == [[16, 11], [16, 21]]  # row 0 Hz, columns ± 5 from the middle


def test_a_constant_is_the_middle_and_a_dot_is_everywhere() -> None:
    flat = amplitude_spectrum(torch.full((1, 8, 8), 0.3))
    assert flat[4, 4] == 1 and flat.sum() == pytest.approx(1)
    dot = torch.zeros(1, 8, 8)
    dot[0, 2, 3] = 1
    torch.testing.assert_close(amplitude_spectrum(dot), torch.ones(8, 8, dtype=torch.float64))
    assert not amplitude_spectrum(torch.zeros(3, 8, 8)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_image_difference_and_spectrum_of_each_trigger(channels: int) -> None:
    original = 0.5 * torch.rand(channels, 8, 8, generator=torch.Generator().manual_seed(0))
    faint, square = original + 0.02, original.clone()
    square[:, 5:7, 5:7] = 1
    figure = plots.gallery(original, {"faint": faint, "square": square})
    axes = np.array(figure.axes[:9]).reshape(3, 3)
    assert [place.get_title() for place in axes[0]] == ["original", "faint", "square"]
    assert [row[0].get_ylabel() for row in axes] == ["image", "difference × 10", "spectrum"]
    pixels = square.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(shown(axes[0, 2]), pixels if channels == 3 else pixels[..., 0])
    assert not axes[1, 0].images
    assert shown(axes[1, 1]) == pytest.approx(0.2, abs=1e-5)
    outside = shown(axes[1, 2]).copy()
    outside[5:7, 5:7] = 0
    assert not outside.any()
    drawn = shown(axes[2, 2])
    expected = amplitude_spectrum(square - original).clamp_min(1e-3).log10().numpy()
    np.testing.assert_allclose(drawn, expected)
    assert axes[2, 2].images[0].get_clim() == (-3, 0)


@pytest.mark.parametrize(
    ("original", "stamped", "gain", "says"),
    [
        (torch.zeros(3, 8, 8), {}, 10, "at least one"),
        (torch.zeros(1, 3, 8, 8), {"a": torch.zeros(1, 3, 8, 8)}, 10, "original"),
        (torch.zeros(3, 8, 8), {"a": torch.zeros(3, 8, 9)}, 10, "a: the shape"),
        (torch.zeros(3, 8, 8), {"a": torch.full((3, 8, 8), 1.1)}, 10, "a: values"),
        (torch.zeros(3, 8, 8), {"a": torch.zeros(3, 8, 8)}, 0, "gain"),
    ],
)
def test_gallery_refuses(original, stamped, gain, says) -> None:
    with pytest.raises(ValueError, match=says):
        plots.gallery(original, stamped, gain)


def test_spectrum_refuses_a_batch() -> None:
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        amplitude_spectrum(torch.zeros(2, 3, 8, 8))
