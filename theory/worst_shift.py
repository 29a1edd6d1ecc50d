r"""The worst universal shift of a linear model: max_{‖δ‖ ≤ C_δ} (1/n) Σᵢ 1[m(xᵢ + δ, yᵢ) ≤ γ].

The objective is a count. For two classes the maximum is computed exactly; for more it is bracketed:
from below by a search with restarts, from above by letting every image have a δ of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .generalisation_linear import centred
from .margins import margin_error, margins

__all__ = ["Shift", "image_by_image", "worst_shift"]


@dataclass(frozen=True, eq=False)
class Shift:
    """A δ and the margin error there: `error` ≤ max ≤ `ceiling`, equal where `exact`.

    `by_restart` [restarts] holds the best error of every restart: whether they agree tells how much
    the search is to be believed.
    """

    delta: Tensor = field(repr=False)
    error: float
    ceiling: float
    by_restart: Tensor = field(repr=False)

    @property
    def exact(self) -> bool:
        """Whether no δ of the ball does worse."""
        return self.error == self.ceiling


def worst_shift(
    theta: Tensor,
    features: Tensor,
    labels: Tensor,
    c_delta: float,
    *,
    gamma: float = 0.0,
    fixed: int = 0,
    restarts: int = 32,
    steps: int = 60,
    seed: int = 0,
) -> Shift:
    """Search the δ [d] of norm at most C_δ with the largest margin error on these images.

    `theta` is [k, d], `features` [n, d], `labels` [n]. The last `fixed` features δ must leave alone
    (1 for the constant of `augmented`). The `restarts` take the directions between classes first,
    then random ones; each is `steps` of normalised ascent on a smoothed count whose width shrinks.

    For two classes the answer is exact and the search is not needed. Raises `ValueError` for a
    negative radius or fewer than one restart or step.
    """
    if not (c_delta >= 0 and math.isfinite(c_delta)) or restarts < 1 or steps < 1:
        raise ValueError(
            "c_delta >= 0 and at least one restart and one step are expected, "
            f"got {c_delta}, {restarts}, {steps}"
        )
    theta, features = centred(theta.double()), features.double()
    scores = features @ theta.T
    movable = theta.clone()
    movable[:, theta.shape[1] - fixed :] = 0
    if len(theta) == 2:
        delta, error = _exact(movable, scores, labels, c_delta, gamma)
        by_restart = torch.tensor([error], dtype=torch.float64)
        return Shift(delta, error, error, by_restart)
    # Only θδ matters: δ = Va with the right singular vectors V of θ loses nothing.
    left, sizes, right = torch.linalg.svd(movable, full_matrices=False)
    axes = left * sizes
    starts = _starts(axes, restarts, seed)
    found, by_restart = _search(axes, scores, labels, c_delta, gamma, starts, steps)
    ceiling = float(image_by_image(movable, scores, labels, c_delta, gamma))
    best = int(by_restart.argmax())
    return Shift(right.T @ found[best], float(by_restart[best]), ceiling, by_restart)


def image_by_image(
    theta: Tensor, scores: Tensor, labels: Tensor, c_delta: float, gamma: float = 0.0
) -> Tensor:
    r"""(1/n) Σᵢ 1[min_{j≠y} (f(xᵢ)_y − f(xᵢ)_j − C_δ‖θ_y − θ_j‖) ≤ γ]: each image has its own δ.

    An upper bound for any universal δ, and exact for the adversary who may look at each image.
    """
    gaps = scores.gather(1, labels[:, None]) - scores
    reach = c_delta * torch.cdist(theta, theta)[labels]
    worst = (gaps - reach).scatter(1, labels[:, None], math.inf).amin(1)
    return margin_error(worst, gamma)


def _exact(
    theta: Tensor, scores: Tensor, labels: Tensor, c_delta: float, gamma: float
) -> tuple[Tensor, float]:
    """Two classes: δ enters as one number s = (θ₀ − θ₁)·δ, the count steps at n known values."""
    w = theta[0] - theta[1]
    size = float(torch.linalg.vector_norm(w))
    sign = 1.0 - 2.0 * labels.double()
    margin = margins(scores, labels)
    # Image i errs for sign·s ≤ γ − m: a closed half-line, so some end of one attains the maximum.
    ends = sign * (gamma - margin)
    reach = c_delta * size
    candidates = torch.cat([ends[ends.abs() <= reach], ends.new_tensor([-reach, 0.0, reach])])
    # Counted on the ends themselves, not on m + sign·s: rounding would lose the image at its end.
    up, down = ends[sign > 0].sort().values, ends[sign < 0].sort().values
    counts = (
        len(up)
        - torch.searchsorted(up, candidates)
        + torch.searchsorted(down, candidates, right=True)
    )
    best = int(counts.argmax())
    delta = w * (candidates[best] / size**2) if size > 0 else torch.zeros_like(w)
    return delta, float(counts[best]) / len(labels)


def _starts(axes: Tensor, restarts: int, seed: int) -> Tensor:
    """Unit vectors [restarts, r]: away from each class towards another, then random ones."""
    rank = axes.shape[1]
    pairs = (axes[None, :, :] - axes[:, None, :]).reshape(-1, rank)
    pairs = pairs[torch.linalg.vector_norm(pairs, dim=1) > 0]
    towards = torch.cat([axes, pairs])
    generator = torch.Generator().manual_seed(seed)
    if len(towards) > restarts:
        # One for every class as far as they reach; the pairs in random order.
        order = torch.randperm(len(pairs), generator=generator)
        towards = torch.cat([axes, pairs[order]])[:restarts]
    drawn = torch.randn(
        max(0, restarts - len(towards)), rank, generator=generator, dtype=axes.dtype
    )
    starts = torch.cat([towards, drawn])
    return starts / torch.linalg.vector_norm(starts, dim=1, keepdim=True).clamp_min(1e-300)


def _search(
    axes: Tensor,
    scores: Tensor,
    labels: Tensor,
    radius: float,
    gamma: float,
    starts: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Normalised ascent from every start; the best point seen [R, r] and its margin error [R]."""
    points, errors = [], []
    spread = float(margins(scores, labels).std()) or 1.0
    share = max(1, 4_000_000 // scores.numel())  # restarts at a time: memory
    for part in starts.split(share):
        a = radius * part
        best, best_error = a.clone(), a.new_full((len(a),), -1.0)
        for step in range(steps + 1):
            moved = scores + (a @ axes.T)[:, None, :]
            margin = margins(moved, labels)
            error = margin_error(margin, gamma)
            better = error > best_error
            best[better], best_error[better] = a[better], error[better]
            left = 1 - step / steps
            width = spread * (0.05 + 0.95 * left)
            slope = _slope(moved, labels, margin, gamma, width) @ axes
            length = torch.linalg.vector_norm(slope, dim=1, keepdim=True).clamp_min(1e-300)
            a = a + 0.5 * left * radius * slope / length
            size = torch.linalg.vector_norm(a, dim=1, keepdim=True).clamp_min(1e-300)
            a = a * (radius / size).clamp_max(1.0)
        points.append(best)
        errors.append(best_error)
    return torch.cat(points), torch.cat(errors)


def _slope(moved: Tensor, labels: Tensor, margin: Tensor, gamma: float, width: float) -> Tensor:
    """The gradient in z = θδ [R, k] of the mean of sigmoid((γ − m)/width)."""
    soft = torch.sigmoid((gamma - margin) / width)
    weight = soft * (1 - soft) / (width * moved.shape[-2])
    own = labels.expand(moved.shape[:-1])
    rival = moved.scatter(-1, own[..., None], -math.inf).argmax(-1)
    slope = moved.new_zeros(len(moved), moved.shape[-1])
    return slope.scatter_add(1, rival, weight).scatter_add(1, own, -weight)
