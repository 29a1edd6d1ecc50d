"""Trigger inversion: all classes in one batch against one class after the other, in one run.

    python tests/benchmarks/bench_inversion.py [--network small_vgg] [--classes 43] [--batch 32]

Three contenders search the same masks from the same start on the same batches: the loop that a
tutorial writes (one class at a time, `loss.backward()` through a network whose weights ask for
gradients as well), `Inversion` called once for each class, and `Inversion` called once. The masks
that they find are compared, so that speed is measured on equal work. Weights are random: speed does
not depend on what a network has learnt.

Each contender runs once for warming up and then `--repeats` times, in turns, so that another
process on the machine slows all of them alike; the median counts. On a busy machine compare CPU
seconds, and ratios rather than seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import Inversion

SEED = 0


def plain(model: nn.Module, clean: LabelledImages, search: Inversion, classes: int) -> Tensor:
    """One class after the other, as a tutorial writes it; ‖m‖₁ at the last step [K]."""
    found = []
    for target in range(classes):
        generator = torch.Generator().manual_seed(SEED)
        size = clean.images.shape[1:]
        start = [
            torch.rand((1, channels, *size[1:]), generator=generator, dtype=torch.float64)
            for channels in (1, size[0])
        ]
        a, b = (torch.atanh((2 * u - 1) * 0.999).to(clean.images).requires_grad_() for u in start)
        optimizer = torch.optim.Adam([a, b], lr=search.lr, betas=search.betas)
        order: list[Tensor] = []
        cost, wins, losses = 0.0, 0, 0
        for _ in range(search.steps):
            if not order:
                parts = torch.randperm(len(clean), generator=generator).split(search.batch_size)
                order = [part for part in parts if len(part) == len(parts[0])]
            index = order.pop(0).to(clean.labels.device)
            index = index[clean.labels[index] != target]
            m, p = (a.tanh() + 1) / 2, (b.tanh() + 1) / 2
            logits = model((1 - m) * clean.images[index] + m * p)
            goal = torch.full_like(index, target)
            loss = F.cross_entropy(logits, goal) + cost * m.sum()
            optimizer.zero_grad()
            model.zero_grad()
            loss.backward()
            optimizer.step()
            won = (logits.argmax(1) == goal).float().mean().item() >= search.success
            wins, losses = (wins + 1, 0) if won else (0, losses + 1)
            if wins >= search.patience:
                cost, wins = (cost * search.up if cost else search.cost), 0
            if losses >= search.patience:
                cost, losses = cost / search.down, 0
        found.append(m.detach().sum())
    return torch.stack(found)


def one_by_one(model: nn.Module, clean: LabelledImages, search: Inversion, classes: int) -> Tensor:
    """`Inversion`, called once for each class."""
    runs = []
    for target in range(classes):
        generator = torch.Generator().manual_seed(SEED)
        runs.append(search(model, clean, [target], generator=generator).path[-1])
    return torch.cat(runs)


def at_once(model: nn.Module, clean: LabelledImages, search: Inversion, classes: int) -> Tensor:
    """`Inversion`, called once."""
    return search(model, clean, generator=torch.Generator().manual_seed(SEED)).path[-1]


Contender = Callable[[nn.Module, LabelledImages, Inversion, int], Tensor]
CONTENDERS: dict[str, Contender] = {
    "plain loop, class after class": plain,
    "Inversion, class after class": one_by_one,
    "Inversion, all classes at once": at_once,
}


def problem(options: argparse.Namespace) -> tuple[nn.Module, LabelledImages]:
    build = models.small_vgg if options.network == "small_vgg" else models.small_cnn
    model = build(options.classes).to(options.device).eval()
    generator = torch.Generator().manual_seed(1)
    # Few images: what `Inversion` measures on all of them at the end is not the search.
    images = torch.rand(options.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(options.classes, (options.batch,), generator=generator)
    return model, LabelledImages(images, labels).to(options.device)


def measure(
    model: nn.Module, clean: LabelledImages, search: Inversion, options: argparse.Namespace
) -> dict[str, tuple[float, float, Tensor]]:
    """Median wall seconds, median CPU seconds and result of each contender, in turns."""
    walls: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    cpus: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    results = {}
    for turn in range(options.repeats + 1):
        for name, contender in CONTENDERS.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = contender(model, clean, search, options.classes).cpu()
            if turn:  # the first is for warming up
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    return {
        name: (statistics.median(walls[name]), statistics.median(cpus[name]), results[name])
        for name in CONTENDERS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="trigger inversion, batched and sequential")
    parser.add_argument("--network", choices=("small_cnn", "small_vgg"), default="small_cnn")
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=Inversion().chunk)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    search = Inversion(steps=options.steps, batch_size=options.batch, chunk=options.chunk)
    rows = measure(*problem(options), search, options)
    images = options.classes * options.batch * options.steps
    print(f"{options.network}, {options.classes} classes × {options.batch} images × ", end="")
    print(f"{options.steps} steps, chunk {options.chunk}, {options.device}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"{'':32} images/s   CPU s   ratio (wall)   ratio (CPU)   ‖m‖₁ differs by")
    first = next(iter(rows.values()))
    for name, (wall, cpu, sizes) in rows.items():
        gap = float((sizes - rows["Inversion, all classes at once"][2]).abs().max())
        print(
            f"{name:32} {images / wall:8.0f} {cpu:7.2f} {first[0] / wall:14.2f} "
            f"{first[1] / cpu:13.2f}   {gap:.1e}"
        )


if __name__ == "__main__":
    main()
