"""The spectrum of ∇²_δ H on poisoned networks: is the assumption of Theorem 1 true there?

    python -m ibau_lab.spectrum --profile cpu --results book/results/spectrum.jsonl

Chapter 8 shows the records, and calls `measure` on a small network itself. About three minutes of
one CPU core a network, once it is trained; float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ibau_lite.theory.active_constraint import (
    tangent_spectrum,
)
from torch import Tensor, nn

from ibau_lite import hypergrad
from ibau_lite.attacks import Attack
from ibau_lite.data import LabelledImages
from ibau_lite.metrics import evaluate, predict
from ibau_lite.minimax import Ascent, Risk
from ibau_lite.sets import L2Ball
from ibau_lite.solvers import Ritz

from .first_run import PROFILES, experiments
from .records import append, fingerprint, key_of, provenance, read, weights_digest

__all__ = ["main", "measure"]


def measure(
    model: nn.Module,
    part: LabelledImages,
    attack: Attack,
    *,
    radius: float = 4.0,
    ascent: int = 30,
    steps: int = 40,
    margin: float = 1.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Curvature of H in δ, for the true labels and without a penalty, in three places.

    - ``zero``: δ = 0, Ritz values of ∇₁²H;
    - ``ball``: the best δ of `ascent` steps with ‖δ‖₂ ≤ `radius`, then settled by twice as many of
      a fifth of the length, the same, and on the sphere the multiplier λ and the Ritz values of M =
      P(λI − ∇₁²H)P on the tangent space;
    - ``penalised``: the fixed point δ = ∇₁H(δ)/2c of H − c‖δ‖², for the c that makes the Hessian
      at zero safely negative, 2c = `margin`·λ_max. There the assumption of Theorem 1 has a chance;
      the largest Ritz value there says whether it holds.

    Each place has its norm, H, ‖∇₁H‖ and the fraction of `part` that the network reads as the
    attacker's first target. `steps` Lanczos steps each. ``trigger`` is the mean length of what the
    attack adds to an image. The result is JSON; raises as `hypergrad.spectrum`.
    """
    theta = {name: p.detach() for name, p in model.named_parameters()}
    risk = Risk(model, part.images, part.labels)
    trigger, relabel = attack.pairs[0]
    target = int(relabel(part.labels[:1])[0])
    zero = torch.zeros_like(part.images[0], dtype=next(iter(theta.values())).dtype)

    def look(delta: Tensor) -> dict[str, float]:
        value, slope = risk.value_and_gradient(delta, theta)
        return {
            "norm": _digits(delta.norm()),
            "H": _digits(value),
            "gradient": _digits(slope.norm()),
            "target": _digits(
                (predict(model, part.images + delta.to(part.images)) == target).float().mean()
            ),
        }

    def curved(delta: Tensor) -> dict[str, Any]:
        seen = hypergrad.spectrum(risk, delta, theta, steps=steps, seed=seed)
        return _ritz(seen.runs[0])

    at_zero = curved(zero)
    ball = L2Ball(radius)
    found = Ascent(ascent)(risk, theta, ball)
    best = Ascent(2 * ascent, step=0.1)(risk, theta, ball, found.delta)
    multiplier, tangent = tangent_spectrum(risk, best.delta, theta, steps=steps, seed=seed)

    penalty = 0.5 * margin * max(at_zero["values"][-1], 1e-6)
    delta = zero
    for _ in range(ascent):
        delta = risk.value_and_gradient(delta, theta)[1] / (2 * penalty)
    there = hypergrad.spectrum(risk, delta, theta, steps=max(2, steps // 3), seed=seed)
    return {
        "images": len(part),
        "dimension": zero.numel(),
        "steps": steps,
        "trigger": _digits((trigger(part.images) - part.images).flatten(1).norm(dim=1).mean()),
        "zero": {**look(zero), "hessian": at_zero},
        "ball": {
            **look(best.delta),
            "radius": radius,
            "ascent": ascent,
            "gap": _digits(best.gap),
            "hessian": curved(best.delta),
            "multiplier": _digits(multiplier),
            "tangential": _digits(_tangential(risk, best.delta, theta)),
            "tangent": _ritz(tangent),
        },
        "penalised": {
            **look(delta),
            "penalty": _digits(penalty),
            "remaining": _digits(
                (risk.value_and_gradient(delta, theta)[1] - 2 * penalty * delta).norm()
            ),
            "highest": _digits(there.maximum - 2 * penalty),
        },
    }


def _tangential(risk: Risk, delta: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
    """‖P∇₁H‖: what is left to climb along the sphere."""
    slope = risk.value_and_gradient(delta, theta)[1]
    return (slope - (slope * delta).sum() / (delta * delta).sum() * delta).norm()


def _ritz(run: Ritz) -> dict[str, list[float]]:
    """Ritz values, their error bounds at both ends, and the weights of the spectral density."""
    return {
        "values": [_digits(v) for v in run.values],
        "weights": [_digits(w) for w in run.weights],
        "end_errors": [_digits(run.errors[0]), _digits(run.errors[-1])],
    }


def _digits(number: Tensor | float) -> float:
    """Six significant digits: more would be rounding of float32."""
    return float(f"{float(number):.6g}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the poisoned networks of the first run, one record a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    parser.add_argument("--results", type=Path, default=Path("results/spectrum.jsonl"))
    parser.add_argument("--data", help="only this data set")
    parser.add_argument("--network", type=Path, help="a poisoned network, instead of training one")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    choice = parser.parse_args(arguments)
    known = {experiment.data: experiment for experiment in experiments(choice.profile)}
    if choice.data and choice.data not in known:
        parser.error(f"profile {choice.profile} has the data sets {', '.join(known)}")
    if choice.network and not choice.data:
        parser.error("--network needs --data: which images is it for?")
    for name, experiment in known.items():
        if choice.data and choice.data != name:
            continue
        dataset = experiment.load()
        model = experiment.network(dataset, choice.network)
        part = dataset.clean[: choice.images]
        settings = {
            "network": weights_digest(model),
            "images": fingerprint(part),
            "steps": choice.steps,
            "version": 2,
        }
        key = key_of(settings)
        if any(record.get("key") == key for record in read(choice.results, cut=True)):
            print(f"{name}: recorded already")
            continue
        started = time.process_time()
        seen = measure(model, part, experiment.attack, steps=choice.steps)
        report = evaluate(model, dataset.test, experiment.attack)
        record = {
            "key": key,
            "profile": choice.profile,
            "data": name,
            "source": dataset.source,
            "attack": experiment.attack.name,
            "accuracy": report.accuracy,
            "attack_success_rate": report.attack_success_rate,
            "settings": settings,
            **seen,
            "cpu_seconds": time.process_time() - started,
            **provenance(),
        }
        append(choice.results, record)
        print(_line(record), flush=True)
    return 0


def _line(record: Mapping[str, Any]) -> str:
    ends = {
        place: (record[place]["hessian"]["values"][0], record[place]["hessian"]["values"][-1])
        for place in ("zero", "ball")
    }
    tangent = record["ball"]["tangent"]["values"]
    return (
        f"{record['data']}: ∇²_δH from {ends['zero'][0]:.3g} to {ends['zero'][1]:.3g} at 0, "
        f"{ends['ball'][0]:.3g} to {ends['ball'][1]:.3g} on the ball; "
        f"λ = {record['ball']['multiplier']:.3g}, M from {tangent[0]:.3g} to {tangent[-1]:.3g}; "
        f"{record['cpu_seconds']:.0f} CPU s"
    )


if __name__ == "__main__":
    raise SystemExit(main())
