"""The released recipe against a second derivation: its formulas in plain autograd, nothing shared.

The transcription below is of the authors' published code as it is described in the book: no part
of `ibau_lite` but the networks enters it. Both sides draw from one generator in the same order.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, ibau
from ibau_lite.minimax import OnePass, Untargeted
from ibau_lite.sets import L2Ball
from ibau_lite.streams import stream

CLASSES, COUNT, BATCH, SEED = 3, 26, 4, 5


def clean_set() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 3, 8, 8, generator=generator)
    return LabelledImages(images, torch.randint(CLASSES, (COUNT,), generator=generator))


def network(kind: str) -> nn.Module:
    """Weights large enough that the indirect term is a good part of the whole."""
    if kind == "smooth":
        model = models.mlp(192, (12,), CLASSES, seed=3)
    else:
        model = models.small_cnn(CLASSES, width=2, seed=3)
    with torch.no_grad():
        model.train()(clean_set().images)  # statistics that are not those of a new network
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model.eval()


def released_by_hand(
    model: nn.Module, clean: LabelledImages, rounds: int, gtsrb: bool, radius: float
):
    """The whole algorithm of the published code; returns the new weights and the last δ."""
    model = copy.deepcopy(model).eval()
    parameters = list(model.parameters())
    outer_optimizer = torch.optim.Adam(parameters, lr=1e-3)
    generator = stream(SEED, "defense", "ibau")
    drawn = torch.randperm(COUNT, generator=stream(SEED, "defense", "ibau", "indirect_images"))
    first_images, first_labels = clean.images[drawn[:BATCH]], clean.labels[drawn[:BATCH]]

    def see(images: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        return torch.clamp(images + delta, 0, 1) if gtsrb else images + delta

    def loss_inner(delta: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(model(see(first_images, delta)), first_labels)
        return -loss + 0.001 * (delta * delta).sum()

    for _ in range(rounds):
        # 1. One pass of SGD (GTSRB: Adam) over the batches, on the predicted labels.
        delta = torch.zeros(3, 8, 8, requires_grad=True)
        inner_optimizer = (
            torch.optim.Adam([delta], 1.0) if gtsrb else torch.optim.SGD([delta], 10.0)
        )
        for start in range(0, COUNT, BATCH):
            x = clean.images[start : start + BATCH]
            with torch.no_grad():
                predicted = model(x).argmax(1)
            loss = -F.cross_entropy(model(see(x, delta)), predicted)
            loss = loss + 0.001 * (delta * delta).sum()
            inner_optimizer.zero_grad()
            loss.backward()
            inner_optimizer.step()
        # 2. The projection to the ball.
        delta = delta.detach() * min(1.0, radius / float(delta.detach().norm()))

        # 3. A step of Adam on the hypergradient for every batch.
        for index in torch.randperm(COUNT, generator=generator).split(BATCH):
            x, y = clean.images[index], clean.labels[index]
            number = max(1, int(0.01 * len(index)))
            carries = torch.randperm(len(index), generator=generator)[:number]

            d = delta.clone().requires_grad_(True)
            patching = torch.zeros_like(x)
            patching = patching.index_put((carries,), d.expand(number, -1, -1, -1))
            outer = F.cross_entropy(model(see(x, patching)), y)
            g, *direct = torch.autograd.grad(outer, [d, *parameters])

            # v ← (∂φ/∂δ)ᵀ v + g for the map φ(δ, θ) = δ − 0.1 ∇₁ loss_inner(δ, θ), from v = 0.
            (slope,) = torch.autograd.grad(loss_inner(d), d, create_graph=True)
            v = torch.zeros_like(d)
            for _ in range(5):
                (product,) = torch.autograd.grad(slope, d, v, retain_graph=True)
                v = v - 0.1 * product + g
            mixed = torch.autograd.grad(slope, parameters, v, allow_unused=True)

            outer_optimizer.zero_grad()
            for parameter, straight, around in zip(parameters, direct, mixed):
                parameter.grad = straight - 0.1 * around if around is not None else straight
            outer_optimizer.step()
    return dict(model.named_parameters()), delta


def config(gtsrb: bool, radius: float, **changes) -> IBAU:
    climb = OnePass(1.0, "adam", BATCH) if gtsrb else OnePass(10.0, "sgd", BATCH)
    published = IBAU.released(gtsrb=gtsrb)
    return replace(
        published,
        sets=(L2Ball(radius),),
        search=Untargeted(climb),
        batch_size=BATCH,
        **{"indirect": replace(published.indirect, images=BATCH), **changes},
    )


@pytest.mark.filterwarnings(
    "ignore::ibau_lite.solvers.SolverWarning"
)  # published: K steps, blindly
@pytest.mark.parametrize("kind", ["smooth", "small_cnn"])
@pytest.mark.parametrize("gtsrb", [False, True], ids=["cifar10", "gtsrb"])
@pytest.mark.parametrize("radius", [10.0, 0.5], ids=["inside", "projected"])
def test_two_rounds_end_at_the_same_weights(kind, gtsrb, radius):
    model, clean = network(kind), clean_set()
    weights, delta = released_by_hand(model, clean, 2, gtsrb, radius)
    result = ibau(model, clean, config=config(gtsrb, radius, rounds=2), seed=SEED)
    torch.testing.assert_close(result.details["delta"], delta, rtol=1e-4, atol=1e-5)
    for name, parameter in result.model.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=0, atol=1e-5)
    # The comparison is of something: without the indirect term they are far from there.
    without = ibau(model, clean, config=config(gtsrb, radius, rounds=2, indirect=None), seed=SEED)
    gaps = [(p - weights[name]).abs().max() for name, p in without.model.named_parameters()]
    assert max(gaps).item() > 1e-3


def test_the_defaults_are_the_published_numbers():
    cifar, gtsrb = IBAU.released(), IBAU.released(gtsrb=True)
    assert cifar.search == Untargeted(OnePass(10.0, "sgd", 100))
    assert gtsrb.search == Untargeted(OnePass(1.0, "adam", 100))
    assert (cifar.inner.clamp, gtsrb.inner.clamp) == (False, True)
    for recipe in (cifar, gtsrb):
        assert (recipe.sets, recipe.inner.penalty) == ((L2Ball(10.0),), 0.001)
        assert (recipe.batch_size, recipe.lr, recipe.stamped) == (100, 1e-3, 0.01)
        assert (recipe.indirect.images, recipe.inner.labels) == (100, "predicted")
        assert not recipe.indirect.on_ball and not recipe.decay and not recipe.shift
        assert recipe.round_images is None and recipe.distillation_weight == 0
        assert recipe.indirect.solver.step == 0.1 and recipe.indirect.solver.max_iter == 5
    assert IBAU.released(rounds=1).rounds == 1
