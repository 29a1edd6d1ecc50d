"""Steps as CUDA graphs: what is recorded, what is not, and that the numbers are the same."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from ibau_lite._kinds import unchecked
from ibau_lite.speed import Replay
from torch import nn

from ibau_lite.data import LabelledImages
from ibau_lite.defenses import IBAU, ibau, outer_step
from ibau_lite.minimax import Ascent, Risk
from ibau_lite.models import small_cnn
from ibau_lite.sets import Blocks, L1Ball, L2Ball, Window, Within
from ibau_lite.solvers import MINRES, FixedPoint, SolverWarning

CONFIG = IBAU(batch_size=4, ball=L2Ball(0.5), solver=MINRES(max_iter=2))
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Noted:
    """In the place of `Replay`: calls the function, and counts how often it was recorded."""

    made: ClassVar[list[Noted]] = []
    pool = "shared"

    def __init__(self, function, *examples, pool=None):
        self.function, self.given_pool = function, pool
        Noted.made.append(self)

    def __call__(self, *batch):
        return self.function(*batch)


def problem(size: int = 4):
    generator = torch.Generator().manual_seed(0)
    network = small_cnn(3, width=4, seed=0).double().eval()
    images = torch.rand(size, 3, 32, 32, generator=generator, dtype=torch.float64)
    stamped = torch.arange(size) < 2
    outer = Risk(network, images, torch.arange(size) % 3, stamped=stamped)
    inner = Risk(network, images[:2], outer.labels[:2])
    theta = dict(network.named_parameters())
    return theta, inner, outer


def steps(config: IBAU, monkeypatch) -> tuple[outer_step.OuterStep, outer_step.OuterStep]:
    """(as on a GPU, as on a CPU)."""
    monkeypatch.setattr(outer_step, "Replay", Noted)
    monkeypatch.setattr(Noted, "made", [])
    theta, inner, _ = problem()
    recorded = outer_step.OuterStep(theta, inner, config, turns=10)
    plain = outer_step.OuterStep(theta, inner, config, turns=10)
    assert not plain._records  # there is nothing to record on a CPU
    recorded._records = True
    return recorded, plain


def test_a_recorded_step_is_the_step_and_each_delta_is_recorded_once(monkeypatch):
    theta, inner, outer = problem()
    recorded, plain = steps(CONFIG, monkeypatch)
    found = [Ascent(2)(inner, theta, L2Ball(radius)) for radius in (0.3, 0.5)]
    for maximum in found * 2:
        slopes, sizes = recorded(maximum, outer)
        same, as_large = plain(maximum, outer)
        assert sizes == as_large
        assert all(torch.equal(slopes[name], same[name]) for name in theta)
    assert len(Noted.made) == 2
    assert [each.given_pool for each in Noted.made] == [None, "shared"]


def test_what_is_looked_at_or_short_is_not_recorded(monkeypatch):
    theta, inner, outer = problem()
    recorded, _ = steps(CONFIG, monkeypatch)
    maximum = Ascent(2)(inner, theta, L2Ball(0.5))
    _, sizes = recorded(maximum, outer, compute_residual=True)
    assert "residual" in sizes
    recorded(maximum, outer.subset(slice(3)))  # the last batch of a pass
    assert not Noted.made


@pytest.mark.parametrize(
    ("solver", "looks"),
    [
        (None, False),
        (MINRES(max_iter=2), False),
        (FixedPoint(step=0.1, max_iter=2), False),
        (MINRES(max_iter=9, tol=1e-3), True),
        (lambda matvec, b: MINRES(max_iter=2)(matvec, b), True),
    ],
)
def test_a_solver_that_may_look_is_not_recorded(solver, looks):
    assert outer_step._looks_at_nothing(replace(CONFIG, solver=solver)) is not looks


def test_a_network_that_cannot_be_recorded_is_told_of_once(monkeypatch):
    theta, inner, outer = problem()
    recorded, plain = steps(CONFIG, monkeypatch)

    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(outer_step, "Replay", refuse)
    maximum = Ascent(2)(inner, theta, L2Ball(0.5))
    with pytest.warns(RuntimeWarning, match="not permitted"):
        slopes, _ = recorded(maximum, outer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        recorded(maximum, outer)
    same, _ = plain(maximum, outer)
    assert all(torch.equal(slopes[name], same[name]) for name in theta)


def test_while_recording_no_number_is_looked_at(monkeypatch):
    """`bool(tensor)` and `float(tensor)` would wait for a device that runs nothing yet."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    matrix, b = half @ half.T, torch.randn(5, generator=generator, dtype=torch.float64)
    solve = FixedPoint(step=0.01, max_iter=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        looked_at = solve(lambda v: matrix @ v, b)
    outside = torch.ones(3, dtype=torch.float64)

    def refuse(tensor):
        raise AssertionError("a number is looked at")

    with monkeypatch.context() as patch, unchecked():
        for name in ("__bool__", "__float__", "__int__", "item"):
            patch.setattr(torch.Tensor, name, refuse)
        unseen = solve(lambda v: matrix @ v, b)
        with pytest.raises(AssertionError, match="looked at"):
            unseen.converged  # noqa: B018 (a property that waits)
        # refused when it was first seen
        tangents = [c.tangent(outside, outside) for c in (L2Ball(0.1), L1Ball(0.1))]
    assert torch.equal(unseen.x, looked_at.x) and not unseen.converged
    assert unseen.reason == looked_at.reason
    for tangent in tangents:
        assert tangent.project(outside).norm() < 1e-12


@on_a_gpu
def test_a_replay_reads_its_arguments_and_what_changed_in_place():
    weight = torch.ones(3, device="cuda")
    twice = Replay(lambda x: {"y": 2 * weight * x}, torch.zeros(3, device="cuda"))
    x = torch.arange(3.0, device="cuda")
    assert torch.equal(twice(x)["y"], 2 * x)
    weight.mul_(5)
    assert torch.equal(twice(x)["y"], 10 * x)


@on_a_gpu
@pytest.mark.parametrize("solver", [None, MINRES(max_iter=2)])
def test_a_graph_gives_the_numbers_of_the_step_for_every_kind_of_set(solver):
    theta, inner, outer = problem(8)
    outer.model.cuda()
    theta = {name: p.cuda() for name, p in outer.model.named_parameters()}
    inner, outer = (
        replace(risk, images=risk.images.cuda(), labels=risk.labels.cuda())
        for risk in (inner, outer)
    )
    outer = replace(outer, stamped=outer.stamped.cuda())
    config = replace(CONFIG, batch_size=8, solver=solver)
    recorded = outer_step.OuterStep(theta, inner, config, turns=10)
    plain = outer_step.OuterStep(theta, inner, config, turns=1)
    ball = L2Ball(0.5)
    regions = (ball, Within(ball, Blocks(2)), Within(ball, Window(4, 4, 16)), L1Ball(2.0))
    found = [Ascent(2)(inner, theta, region) for region in regions]
    for _ in range(3):
        for maximum in found:
            slopes, sizes = recorded(maximum, outer)
            same, as_large = plain(maximum, outer)
            assert recorded._records
            torch.testing.assert_close(dict(slopes), dict(same), rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(dict(sizes), dict(as_large), rtol=1e-6, atol=1e-9)
        with torch.no_grad():
            for parameter in theta.values():
                parameter.mul_(1.01)  # as an optimiser would, in place


@on_a_gpu
def test_a_network_that_looks_at_its_numbers_is_defended_all_the_same():
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = small_cnn(3, width=4, seed=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert bool(torch.isfinite(x).all())
            return self.inside(x)

    generator = torch.Generator().manual_seed(0)
    clean = LabelledImages(torch.rand(240, 3, 32, 32, generator=generator), torch.arange(240) % 3)
    config = replace(CONFIG, rounds=1, batch_size=8)
    with pytest.warns(RuntimeWarning, match="cannot be recorded"):
        ibau(Looks().cuda().eval(), clean, config=config)
