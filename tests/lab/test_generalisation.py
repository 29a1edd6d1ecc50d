"""The experiments of Theorems 2 and 3: exact left sides, honest searches, records that resume."""

from __future__ import annotations

import math

import pytest
import torch

from ibau_lab import generalisation_linear as linear
from ibau_lab import generalisation_networks as networks
from ibau_lab import read
from ibau_lite import models
from ibau_lite.data import LabelledImages

F64 = torch.float64


def test_the_digits_are_a_population_and_samples_of_it_repeat() -> None:
    world = linear.digits()
    assert len(world) == 1797
    assert float(world.features.norm(dim=1).max()) <= world.chi
    first, again = (world.draw(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    two = linear.pair(world, 3, 8)
    assert set(two.labels.tolist()) == {0, 1}
    assert len(two) == int(((world.labels == 3) | (world.labels == 8)).sum())


def test_the_left_side_is_the_share_of_the_whole_population() -> None:
    world = linear.pair(linear.digits(), 3, 8)
    theta = linear.train(*world.draw(40, torch.Generator().manual_seed(0)), 2)
    delta = 0.3 * torch.randn(65, generator=torch.Generator().manual_seed(1), dtype=F64)
    wrong = sum(
        int(((x + delta) @ (theta[y] - theta[1 - y])) <= 0)
        for x, y in zip(world.features, world.labels)
    )
    assert world.error(theta, delta) == wrong / len(world)


def test_training_ends_where_the_gradient_is_zero() -> None:
    features, labels = linear.digits().draw(100, torch.Generator().manual_seed(0))
    theta = linear.train(features, labels, 10, decay=0.1).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(features @ theta.T, labels)
    (gradient,) = torch.autograd.grad(loss + 0.05 * theta.square().sum(), theta)
    assert float(gradient.norm()) < 1e-4


def test_a_comparison_is_made_at_the_delta_that_is_worst_for_the_population() -> None:
    world = linear.pair(linear.digits(), 3, 8)
    sample = world.draw(60, torch.Generator().manual_seed(0))
    theta = linear.train(*sample, 2)
    row = linear.compare(world, theta, sample, 0.5)
    assert row["left"] == row["left_ceiling"] >= world.error(theta)  # two classes: exact
    assert row["worst_on_sample"] >= row["sample_error"]
    terms = row["empirical"] + row["complexity"] + row["confidence"]
    assert row["total"] == pytest.approx(terms)


def test_the_records_of_the_linear_experiment_resume(tmp_path, monkeypatch) -> None:
    task = linear.Task("digits", (50,), (0.0,), pair=(0, 1), coverage=(30, 0.0, 2))
    monkeypatch.setitem(linear.PROFILES, "smoke", (task,))
    results = tmp_path / "linear.jsonl"
    assert linear.main(["--results", str(results)]) == 0
    records = read(results)
    assert [(r["population"], r["kind"], len(r["rows"])) for r in records] == [
        ("digits 0/1", "sweep", 1),
        ("digits 0/1", "coverage", 2),
    ]
    monkeypatch.setattr(linear, "sweep", None)
    linear.main(["--results", str(results)])
    assert read(results) == records


def blobs(n: int = 60, seed: int = 0) -> LabelledImages:
    """Two classes of 1×2×2 images, light and dark."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    images = 0.3 + 0.4 * labels.float()[:, None, None, None]
    noise = 0.1 * torch.rand(n, 1, 2, 2, generator=generator)
    return LabelledImages(images + noise, labels)


def test_the_worst_delta_found_keeps_to_the_ball_and_only_adds_errors() -> None:
    model = models.mlp(4, (8,), 2, smooth=False).eval()
    part = blobs()
    still = networks.worst_delta(model, part, 0.0)
    found = networks.worst_delta(model, part, 0.7, restarts=3)
    assert float(found.delta.norm()) <= 0.7 * (1 + 1e-5)
    assert found.error == max(found.by_restart)
    predicted = model(part.images + found.delta).argmax(1)
    assert found.error == pytest.approx(float((predicted != part.labels).double().mean()))
    assert found.error >= still.error


def test_the_steepest_gradient_of_a_linear_network_is_its_norm() -> None:
    model = models.mlp(4, (), 3).eval()
    wanted = float(torch.linalg.matrix_norm(model[1].weight.detach(), ord=2))
    assert networks.steepest(model, blobs().images) == pytest.approx(wanted, rel=1e-5)


def test_noisy_labels_are_the_share_that_was_asked_for() -> None:
    part = LabelledImages(torch.zeros(4000, 1, 1, 1), torch.zeros(4000, dtype=torch.int64))
    changed = (networks.noisy(part, 0.5, 0).labels != 0).double().mean()
    assert float(changed) == pytest.approx(0.5 * 0.9, abs=0.03)
    assert torch.equal(networks.noisy(part, 0.0, 0).labels, part.labels)


def test_a_row_of_the_zoo_holds_both_sides_and_the_factors() -> None:
    (row,) = networks.zoo([networks.Setting(width=8, n=100, epochs=1)], restarts=1)
    assert row["gap"] == pytest.approx(row["left"] - row["sample_error"])
    assert 0 < row["ratio"] < math.inf and 0 < row["product"] < math.inf
    assert row["n"] == 100


def test_the_records_of_the_networks_resume(tmp_path, monkeypatch) -> None:
    tiny = [networks.Setting(width=8, n=100, epochs=1)]
    rows = list(networks.zoo(tiny, restarts=1))
    monkeypatch.setattr(networks, "zoo", lambda: iter(rows))
    results = tmp_path / "networks.jsonl"
    for _ in range(2):
        networks.main(["--results", str(results), "--data", "zoo"])
    (record,) = read(results)
    assert record["rows"] == rows
