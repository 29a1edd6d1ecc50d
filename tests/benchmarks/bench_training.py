"""Images per second of `training.fit` against a plain loop, alternating in one run.

    python tests/benchmarks/bench_training.py [--images 1280] [--batch 128] [--compile]

The plain loop is what a tutorial writes: a torchvision `DataLoader` over uint8 images that become
PIL images one by one (RandomCrop with padding 4, RandomHorizontalFlip, ToTensor), SGD with Nesterov
momentum, float32, eager. Both sides crop, flip and shuffle, and train the same network
(`small_vgg`) on images of CIFAR's shape (random: speed does not depend on what they show).

The floor of either is the network itself: forward and backward passes on a batch that lies ready,
printed as the last row. What a loop adds to it is its own. Each contender is run once for warming
up (with `--compile` this is where the compilation goes) and then `--repeats` times, in turns, so
that another process on the machine slows all of them alike; the median counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ibau_lite.data.torchvision_compat import torchvision_module
from ibau_lite.models import small_vgg
from ibau_lite.training import Recipe, fit

Epoch = Callable[[], None]


class PilImages(torch.utils.data.Dataset):
    """uint8 images [N, H, W, C] as torchvision's own datasets give them: one PIL image a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        transforms = torchvision_module("transforms")
        self.images, self.labels = images.numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def plain(images: Tensor, labels: Tensor, batch: int, workers: int) -> Epoch:
    """One epoch of DataLoader, float32, eager."""
    loader = torch.utils.data.DataLoader(
        PilImages(images, labels), batch, shuffle=True, drop_last=True, num_workers=workers
    )
    model = small_vgg()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )

    def epoch() -> None:
        model.train()
        running = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()

    return epoch


def ours(images: Tensor, labels: Tensor, batch: int, **settings: object) -> Epoch:
    """One epoch of `fit`, with the same augmentation."""
    floats = images.permute(0, 3, 1, 2).float().div(255).contiguous()
    model = small_vgg()
    recipe = Recipe(epochs=1, batch_size=batch, lr=0.01, flip=True, shift=4, **settings)
    return lambda: fit(model, floats, labels, recipe) and None


def network_alone(batch: int, steps: int) -> Epoch:
    """The floor: forward and backward passes in float32 on one batch."""
    model, x, y = small_vgg().train(), torch.rand(batch, 3, 32, 32), torch.zeros(batch).long()

    def epoch() -> None:
        for _ in range(steps):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()

    return epoch


def contenders(count: int, batch: int, with_compile: bool) -> dict[str, Epoch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    rows = {
        "plain loop, num_workers=0": plain(images, labels, batch, 0),
        "plain loop, num_workers=2": plain(images, labels, batch, 2),
    }
    for precision in ("float32", "bfloat16"):
        for channels_last in (False, True):
            name = f"fit {precision}" + (", channels_last" if channels_last else "")
            settings = {"precision": precision, "channels_last": channels_last}
            rows[name] = ours(images, labels, batch, compile=False, **settings)
    if with_compile:
        for precision in ("float32", "bfloat16"):
            name = f"fit {precision}, channels_last, compiled"
            rows[name] = ours(images, labels, batch, compile=True, precision=precision)
    rows["network alone, float32 (floor)"] = network_alone(batch, count // batch)
    return rows


def measure(rows: dict[str, Epoch], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, epoch in rows.items():
            started = time.perf_counter()
            epoch()
            if turn:  # the first is for warming up
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="images per second of fit and of a plain loop")
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="adds minutes of compilation")
    options = parser.parse_args()
    if options.images < options.batch:
        parser.error("--images must be at least --batch")
    trained = options.images // options.batch * options.batch
    rows = contenders(options.images, options.batch, options.compile)
    seconds = measure(rows, options.repeats)
    base = seconds["plain loop, num_workers=0"]
    print(f"{trained} images an epoch, batches of {options.batch}, {options.repeats} repeats,")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"{'':42} images/s   ratio")
    for name, time_taken in seconds.items():
        print(f"{name:42} {trained / time_taken:8.0f} {base / time_taken:7.2f}")


if __name__ == "__main__":
    main()
