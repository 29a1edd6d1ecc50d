"""Pictures of triggers: one image under each, what was changed, and at which frequencies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ibau_lite.plots.style import INK, hide_axes, new_figure

__all__ = ["amplitude_spectrum", "gallery"]

_DECADES = 3  # what is weaker than a thousandth of the strongest frequency is drawn alike
_SIDE = 1.25  # inches on a side of one picture


def amplitude_spectrum(difference: Tensor) -> Tensor:
    """Amplitude of each spatial frequency of a picture [C, H, W], as [H, W], zero in the middle.

        s(f) = (mean_c |Σ_p d_c(p) exp(−2πi ⟨f, p⟩)|²)^½ / max_f of the same,

    in [0, 1]; zeros for a picture of zeros. Rows and columns are frequencies in periods an image.
    Raises `ValueError` for another shape.
    """
    if difference.ndim != 3:
        raise ValueError(f"difference: [C, H, W] is expected, got {list(difference.shape)}")
    transformed = torch.fft.fft2(difference.detach().double().cpu())
    amplitude = torch.fft.fftshift(transformed.abs().square().mean(0).sqrt())
    return amplitude / amplitude.amax().clamp_min(torch.finfo(torch.float64).tiny)


def gallery(original: Tensor, stamped: Mapping[str, Tensor], gain: float = 10.0) -> Figure:
    """Show an image under several triggers: stamped, `gain` × |difference|, and its spectrum.

    `original` and every image of `stamped` (by the trigger's name) are [1 or 3, H, W] in [0, 1].
    Each trigger is a column, the original is the first. Differences are cut at 1. Spectra are on a
    logarithmic scale of three decades, each against its own maximum, with frequency zero in the
    middle; that of the first column is the image's own. Raises `ValueError` for no stamped image,
    images of another shape or range, and a gain that is not positive.
    """
    _check(original, stamped, gain)
    names = ["original", *stamped]
    pictures = [original, *stamped.values()]
    figure, axes = new_figure(3, len(names), _SIDE * len(names) + 1.0, _SIDE * 3 + 0.4)
    labels = ("image", f"difference × {gain:g}", "spectrum")
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label, fontsize=9, color=INK)
        for place in row:
            hide_axes(place)
    for column, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        difference = picture - original
        axes[0][column].set_title(name, fontsize=9, color=INK)
        _show(axes[0][column], picture)
        if column:
            _show(axes[1][column], (gain * difference.abs()).clamp(0, 1))
        else:
            axes[1][0].set_facecolor("none")
        drawn = axes[2][column].imshow(
            amplitude_spectrum(difference if column else original)
            .clamp_min(10**-_DECADES)
            .log10()
            .numpy(),
            cmap="cividis",
            vmin=-_DECADES,
            vmax=0,
        )
    bar = figure.colorbar(drawn, ax=[row[-1] for row in axes[2:]], fraction=0.08)
    bar.set_label("log₁₀ of the amplitude", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    return figure


def _show(axes: Axes, image: Tensor) -> None:
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)


def _check(original: Tensor, stamped: Mapping[str, Tensor], gain: float) -> None:
    if not stamped:
        raise ValueError("stamped: at least one image is expected, got none")
    if not gain > 0:
        raise ValueError(f"gain: a positive number is expected, got {gain}")
    if original.ndim != 3 or original.shape[0] not in (1, 3):
        raise ValueError(f"original: [1 or 3, H, W] is expected, got {list(original.shape)}")
    for name, picture in {"original": original, **stamped}.items():
        if picture.shape != original.shape:
            raise ValueError(
                f"{name}: the shape of the original, {list(original.shape)}, is expected, "
                f"got {list(picture.shape)}"
            )
        low, high = (float(bound) for bound in picture.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name}: values in [0, 1] are expected, got {low:g} to {high:g}")
