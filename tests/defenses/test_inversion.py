"""Trigger inversion: all classes at once give what one after the other gives, and what is there."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses.inversion import Inversion

SEARCH = Inversion(steps=25, batch_size=8)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("chunk", [9, 17, 512])
def test_all_classes_at_once_are_one_class_after_the_other(chunk, model, clean):
    model = model.double()
    whole = replace(SEARCH, chunk=chunk)(model, clean, generator=seeded())
    assert whole.targets == (0, 1, 2, 3) and bool(whole.found.all())
    for t in range(4):
        one = SEARCH(model, clean, [t], generator=seeded())
        for name in ("masks", "patterns", "sizes", "success", "found"):
            torch.testing.assert_close(
                getattr(one, name)[0], getattr(whole, name)[t], rtol=0, atol=1e-12
            )
        torch.testing.assert_close(one.path[:, 0], whole.path[:, t], rtol=0, atol=1e-10)


def by_hand(model: nn.Module, clean: LabelledImages, target: int, search: Inversion, seed: int):
    """One class with plain numbers and PyTorch's Adam: the published loop, nothing shared."""
    generator, images = seeded(seed), clean.images.double()

    def start(channels: int) -> torch.Tensor:
        shape = (1, channels, *images.shape[2:])
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return torch.atanh(0.999 * (2 * uniform - 1))

    a, b = start(1).requires_grad_(), start(images.shape[1]).requires_grad_()
    optimizer = torch.optim.Adam([a, b], lr=search.lr, betas=search.betas)
    cost, wins, losses, best, queue, costs = 0.0, 0, 0, (float("inf"), None, None), [], []
    for _ in range(search.steps):
        if not queue:
            queue = torch.randperm(len(images), generator=generator).tolist()
        batch, queue = queue[: search.batch_size], queue[search.batch_size :]
        if len(queue) < search.batch_size:
            queue = []
        batch = [i for i in batch if int(clean.labels[i]) != target]
        m, p = torch.sigmoid(2 * a), torch.sigmoid(2 * b)
        logits = model((1 - m) * images[batch] + m * p)
        loss = F.cross_entropy(logits, torch.full((len(batch),), target)) + cost * m.sum()
        optimizer.zero_grad()
        loss.backward()
        good = bool((logits.argmax(1) == target).double().mean() >= search.success)
        if good and m.sum().item() < best[0]:
            best = m.sum().item(), m.detach().clone(), p.detach().clone()
        wins, losses = (wins + 1, 0) if good else (0, losses + 1)
        if wins >= search.patience:
            cost, wins = (search.cost if cost == 0 else cost * search.up), 0
        if losses >= search.patience:
            cost, losses = cost / search.down, 0
        costs.append(cost)
        optimizer.step()
    return best, costs


def test_it_is_the_published_loop(model, clean):
    model = model.double().requires_grad_(False)
    search = replace(SEARCH, steps=120, cost=0.01, patience=3, success=0.8)
    whole = search(model, clean, generator=seeded(5))
    for target in range(4):
        (size, mask, pattern), costs = by_hand(model, clean, target, search, seed=5)
        falls = [after < before for before, after in itertools.pairwise(costs)]
        assert max(costs) > 0.01 and any(falls)  # the schedule went up, and down
        torch.testing.assert_close(whole.masks[target], mask[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(whole.patterns[target], pattern[0], rtol=0, atol=1e-6)
        assert float(whole.sizes[target]) == pytest.approx(size, abs=1e-5)


class OnePixel(nn.Module):
    """Class 2 reads one pixel; 0 and 1 compare two others; 3 never wins."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(12.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wins = images[:, 0, 1, 1] - images[:, 0, 2, 2]
        rows = [wins, -wins, 4 * images[:, 0, 4, 5] - 1.5, torch.full_like(wins, -50.0)]
        return self.scale * torch.stack(rows, 1)


def two_corners() -> LabelledImages:
    images = torch.zeros(16, 1, 6, 6)
    labels = torch.arange(16) % 2
    images[labels == 0, 0, 1, 1] = 1.0
    images[labels == 1, 0, 2, 2] = 1.0
    return LabelledImages(images, labels)


def test_the_pixel_that_is_there_is_found_and_the_class_that_cannot_be_reached_is_not():
    search = Inversion(steps=300, batch_size=16)
    inverted = search(OnePixel(), two_corners(), generator=seeded(0))
    assert inverted.found.tolist() == [True, True, True, False]
    assert inverted.sizes[3] == 36 and inverted.success[3] == 0
    mask, pattern = inverted.masks[2, 0], inverted.patterns[2, 0]
    assert 0.62 < inverted.sizes[2] < 0.9  # 4 m - 1.5 > 1 in one pixel of 36
    assert mask.flatten().argmax() == 4 * 6 + 5 and pattern[4, 5] > 0.95
    assert inverted.success[2] == 1
    stamped = inverted.stamp(two_corners().images[:3], torch.tensor([2, 2, 2]))
    assert OnePixel()(stamped).argmax(1).tolist() == [2, 2, 2]
    assert inverted.sizes[0] > 1  # m₁ > 1 - m₂ takes a whole pixel


def test_images_of_the_class_itself_do_not_count():
    data = two_corners()
    only = data[data.labels == 0]
    inverted = Inversion(steps=5)(OnePixel(), only, generator=seeded(0))
    assert not inverted.found[0] and inverted.success[0] == 0  # no image of another class


def test_a_class_that_the_model_lacks(model, clean):
    with pytest.raises(ValueError, match=r"classes 0 to 3.*got \(4,\)"):
        SEARCH(model, clean, [4], generator=seeded())
    with pytest.raises(ValueError, match="targets"):
        SEARCH(model, clean, [], generator=seeded())


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0}, {"batch_size": 0}, {"patience": 0}, {"chunk": 0}, {"lr": 0.0},
        {"cost": float("nan")}, {"success": 0.0}, {"success": 1.1}, {"up": 1.0}, {"down": 0.5},
        {"betas": (0.5, 1.0)},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Inversion(**setting)
