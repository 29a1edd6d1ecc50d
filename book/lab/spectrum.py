"""The spectrum of ∇²_δ H on poisoned networks: is the assumption of Theorem 1 true there?

    python -m ibau_lab.spectrum --profile cpu --results book/results/spectrum.jsonl

Chapter 8 shows the records, and calls `measure` on a small network itself. About three minutes of
one CPU core a network, once it is trained; float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ibau_lite.theory.active_constraint import tangent_spectrum
from torch import Tensor, nn

from ibau_lite import curvature
from ibau_lite.attacks import Attack
from ibau_lite.data import Dataset, LabelledImages
from ibau_lite.metrics import evaluate, predict
from ibau_lite.minimax import Ascent, Risk
from ibau_lite.sets import L2Ball
from ibau_lite.solvers import Ritz

from .first_run import Experiment
from .studies import command_line, measure_networks


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
      a fifth of the length, the same, and on the sphere the multiplier λ, ‖P∇₁H‖, which is left to
      climb (``tangential``), and the Ritz values of M = P(λI − ∇₁²H)P on the tangent space;
    - ``penalised``: the fixed point δ = ∇₁H(δ)/2c of H − c‖δ‖², for the c that makes the Hessian
      at zero safely negative, 2c = `margin`·λ_max. There the assumption of Theorem 1 has a chance;
      the largest Ritz value there says whether it holds.

    Each place has its norm, H, ‖∇₁H‖ and the fraction of `part` that the network reads as the
    attacker's first target. `steps` Lanczos steps each. ``trigger`` is the mean length of what the
    attack adds to an image. The result is JSON; raises as `curvature.spectrum`.
    """
    theta = {name: p.detach() for name, p in model.named_parameters()}
    risk = Risk(model, part.images, part.labels)
    trigger, relabel = attack.pairs[0]
    target = int(relabel(part.labels[:1])[0])
    zero = torch.zeros_like(part.images[0], dtype=next(iter(theta.values())).dtype)

    def look(delta: Tensor) -> dict[str, float]:
        value, slope = risk.value_and_gradient(delta, theta)
        read = predict(model, part.images + delta.to(part.images))
        numbers = {"norm": delta.norm(), "H": value, "gradient": slope.norm()}
        numbers["target"] = (read == target).float().mean()
        return {name: _digits(number) for name, number in numbers.items()}

    def slope(delta: Tensor) -> Tensor:
        return risk.value_and_gradient(delta, theta)[1]

    def curved(delta: Tensor) -> dict[str, Any]:
        return _ritz(curvature.spectrum(risk, delta, theta, steps=steps, seed=seed).runs[0])

    at_zero = curved(zero)
    ball = L2Ball(radius)
    found = Ascent(ascent)(risk, theta, ball)
    settled = Ascent(2 * ascent, step=0.1)(risk, theta, ball, found.delta)
    best = settled.delta
    multiplier, tangent = tangent_spectrum(risk, best, theta, steps=steps, seed=seed)
    along = slope(best) - (slope(best) * best).sum() / (best * best).sum() * best

    penalty = 0.5 * margin * max(at_zero["values"][-1], 1e-6)
    delta = zero
    for _ in range(ascent):
        delta = slope(delta) / (2 * penalty)
    there = curvature.spectrum(risk, delta, theta, steps=max(2, steps // 3), seed=seed)
    return {
        "images": len(part),
        "dimension": zero.numel(),
        "steps": steps,
        "trigger": _digits((trigger(part.images) - part.images).flatten(1).norm(dim=1).mean()),
        "zero": {**look(zero), "hessian": at_zero},
        "ball": {
            **look(best),
            "radius": radius,
            "ascent": ascent,
            "gap": _digits(settled.gap),
            "hessian": curved(best),
            "multiplier": _digits(multiplier),
            "tangential": _digits(along.norm()),
            "tangent": _ritz(tangent),
        },
        "penalised": {
            **look(delta),
            "penalty": _digits(penalty),
            "remaining": _digits((slope(delta) - 2 * penalty * delta).norm()),
            "highest": _digits(there.maximum - 2 * penalty),
        },
    }


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
    parser = command_line(__doc__, "spectrum", "only this data set")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    return measure_networks(parser, arguments, ["steps"], _on_network, _told)


def _on_network(
    experiment: Experiment, dataset: Dataset, model: nn.Module, part: LabelledImages, steps: int
) -> dict[str, Any]:
    report = evaluate(model, dataset.test, experiment.attack)
    return {
        "attack": experiment.attack.name,
        "accuracy": report.accuracy,
        "attack_success_rate": report.attack_success_rate,
        **measure(model, part, experiment.attack, steps=steps),
    }


def _told(record: Mapping[str, Any]) -> str:
    zero, ball, tangent = (
        f"from {values[0]:.3g} to {values[-1]:.3g}"
        for values in (
            record["zero"]["hessian"]["values"],
            record["ball"]["hessian"]["values"],
            record["ball"]["tangent"]["values"],
        )
    )
    return (
        f"{record['data']}: ∇²_δH {zero} at 0, {ball} on the ball; "
        f"λ = {record['ball']['multiplier']:.3g}, M {tangent}; {record['cpu_seconds']:.0f} CPU s"
    )


if __name__ == "__main__":
    raise SystemExit(main())
