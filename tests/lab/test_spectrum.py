"""The measured spectra against dense Hessians, and the command."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import torch

from ibau_lab import convergence, read, spectrum, studies
from ibau_lab.first_run import Experiment
from ibau_lite import checkpoints
from ibau_lite.data import LabelledImages
from ibau_lite.minimax import Risk
from ibau_lite.models import mlp


def network(seed: int = 0):
    return mlp(64, (4,), 10, seed=seed).eval()


def part(count: int = 10) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    return LabelledImages(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 10)


def test_ends_of_the_spectrum_multiplier_and_operator_are_those_of_dense_matrices():
    model = network().double()
    seen = spectrum.measure(model, part(), convergence.CORNER, radius=1.0, ascent=10, steps=64)
    theta = dict(model.named_parameters())
    risk = Risk(model, part().images, part().labels)
    dense = torch.func.hessian(lambda d: risk(d, theta))
    at_zero = dense(torch.zeros(1, 8, 8).double()).reshape(64, 64).detach()
    values = torch.linalg.eigvalsh(at_zero)
    measured = seen["zero"]["hessian"]["values"]
    assert measured[0] == pytest.approx(float(values[0]), abs=1e-6)
    assert measured[-1] == pytest.approx(float(values[-1]), rel=1e-4)
    assert sum(seen["zero"]["hessian"]["weights"]) == pytest.approx(1, abs=1e-4)
    ball = seen["ball"]
    assert ball["norm"] == pytest.approx(1.0, rel=1e-5)
    assert ball["H"] > seen["zero"]["H"]
    assert ball["multiplier"] > 0
    assert ball["tangent"]["values"][-1] <= ball["multiplier"] - ball["hessian"]["values"][0] + 1e-6
    assert seen["trigger"] == pytest.approx(
        float((1 - part().images[:, :, 6:, 6:]).flatten(1).norm(dim=1).mean()), rel=1e-4
    )


def test_the_penalised_place_is_a_maximum_where_the_penalty_beats_the_curvature():
    model = network().double()
    seen = spectrum.measure(model, part(), convergence.CORNER, ascent=60, steps=20, margin=5.0)[
        "penalised"
    ]
    assert seen["remaining"] < 1e-6 * seen["gradient"]
    assert seen["highest"] < 0
    # at it, ∇H = 2cδ
    assert seen["gradient"] == pytest.approx(2 * seen["penalty"] * seen["norm"], rel=1e-4)


def test_the_command_records_once_and_the_record_is_json(tmp_path, monkeypatch, capsys):
    model = network()
    experiment = SimpleNamespace(
        data="tiny",
        attack=convergence.CORNER,
        build=network,
        load=lambda: SimpleNamespace(clean=part(), test=part(20), source="random"),
        victim=lambda dataset, progress: SimpleNamespace(model=model),
    )
    experiment.network = functools.partial(Experiment.network, experiment)
    monkeypatch.setattr(studies, "experiments", lambda profile: (experiment,))
    path = tmp_path / "spectrum.jsonl"
    ask = ["--results", str(path), "--images", "5", "--steps", "6"]
    for _ in range(2):
        assert spectrum.main(ask) == 0
    (record,) = read(path)
    first, again = capsys.readouterr().out.splitlines()
    assert first == again
    assert record["images"] == 5 and record["settings"]["steps"] == 6
    assert len(record["zero"]["hessian"]["values"]) <= 6
    json.dumps(record, allow_nan=False)

    other = tmp_path / "other.safetensors"
    checkpoints.save(network(seed=1), other, {})
    assert spectrum.main([*ask, "--data", "tiny", "--network", str(other)]) == 0
    assert len(read(path)) == 2  # another network is another record
    for wrong in (["--data", "none"], ["--network", str(other)]):
        with pytest.raises(SystemExit):
            spectrum.main([*ask, *wrong])
