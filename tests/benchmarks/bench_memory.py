"""Peak memory of one outer step of I-BAU against one ordinary training step on as many images.

    python tests/benchmarks/bench_memory.py [--images 100] [--products 5] [--device cuda]

Each contender runs in a process of its own, once on a tenth of the images (libraries load, thread
pools start) and then on all of them. What counts is how far the second run lifts the peak: of the
resident set on a CPU, of the allocator on a GPU. The goal is 1.5 times the training step: the graph
of ∇_δ has to live while the Hessian is multiplied by, and holds each activation about twice; the
book's recipe, which takes half of the images inside, is the row that the goal is for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import warnings

import torch
import torch.nn.functional as F
from bench_hypergradient import PENALTY, published
from ibau_lite.speed import fold_batchnorm

from ibau_lite.hypergrad import hypergradient
from ibau_lite.minimax import Risk
from ibau_lite.models import small_vgg
from ibau_lite.sets import L2Ball
from ibau_lite.solvers import MINRES

CONTENDERS = (
    "training step",
    "naive gradient (K = 0)",
    "hypergradient, network as it is",
    "hypergradient, folded network",
    "the same, half of the images inside",
    "published code",
)


def once(name: str, count: int, products: int, device: str) -> None:
    """Run contender `name` on `count` images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2 * count, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(10, (2 * count,), generator=generator).to(device)
    model = small_vgg().to(device)
    if name == "training step":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        F.cross_entropy(model(images[:count]), labels[:count]).backward()
        optimizer.step()
        return
    model.eval()
    network = model if "as it is" in name or name == "published code" else fold_batchnorm(model)
    inside = count // 2 if "half" in name else count
    inner = Risk(network, images[:inside], labels[:inside], penalty=PENALTY)
    stamped = torch.arange(count, device=device) == 0
    outer = Risk(network, images[count:], labels[count:], stamped=stamped)
    delta = torch.randn(3, 32, 32, generator=generator)
    delta = (4 * delta / delta.norm()).to(device)
    if name == "published code":
        published(model, inner, outer, delta, products)
        return
    solver = None if "naive" in name else MINRES(max_iter=products)
    theta = dict(model.named_parameters())
    hypergradient(outer, inner, delta, theta, solver=solver, constraint=L2Ball(4.0))


def peak(device: str) -> float:
    """The peak so far, MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    scale = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def measure(name: str, count: int, products: int, device: str) -> float:
    """By how many MiB a run on `count` images lifts the peak."""
    warnings.simplefilter("ignore")
    once(name, max(2, count // 10), products, device)
    before = peak(device)
    once(name, count, products, device)
    return peak(device) - before


def main() -> None:
    parser = argparse.ArgumentParser(description="peak memory of one outer step")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--products", type=int, default=5, help="K, at least 1")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.images < 20 or min(options.products, options.repeats) < 1:
        parser.error("--images must be at least 20, --products and --repeats at least 1")
    context = multiprocessing.get_context("spawn")
    print(f"{options.images} images inside and outside, K = {options.products}\n")
    print(f"{'':40} {'MiB':>6}  / training step")
    unit = None
    for name in CONTENDERS:
        lifts = []
        for _ in range(options.repeats):
            with context.Pool(1) as pool:
                job = (name, options.images, options.products, options.device)
                lifts.append(pool.apply(measure, job))
        mib = statistics.median(lifts)
        unit = unit or mib
        print(f"{name:40} {mib:6.0f} {mib / unit:8.2f}")


if __name__ == "__main__":
    main()
