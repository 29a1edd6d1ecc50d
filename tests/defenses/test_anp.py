"""ANP: one step by finite differences, what is pruned, and what is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibau_lite import models
from ibau_lite.defenses import ANPConfig, anp
from ibau_lite.streams import stream


def test_one_step_by_finite_differences(model, clean):
    """m ← m − lr ∇(α L(m w) + (1 − α) L((m + δ) w, (1 + ξ) b)) at δ, ξ of one signed step."""
    model = model.double()
    config = ANPConfig(
        epochs=1,
        batch_size=24,
        lr=0.1,
        shift=0,
        threshold=0.0,
        epsilon=0.3,
        batch_statistics=False,
    )
    masks = anp(model, clean, config=config, seed=2).details["masks"]
    assert list(masks) == ["1", "5", "9", "13"]  # the four normalisations

    generator = stream(2, "defense", "anp")
    order = torch.randperm(24, generator=generator)
    images, labels = clean.images.double()[order], clean.labels[order]
    names = [f"{k}.weight" for k in masks] + [f"{k}.bias" for k in masks]
    start = {n: model.get_parameter(n).detach() for n in names}

    def noise(value):  # drawn in single precision, weights before biases
        return 0.3 * (2 * torch.rand(value.shape, generator=generator).double() - 1)

    draws = {n: noise(p) for n, p in start.items()}

    def loss(ones, shifts):
        point = {n: p * (ones.get(n, 1.0) + shifts.get(n, 0.0)) for n, p in start.items()}
        return F.cross_entropy(torch.func.functional_call(model, point, (images,)), labels)

    ones = {f"{k}.weight": torch.ones_like(m) for k, m in masks.items()}
    shifts = {n: s.clone().requires_grad_() for n, s in draws.items()}
    slopes = torch.autograd.grad(loss(ones, shifts), list(shifts.values()))
    worst = {n: (s + 0.3 * g.sign()).clamp(-0.3, 0.3) for (n, s), g in zip(draws.items(), slopes)}
    step = 1e-6
    for k, mask in masks.items():
        for c in range(0, len(mask), 3):
            values = []
            for sign in (1, -1):
                moved = {n: one.clone() for n, one in ones.items()}
                moved[f"{k}.weight"][c] += sign * step
                values.append(0.2 * loss(moved, {}) + 0.8 * loss(moved, worst))
            slope = float(values[0] - values[1]) / (2 * step)
            assert float(mask[c]) == pytest.approx(min(1, max(0, 1 - 0.1 * slope)), abs=1e-5)


def test_neurons_below_the_threshold_are_zero_and_the_rest_is_as_it_was(backdoored):
    config = ANPConfig(epochs=4, batch_size=40, threshold=0.6)
    seen = []

    def evaluator(network: nn.Module) -> dict[str, float]:
        seen.append(sum(int((network[k].weight == 0).sum()) for k in (1, 5, 9, 13)))
        return {}

    result = anp(backdoored.model, backdoored.clean, config=config, evaluator=evaluator)
    pruned = result.details["pruned"]
    count = sum(map(len, pruned.values()))
    assert count > 0 and count == result.history[-1]["pruned"] == seen[-1]
    assert seen == [0, *(row["pruned"] for row in result.history)]
    for name, parameter in backdoored.model.named_parameters():
        after = result.model.get_parameter(name)
        layer, kind = name.split(".")
        gone = pruned.get(layer, []) if kind == "weight" else []
        assert (after[gone] == 0).all()
        left = [c for c in range(len(after)) if c not in gone]
        assert torch.equal(after[left], parameter[left])


def test_convolutions_where_there_is_no_normalisation(clean):
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).eval()
    result = anp(network, clean, config=ANPConfig(epochs=1, batch_size=8, threshold=0.9))
    assert list(result.details["masks"]) == ["0"] and result.details["masks"]["0"].shape == (6,)


def test_networks_without_neurons_to_prune(clean):
    with pytest.raises(ValueError, match="no neurons to prune"):
        anp(models.mlp(192, [8], 4).eval(), clean)


@pytest.mark.parametrize(
    "setting", [{"epsilon": -1.0}, {"alpha": 1.1}, {"threshold": -0.1}, {"momentum": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ANPConfig(**setting)
