"""The search in several sets: which class it aims at, and what it brings back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ibau_lite.searches import Aimed, AimedUnion
from torch import nn

from ibau_lite.minimax import Ascent, Risk
from ibau_lite.sets import Blocks, L1Ball, L2Ball, Window, Within

CLASSES, SIDE, F64 = 3, 4, torch.float64
BALL = L2Ball(0.6)
SEARCH = AimedUnion(Ascent(12), images=6, scouts=L1Ball(1.0, 0.1), patch=2.0)


class Backdoored(nn.Module):
    """Class c shows in pixel (0, c); a bright corner pixel asks for `target`."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(8.0, dtype=F64))
        self.target = target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shown = x[:, 0, 0, :CLASSES]
        wanted = torch.zeros_like(shown)
        wanted[:, self.target] = 1
        return 2 * shown + self.strength * x[:, 0, -1, -1:] * wanted


def risk_of(target: int) -> Risk:
    labels = torch.arange(CLASSES).repeat(6)
    images = torch.zeros(len(labels), 1, SIDE, SIDE, dtype=F64)
    images[torch.arange(len(labels)), 0, 0, labels] = 1
    return Risk(Backdoored(target).eval(), images, labels, chunk=5)


def find(target: int, search: AimedUnion = SEARCH):
    risk = risk_of(target)
    theta = dict(risk.model.named_parameters())
    return risk, theta, search(risk, theta, BALL)


@pytest.mark.parametrize("target", range(CLASSES))
def test_every_delta_leads_to_the_class_of_the_backdoor(target):
    risk, theta, found = find(target)
    climbs = found[0].climbs
    assert len(climbs) == CLASSES and max(climbs) == climbs[target]
    for maximum in found:
        with torch.no_grad():
            answers = risk.model(risk.images + maximum.delta).argmax(1)
        assert int(answers.mode().values) == target
        assert float(maximum.delta[0, -1, -1]) > 0  # the trigger's pixel
        assert maximum.climbs == climbs
        assert maximum.value == pytest.approx(float(risk(maximum.delta, theta).detach()))


def test_every_delta_lies_in_the_set_that_it_names():
    _, _, found = find(1)
    regions = list(dict.fromkeys(maximum.region for maximum in found))
    assert regions[0] == BALL and regions[1] == Within(BALL, Blocks(2))
    # of the windows that hold the corner pixel
    assert regions[2].ball == L2Ball(2.0) and regions[2].subspace == Window(2, 2, 2)
    for maximum in found:
        torch.testing.assert_close(maximum.region.project(maximum.delta), maximum.delta)


class Steep(nn.Module):
    """Logits 0, c·Σx and 3c·(corner): many small changes lead to class 1, one large one to 2."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(3.0, dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.slope * torch.stack([torch.zeros_like(x[:, 0]), x.sum(1), 3 * x[:, -1]], 1)


def test_the_aim_is_what_sparse_changes_lead_to_and_what_leads_elsewhere_is_dropped():
    risk = Risk(Steep().eval(), torch.zeros(8, 1, SIDE, SIDE, dtype=F64), torch.zeros(8).long())
    theta, ball = dict(risk.model.named_parameters()), L2Ball(2.0)
    highest = Aimed(Ascent(12))(risk, theta, ball)
    assert max(highest.climbs) == highest.climbs[1]  # in the ball the other class stands higher
    found = SEARCH(risk, theta, ball)
    assert max(found[0].climbs) == found[0].climbs[2]
    # H alone leads elsewhere in the ball: that δ is not kept
    away = Ascent(12)(risk, theta, ball)
    assert int(risk.logits(away.delta, theta)[0].argmax()) == 1
    assert [maximum.region for maximum in found].count(ball) == 1


class Crossroads(nn.Module):
    """Logits 0 and, for each of three strengths, that many times one pixel of the last row."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor([9.0, 10.0, 5.0], dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        away = self.strength * x[:, 0, -1, :3]
        return torch.cat([torch.zeros_like(away[:, :1]), away], 1)


@pytest.mark.parametrize(
    ("changes", "aims"),
    [
        ({}, {1, 2}),
        ({"aims": 3}, {1, 2, 3}),
    ],
)
def test_the_aims_are_the_classes_that_stand_out_or_near_the_highest(changes, aims):
    images, labels = torch.zeros(8, 1, SIDE, SIDE, dtype=F64), torch.zeros(8, dtype=torch.int64)
    risk = Risk(Crossroads().eval(), images, labels)
    theta = dict(risk.model.named_parameters())
    found = replace(SEARCH, **changes)(risk, theta, BALL)
    led_to = [int(risk.logits(maximum.delta, theta)[0].argmax()) for maximum in found]
    assert led_to[0] == 2  # the highest first
    assert set(led_to) == aims
    assert found[0].climbs == pytest.approx([0.2, 9, 10, 5], abs=0.1)  # the median is 7


@pytest.mark.parametrize(
    ("heights", "aims"),
    [
        # one stands out, and nothing is near it
        ([13.8, 6.5, 8.5, 2.1, 2.6, 3.0, 3.5, 3.4, 7.2, 8.0], [0]),
        # one stands out a little, and others are three quarters as high
        ([4.4, 6.8, 7.5, 2.4, 3.1, 2.8, 3.2, 3.6, 7.8, 8.6], [9, 8, 2, 1]),
        # several stand out, some not near the highest
        ([34.0, 2.0, 23.0, 3.0, 40.0, 4.0, 4.0, 3.0, 3.0], [4, 0, 2]),
        # only what is half as high as the highest
        ([22.3, 9.3, 8.8, 4.0, 3.0, 3.5, 4.1, 3.9, 4.0, 4.2], [0]),
        # nothing stands out: two at least
        ([9.0, 6.0, 5.0, 5.5, 5.0], [0, 1]),
        ([5.0, 5.0, 5.0], [0, 1, 2]),
    ],
)
def test_aims_stand_out_from_the_median_or_stand_near_the_highest(heights, aims):
    assert AimedUnion().chosen(heights) == aims


def test_near_decides_how_far_below_the_highest_an_aim_may_stand():
    heights = [8.6, 7.0, 5.7, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 5.0]
    assert AimedUnion().chosen(heights) == [0, 1]
    assert AimedUnion(near=0.6).chosen(heights) == [0, 1, 2]


def test_a_scout_is_kept_before_what_was_found_toward_its_class():
    _, _, without = find(1)
    _, _, found = find(1, replace(SEARCH, keep_scouts=True))
    assert found[0].region == SEARCH.scouts and found[0].value == max(found[0].climbs)
    assert [m.region for m in found[1:]] == [m.region for m in without]
    assert all(torch.equal(a.delta, b.delta) for a, b in zip(found[1:], without, strict=True))


def test_the_search_is_deterministic_and_leaves_theta_alone():
    _, theta, first = find(1)
    assert float(theta["strength"].detach()) == 8 and theta["strength"].grad is None
    second = find(1)[2]
    assert all(torch.equal(a.delta, b.delta) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"images": 0}, "images"),
        ({"aims": 0}, "aims"),
        ({"outlier": 0.9}, "outlier"),
        ({"scattered": 1.1}, "scattered"),
        ({"near": 0.0}, "near"),
        ({"blocks": 0}, "size"),
        ({"patch": 0.0}, "radius"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, says):
    with pytest.raises(ValueError, match=says):
        AimedUnion(**setting)
