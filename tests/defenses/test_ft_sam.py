"""FT-SAM: the sharpest shift is the maximiser, and a step is the published one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ibau_lite.defenses import FTSAMConfig, ft_sam
from ibau_lite.defenses._ft_sam import sam_perturbation
from ibau_lite.streams import stream


def tensors(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*shape, generator=draw, dtype=torch.float64)
        for name, shape in (("a", (4, 3)), ("b", (5,)))
    }


def test_no_shift_in_the_ball_goes_higher():
    theta, slopes, radius = tensors(0), tensors(1), 0.7
    best = sam_perturbation(theta, slopes, radius)

    def gain(shift):
        return sum((slopes[n] * shift[n]).sum() for n in theta)

    def length(shift):  # ‖T⁻¹ ε‖
        return sum(((shift[n] / theta[n]) ** 2).sum() for n in theta).sqrt()

    torch.testing.assert_close(length(best), torch.tensor(radius, dtype=torch.float64))
    for seed in range(2, 200):
        other = {n: theta[n] * z for n, z in tensors(seed).items()}
        size = length(other)
        assert gain({n: radius * z / size for n, z in other.items()}) < gain(best)
    dual = sum(((theta[n] * slopes[n]) ** 2).sum() for n in theta).sqrt()
    torch.testing.assert_close(gain(best), radius * dual)


def test_nothing_to_climb():
    zero = {"a": torch.zeros(3)}
    assert torch.equal(sam_perturbation({"a": torch.ones(3)}, zero, 1.0)["a"], torch.zeros(3))
    assert torch.equal(
        sam_perturbation({"a": torch.ones(3)}, {"a": None}, 1.0)["a"], torch.zeros(3)
    )


def test_two_passes_by_hand(model, clean):
    """Gradient at θ + ε, SGD with momentum and a cosine step; float64."""
    model = model.double()
    config = FTSAMConfig(
        epochs=2, batch_size=24, lr=0.02, radius=0.5, shift=0, batch_statistics=False
    )
    result = ft_sam(model, clean, config=config, seed=1)
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    momentum = {}
    images, generator = clean.images.double(), stream(1, "defense", "ft_sam")

    def slope(point):
        point = {n: p.clone().requires_grad_() for n, p in point.items()}
        logits = torch.func.functional_call(model, point, (images[index],))
        loss = F.cross_entropy(logits, clean.labels[index], label_smoothing=0.1)
        return loss.item(), dict(zip(point, torch.autograd.grad(loss, list(point.values()))))

    for step, lr in enumerate((0.02, 0.01)):  # 0.02 (1 + cos(π k / 2)) / 2
        index = torch.randperm(24, generator=generator)
        loss, grads = slope(theta)
        size = sum(((theta[n] * g) ** 2).sum() for n, g in grads.items()).sqrt()
        moved = {n: p + 0.5 * p**2 * grads[n] / size for n, p in theta.items()}
        sharp, grads = slope(moved)
        assert sharp > loss
        assert result.history[step]["loss"] == pytest.approx(loss)
        assert result.history[step]["sharp"] == pytest.approx(sharp)
        for n, p in theta.items():
            push = grads[n] + 5e-4 * p
            momentum[n] = push if step == 0 else 0.9 * momentum[n] + push
            p -= lr * momentum[n]
    for n, p in result.model.named_parameters():
        torch.testing.assert_close(p, theta[n], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "setting",
    [{"radius": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"label_smoothing": 1.0}],
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        FTSAMConfig(**setting)
