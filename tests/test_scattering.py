"""The objective of a δ that leads every class to another one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ibau_lite.searches import AimedUnion, Scattering
from torch import nn

from ibau_lite.minimax import Ascent, Risk
from ibau_lite.models import small_cnn
from ibau_lite.sets import L1Ball, L2Ball

CLASSES, SIDE, F64 = 4, 4, torch.float64


def network_and_images(count: int = 7):
    torch.manual_seed(0)
    model = small_cnn(CLASSES, seed=1).double().eval()
    images = torch.rand(count, 3, 16, 16, dtype=F64)
    return model, images, torch.arange(count) % CLASSES


def written_out(model, images, labels, delta, cap, weight):
    logits = model(images + delta)
    mean = logits.softmax(1).mean(0)
    loss = F.cross_entropy(logits, labels, reduction="none").clamp_max(cap).mean()
    return loss + weight * torch.special.entr(mean).sum()


@pytest.mark.parametrize("chunk", [2, 500])
@pytest.mark.parametrize("cap", [1.3, 5.0])
def test_value_and_gradient_are_those_of_the_formula(chunk, cap):
    model, images, labels = network_and_images()
    theta = dict(model.named_parameters())
    objective = Scattering(Risk(model, images, labels, chunk=chunk), cap=cap, weight=0.7)
    delta = 0.3 * torch.randn(images.shape[1:], dtype=F64)
    value, gradient = objective.value_and_gradient(delta, theta)
    point = delta.clone().requires_grad_(True)
    expected = written_out(model, images, labels, point, cap, 0.7)
    (slope,) = torch.autograd.grad(expected, point)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, slope)
    assert all(parameter.grad is None for parameter in model.parameters())


class Shifted(nn.Module):
    """Class c shows in pixel (0, c). A bright corner asks for the next class, and the sum of the
    second row, more strongly, for class 0."""

    def __init__(self, corner: float) -> None:
        super().__init__()
        self.corner = nn.Parameter(torch.tensor(corner, dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shown = x[:, 0, 0, :CLASSES]
        wanted = self.corner * x[:, 0, -1, -1:] * shown.roll(1, 1)
        to_zero = F.one_hot(torch.tensor(0), CLASSES) * x[:, 0, 1].sum(1, keepdim=True)
        return 4 * shown + wanted + 8 * to_zero


def shifted(corner: float) -> Risk:
    """Images of all classes but 0."""
    labels = torch.arange(1, CLASSES).repeat(8)
    images = torch.zeros(len(labels), 1, SIDE, SIDE, dtype=F64)
    images[torch.arange(len(labels)), 0, 0, labels] = 1
    return Risk(Shifted(corner).eval(), images, labels)


BALL = L2Ball(1.5)
SEARCH = AimedUnion(Ascent(12), images=24, scouts=L1Ball(1.5, 0.1), patch=2.0)


def test_an_all_to_all_rule_is_found_where_h_alone_ends_in_one_class():
    risk = shifted(corner=12.0)
    theta = dict(risk.model.named_parameters())
    alone = Ascent(12)(risk, theta, BALL)
    assert set(risk.logits(alone.delta, theta).argmax(1).tolist()) == {0}
    found = SEARCH(risk, theta, BALL)
    assert len(found) == 3 and all(maximum.climbs == () for maximum in found)
    # the ball and the window hold the trigger's pixel; the mean of a block of four does not
    for maximum in (found[0], found[2]):
        answers = risk.logits(maximum.delta, theta).argmax(1)
        assert answers.tolist() == ((risk.labels + 1) % CLASSES).tolist()
        assert maximum.value == pytest.approx(risk.value(maximum.delta, theta))


def test_without_such_a_rule_the_aim_is_a_class():
    risk = shifted(corner=0.0)
    theta = dict(risk.model.named_parameters())
    found = SEARCH(risk, theta, BALL)
    assert len(found[0].climbs) == CLASSES
    assert set(risk.logits(found[0].delta, theta).argmax(1).tolist()) == {0}


def test_where_only_one_class_is_to_be_had_nothing_is_scattered():
    images = torch.zeros(8, 1, SIDE, SIDE, dtype=F64)
    images[:, 0, 0, 2] = 1
    risk = Risk(Shifted(0.0).eval(), images, torch.full((8,), 2))
    found = SEARCH(risk, dict(risk.model.named_parameters()), BALL)
    assert len(found[0].climbs) == CLASSES
