"""Figures of trigger inversion: what each class costs; reversed triggers beside the true one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ibau_lite.plots.style import FAINT, INK, SERIES, hide_axes, new_figure, style_axes

__all__ = ["reversed_triggers", "trigger_sizes"]


def trigger_sizes(
    sizes: Mapping[str, Tensor],
    names: Sequence[str],
    target: int,
    flagged: Mapping[str, Collection[int]],
    units: Mapping[str, str],
    found: Mapping[str, Tensor] | None = None,
) -> Figure:
    """Draw the size of every class's trigger, one panel a method, and say which are flagged.

    `sizes` maps a method to sizes [K] in its unit; `names` are the K classes, `target` the
    attacker's. Squares are flagged classes, circles the others; the line is the median. `found` [K]
    says whose trigger works (all by default): of the others, whose size stands for the whole image,
    a cross is drawn at the right edge. Raises `ValueError` for sizes that are not one for each
    name.
    """
    for method, values in sizes.items():
        if values.shape != (len(names),):
            raise ValueError(
                f"sizes[{method!r}]: one for each of the {len(names)} classes, "
                f"got {list(values.shape)}"
            )
    figure, [panels] = new_figure(1, len(sizes), 3.1 * len(sizes), 0.24 * len(names) + 0.9)
    for number, (panel, (method, values)) in enumerate(zip(panels, sizes.items(), strict=True)):
        style_axes(panel, "x")
        works = (found or {}).get(method, torch.ones_like(values)).bool()
        edge = 1.1 * float(values[works].max()) if bool(works.any()) else 1.0
        median = float(values.quantile(0.5))
        if median <= edge:
            panel.axvline(median, color=FAINT, linewidth=1.5)
        for row, value in enumerate(values.tolist()):
            mine, caught = row == target, row in flagged[method]
            colour, marker = SERIES[1 if mine else 0][0], "s" if caught else "o"
            value, marker = (value, marker) if bool(works[row]) else (edge, "x")
            panel.plot(value, row, marker, color=colour, markersize=7 if mine or caught else 5)
        panel.set_xlabel(f"size ({units[method]})", color=INK)
        panel.set_title(method, fontsize=10, color=INK)
        panel.set_xlim(left=0)
        panel.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        panel.set_ylim(len(names) - 0.5, -0.5)
    return figure


def reversed_triggers(triggers: Mapping[str, tuple[Tensor, Tensor]], image: Tensor) -> Figure:
    """Show triggers above, and an image [C, H, W] in [0, 1] that carries each of them below.

    `triggers` maps a title to (what it looks like on grey, the stamped image), both [C, H, W] in
    [0, 1]. Raises `ValueError` for shapes that differ.
    """
    shapes = {tuple(t.shape) for pair in triggers.values() for t in pair} | {tuple(image.shape)}
    if len(shapes) != 1:
        raise ValueError(f"triggers and image must have one shape, got {sorted(shapes)}")
    columns = {"": (torch.full_like(image, 0.5), image), **triggers}
    figure, axes = new_figure(2, len(columns), 1.5 * len(columns), 3.3)
    for column, (title, (alone, stamped)) in enumerate(columns.items()):
        for row, picture in enumerate((alone, stamped)):
            hide_axes(axes[row][column])
            pixels = picture.detach().float().clamp(0, 1).cpu()
            pixels = torch.cat([pixels] * 3) if len(pixels) == 1 else pixels
            axes[row][column].imshow(pixels.permute(1, 2, 0).numpy())
        axes[0][column].set_title(title or "no trigger", fontsize=9, color=INK)
    return figure
