"""Seconds of one outer step of I-BAU against published code, alternating in one run.

    python tests/benchmarks/bench_hypergradient.py [--images 100] [--products 5] [--device cuda]

One outer step on `small_vgg`: the outer risk on `--images` images of which one carries δ, the inner
risk on as many, and K = `--products` steps of the fixed-point iteration. The baseline is what
published code does: plain reverse-over-reverse autograd through the network as it is, the gradient
map δ − 0.1 ∇₁ℓ with `create_graph=True` and the parameters requiring gradients, K vector products
with it from v = 0, one pull-back over θ. The unit is one forward pass on `--images` images without
a graph, timed in the same run; contenders take turns and the median counts.

By count. An implicit hypergradient with K fixed-point steps needs, in forwards:

    outer: forward and backward over δ and θ                     3     (a backward costs about two)
    inner: forward, and ∇₁ with its graph                        2–3   (no weight gradients in ∇_δ)
    K − 1 products with ∇₁² (the first multiplies zero)          ≥ 2 each (a Gauss–Newton product
                                                                  on a reused linearisation: 1.8)
    one mixed pull-back over θ                                   ≥ 3

that is about 8 + 2 (K − 1), 16 for K = 5; the naive gradient (K = 0) needs 3. The unit is a pass of
the network as it is: passes of the folded network cost less, so its rows may lie below the count.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite.hypergrad import SecondDerivatives, hypergradient
from ibau_lite.minimax import Risk
from ibau_lite.models import small_vgg
from ibau_lite.solvers import FixedPoint, SolverWarning
from ibau_lite.speed import DoubleBackward, fold_batchnorm

STEP, PENALTY = 0.1, 0.001


def published(
    model: nn.Module, inner: Risk, outer: Risk, delta: Tensor, products: int
) -> list[Tensor]:
    """The baseline: gradients for `model.parameters()`, written as published code is."""
    parameters = list(model.parameters())
    d = delta.detach().clone().requires_grad_(True)
    stamped = outer.images + d * outer.stamped[:, None, None, None]
    shifted = inner.images + d
    if inner.clamp:
        stamped, shifted = stamped.clamp(0, 1), shifted.clamp(0, 1)
    loss_outer = F.cross_entropy(model(stamped), outer.labels)
    slopes = torch.autograd.grad(loss_outer, [d, *parameters], retain_graph=True)
    g, direct = slopes[0], slopes[1:]

    loss_inner = -F.cross_entropy(model(shifted), inner.labels)
    loss_inner = loss_inner + PENALTY * (d * d).sum()
    (slope,) = torch.autograd.grad(loss_inner, d, create_graph=True)
    mapped = d - STEP * slope
    v = torch.zeros_like(d)
    for _ in range(products):
        (v,) = torch.autograd.grad(mapped, d, v, retain_graph=True)
        v = v + g
    indirect = torch.autograd.grad(mapped, parameters, v, allow_unused=True)
    pairs = zip(direct, indirect, strict=True)
    return [a if b is None else a + b for a, b in pairs]


def problem(
    count: int, products: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[Callable[..., list[Tensor]], Callable[[], list[Tensor]], Callable[[], Tensor]]:
    """(ours, as a function of K and of what is done how; published code; one forward pass)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2 * count, 3, 32, 32, generator=generator).to(device, dtype)
    labels = torch.randint(10, (2 * count,), generator=generator).to(device)
    model = small_vgg().to(device, dtype).eval()
    stamped = torch.arange(count, device=device) == 0

    def risks(network: nn.Module) -> tuple[Risk, Risk]:
        inner = Risk(network, images[:count], labels[:count], penalty=PENALTY)
        return inner, Risk(network, images[count:], labels[count:], stamped=stamped)

    inner, outer = risks(model)
    folded = risks(fold_batchnorm(model))
    delta = (0.01 * torch.randn(3, 32, 32, generator=generator)).to(device, dtype)
    theta = dict(model.named_parameters())

    def step(
        k: int = products,
        *,
        compute_residual: bool = False,
        fold: bool = True,
        derivatives: type[SecondDerivatives] = DoubleBackward,
    ) -> list[Tensor]:
        solver = FixedPoint(step=STEP, max_iter=k, compute_residual=False) if k else None
        i, o = folded if fold else (inner, outer)
        result = hypergradient(
            o, i, delta, theta, solver=solver, compute_residual=compute_residual,
            derivatives=derivatives,
        )  # fmt: skip
        return list(result.total.values())

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(inner.images)

    return step, lambda: published(model, inner, outer, delta, products), forward


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference in a tensor, relative to the largest entry of it."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)


def contenders(count: int, products: int, device: str) -> dict[str, Callable[[], object]]:
    # In float32 the two round differently, and a pooling window may choose another maximum.
    ours, theirs, _ = problem(count, products, device, torch.float64)
    for kind in (DoubleBackward, SecondDerivatives):
        apart = gap(ours(derivatives=kind), theirs())
        assert apart < 1e-8, f"{kind.__name__} is {apart:.1e} off: nothing to compare"
    step, theirs, forward = problem(count, products, device)
    rows: dict[str, Callable[[], object]] = {
        "one forward pass": forward,
        "published code": theirs,
        "by definition (torch.func), as it is": lambda: step(
            fold=False, derivatives=SecondDerivatives
        ),
        "by definition (torch.func), folded": lambda: step(derivatives=SecondDerivatives),
        "hypergradient, network as it is": lambda: step(fold=False),
        "hypergradient, folded network": step,
        "the same, with its true residual": lambda: step(compute_residual=True),
        "naive gradient (K = 0), folded": lambda: step(0),
    }
    return rows


def measure(rows: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns; the first turn is for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, run in rows.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="one outer step, in forward passes")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--products", type=int, default=5, help="K, at least 1")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if min(options.images, options.products, options.repeats) < 1:
        parser.error("--images, --products and --repeats must be at least 1")
    warnings.simplefilter("ignore", SolverWarning)  # K steps, as published, converged or not
    rows = contenders(options.images, options.products, options.device)
    seconds = measure(rows, options.repeats)
    if seconds["hypergradient, folded network"] > seconds["by definition (torch.func), folded"]:
        raise SystemExit("ibau_lite.speed is slower than the definition: has its fast path gone?")
    unit, base = seconds["one forward pass"], seconds["published code"]
    print(f"{options.images} images inside and outside, K = {options.products},")
    where = f"{torch.get_num_threads()} threads"
    if options.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}\n")
    print(f"{'':40} seconds  forwards  published / this")
    for name, taken in seconds.items():
        print(f"{name:40} {taken:7.4f} {taken / unit:9.1f} {base / taken:17.2f}")
    count = 8 + 2 * (options.products - 1)
    print(f"{'by count (see the header)':40} {count * unit:7.4f} {count:9.1f}")


if __name__ == "__main__":
    main()
