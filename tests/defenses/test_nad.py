"""NAD: attention maps by hand, one step by hand, and where it looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibau_lite import models
from ibau_lite.defenses import FineTuningConfig, NADConfig, fine_tuning, nad
from ibau_lite.defenses._nad import attention
from ibau_lite.streams import stream

TEACHER = FineTuningConfig(epochs=2, batch_size=8, lr=3e-3)


def test_attention_is_the_sum_of_squares_at_unit_length():
    features = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator())
    maps = (features.numpy() ** 2).sum(1).reshape(3, 10)
    by_hand = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    np.testing.assert_allclose(attention(features).numpy(), by_hand, rtol=1e-12)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_pass_by_hand(batch_statistics, model, clean):
    """SGD with momentum, the step falling tenfold after a tenth of the steps; float64."""
    model = model.double()
    betas, lr = (20.0, 40.0), 0.01
    config = NADConfig(
        epochs=2,
        batch_size=12,
        lr=lr,
        betas=betas,
        layers=("2", "10"),
        teacher=TEACHER,
        shift=0,
        batch_statistics=batch_statistics,
    )
    result = nad(model, clean, config=config, seed=4)
    teacher = fine_tuning(model, clean, config=TEACHER, seed=4).model
    ours = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    momentum = {name: torch.zeros_like(p) for name, p in ours.items()}
    generator, images = stream(4, "defense", "nad"), clean.images.double()
    for step in range(4):
        if step % 2 == 0:
            order = torch.randperm(24, generator=generator).split(12)
        index = order[step % 2]
        loss = 0.0
        x, y = images[index], images[index]
        for k, module in enumerate(model):
            own = {n.split(".")[1]: p for n, p in ours.items() if n.startswith(f"{k}.")}
            if batch_statistics and own and x.ndim == 4 and own["weight"].ndim == 1:
                mean, spread = (
                    x.mean((0, 2, 3), True),
                    x.var((0, 2, 3), unbiased=False, keepdim=True),
                )
                x = (x - mean) / (spread + module.eps).sqrt()
                x = x * own["weight"].view(-1, 1, 1) + own["bias"].view(-1, 1, 1)
            else:
                x = torch.func.functional_call(module, own, (x,))
            y = teacher[k](y).detach()
            if k in (2, 10):
                a, b = ((z**2).sum(1).flatten(1) for z in (x, y))
                a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
                loss = loss + betas[k > 2] * ((a - b) ** 2).mean()
        loss = loss + F.cross_entropy(x, clean.labels[index])
        grads = torch.autograd.grad(loss, list(ours.values()))
        with torch.no_grad():
            for (name, p), grad in zip(ours.items(), grads):
                grad = grad + 1e-4 * p
                momentum[name] = grad if step == 0 else 0.9 * momentum[name] + grad
                p -= (lr if step < 1 else lr / 10) * (grad + 0.9 * momentum[name])
    for name, p in result.model.named_parameters():
        torch.testing.assert_close(p, ours[name], rtol=0, atol=1e-9)
    assert result.history[0]["attention"] > 0
    moved = {
        n
        for n, b in model.named_buffers()
        if not torch.equal(b, dict(result.model.named_buffers())[n])
    }
    assert len(moved) == (12 if batch_statistics else 0)  # mean, variance, count of four norms
    assert not any(module.training for module in result.model.modules())


def test_it_finds_its_layers_or_is_told(model, clean):
    brief = {"epochs": 1, "lr": 0.001, "teacher": FineTuningConfig(epochs=1)}
    assert nad(model, clean, config=NADConfig(**brief)).details["layers"] == ("2", "6", "10")
    told = NADConfig(**brief, betas=(1.0,), layers=("5",))
    assert nad(model, clean, config=told).details["layers"] == ("5",)
    with pytest.raises(ValueError, match="no module 77"):
        nad(model, clean, config=NADConfig(betas=(1.0,), layers=("77",)))
    with pytest.raises(ValueError, match=r"outputs \[N, C, H, W\].*'16'"):
        nad(model, clean, config=NADConfig(betas=(1.0,), layers=("16",)))
    with pytest.raises(ValueError, match="no convolution"):
        nad(models.mlp(192, [8], 4).eval(), clean)


@pytest.mark.parametrize(
    "setting",
    [
        {"betas": ()},
        {"betas": (-1.0,)},
        {"layers": ("2",)},
        {"momentum": 1.0},
        {"weight_decay": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        NADConfig(**setting)


def test_a_layer_that_runs_twice_is_refused_by_name(model, clean):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.relu = model, torch.nn.ReLU()

        def forward(self, x):
            return self.relu(self.network(self.relu(x)))

    config = NADConfig(epochs=1, batch_size=8, layers=("relu",), betas=(1.0,), teacher=TEACHER)
    with pytest.raises(ValueError, match=r"run once in a pass are expected, not \['relu'\]"):
        nad(Twice(), clean, config=config)
