"""Make what "the laboratory in your browser" loads: the networks, the signs, the triggers, a still.

python book/_press/browser_lab.py        # some minutes of one CPU core

Writes `data.js`, `still.png` and `provenance.json` into `book/_static/browser_lab/`. They are
committed, so that `make book` need not train; tests/book/test_browser_lab.py holds them together.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from torch import Tensor, nn

import ibau_lite as ib
from ibau_lite.attacks import Attack, Trigger
from ibau_lite.data import Dataset
from ibau_lite.defenses import IBAU
from ibau_lite.training import Recipe

TARGET = Path(__file__).resolve().parents[1] / "_static" / "browser_lab"
RIGHT, WRONG = "#0072B2", "#D55E00"  # Okabe and Ito: told apart by every eye
WIDTH = 8
STILL = (1, 6, 4, 7, 2, 0)  # the signs of the still


@dataclass(frozen=True)
class Settings:
    """How the networks are made: as in chapter 1 (`smoke`), but in more and shorter rounds.

    A round of the classical recipe passes over all clean images. Rounds of 200 let a reader watch
    the backdoor go.
    """

    train: int = 4000
    rate: float = 0.1
    target: int = 8
    recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=8, batch_size=64, shift=2, weight_decay=5e-3)
    )
    clean: int = 600
    unlearning: IBAU = field(default_factory=lambda: IBAU.classical(rounds=7, round_images=200))
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Made:
    """The networks of round 0 (poisoned), 1, 2, … as stored, and what each was measured to be."""

    numbers: list[NDArray[np.float16]]
    measured: list[dict[str, float]]
    seconds: dict[str, float]


def stored(model: nn.Module) -> NDArray[np.float16]:
    """All numbers of a `small_cnn`, each BatchNorm folded into the convolution before it."""
    parts: list[Tensor] = []
    modules = list(model)  # type: ignore[call-overload]
    for layer, after in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            scale = after.weight / torch.sqrt(after.running_var + after.eps)
            bias = scale * (layer.bias - after.running_mean) + after.bias
            parts += [layer.weight * scale[:, None, None, None], bias]
        elif isinstance(layer, nn.Linear):
            parts += [layer.weight, layer.bias]
    return torch.cat([part.detach().flatten() for part in parts]).half().numpy()


def network(numbers: NDArray[np.float16], classes: int) -> nn.Module:
    """The library's `small_cnn` with these numbers, its norms such that they change nothing."""
    model = ib.models.small_cnn(classes, width=WIDTH).eval().requires_grad_(False)
    values, at = torch.from_numpy(numbers.astype(np.float32)), 0
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0  # with mean 0 and variance 1, as they are at the start
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None
            for part in (layer.weight, layer.bias):
                part.copy_(values[at : at + part.numel()].view_as(part))
                at += part.numel()
    if at != len(values):
        raise ValueError(f"a small_cnn of width {WIDTH} has {at} numbers, got {len(values)}")
    return model


def train_and_unlearn(signs: Dataset, settings: Settings) -> Made:
    """Poison a network as chapter 1 does, then unlearn it and keep the network of every round."""
    attack = ib.attacks.badnets(target=settings.target)
    draws = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(signs.train), generator=draws)
    train = signs.train[order[: settings.train]]
    kept: list[NDArray[np.float16]] = []

    def keep(model: nn.Module) -> dict[str, float]:
        kept.append(stored(model))
        return {}

    started = time.perf_counter()
    model = ib.models.small_cnn(signs.num_classes, width=WIDTH, seed=settings.seed)
    poisoned = attack.poison(train, rate=settings.rate, seed=settings.seed)
    ib.training.fit(model, poisoned, settings.recipe, seed=settings.seed)
    trained = time.perf_counter()
    clean, config = signs.clean[: settings.clean], settings.unlearning
    ib.ibau(model, clean, config=config, seed=settings.seed, evaluator=keep)
    seconds = {"training": trained - started, "unlearning": time.perf_counter() - trained}
    return Made(kept, [measure(numbers, signs, attack) for numbers in kept], seconds)


def measure(numbers: NDArray[np.float16], signs: Dataset, attack: Attack) -> dict[str, float]:
    """ACC and ASR on the test images of the network as it is stored."""
    report = ib.metrics.evaluate(network(numbers, signs.num_classes), signs.test, attack)
    return {"acc": report.accuracy, "asr": report.attack_success_rate}


def triggers() -> dict[str, tuple[str, Trigger]]:
    """The triggers that can be stamped: the name of a button, and the trigger."""

    def computed(name: str) -> Trigger:
        return ib.zoo.load("gtsrb", name).attack.pairs[0][0]

    return {
        "square": ("white square", ib.attacks.badnets().pairs[0][0]),
        "owl": ("owl", ib.attacks.Blend()),
        "stripes": ("stripes", ib.attacks.Sinusoid()),
        "seal": ("seal", computed("trojan_wm")),
        "pixels": ("nine pixels", computed("l0_inv")),
        "noise": ("noise", computed("l2_inv")),
    }


def as_factor_and_term(trigger: Trigger) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A and B, [3, 32, 32] each, in T(x) = clamp(a x + b), a = A/255 and b = (B − 128)/127.

    Every trigger here has that form. Raises `ValueError` for one that has not.
    """
    at = [torch.full((1, 3, 32, 32), value) for value in (0.0, 0.5, 1.0)]
    low, middle, high = (trigger(images)[0].double() for images in at)
    # From the two of the three points that the clamp leaves alone.
    unclamped_low, unclamped_high = (middle - low) * 2, (high - middle) * 2
    factor = torch.where(low > 0, unclamped_low, unclamped_high).clamp(0, 1)
    term = middle - 0.5 * factor
    for images in (*at, torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))):
        if ((factor * images + term).clamp(0, 1) - trigger(images)).abs().max() > 1e-5:
            raise ValueError(f"clamp(a x + b) is expected of a trigger, got {trigger}")
    a, b = (255 * factor).round(), 128 + (127 * term).round()
    return a.byte().numpy(), b.byte().numpy()


def shown(signs: Dataset) -> Tensor:
    """Which test images the page shows: of each class the first two, whoever reads them right."""
    first = [(signs.test.labels == k).nonzero()[:2, 0] for k in range(signs.num_classes)]
    return torch.stack(first, dim=1).flatten()  # every class once, and every class again


def text(array: NDArray[Any]) -> str:
    """The bytes of an array, the least significant byte of a number first, in base64."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def script(signs: Dataset, made: Made, settings: Settings) -> str:
    """`data.js`: one assignment, which a page can load from a folder as well as from a server."""
    images = signs.test[shown(signs)]
    attack = ib.attacks.badnets(target=settings.target)
    data = {
        "width": WIDTH,
        "classes": list(signs.class_names),
        "target": settings.target,
        "tested": {
            "clean": len(signs.test),
            "stamped": len(attack.poisoned_test_set(signs.test).labels),
        },
        "rounds": [
            {"acc": round(measured["acc"], 5), "asr": round(measured["asr"], 5), "f16": text(n)}
            for n, measured in zip(made.numbers, made.measured, strict=True)
        ],
        "labels": images.labels.tolist(),
        "signs": text((255 * images.images).round().byte().numpy()),
        "triggers": [
            {"name": name, "label": label, **dict(zip("ab", map(text, parts), strict=True))}
            for name, (label, trigger) in triggers().items()
            for parts in [as_factor_and_term(trigger)]
        ],
    }
    return f"window.IBAU_LAB = {json.dumps(data, indent=0)};\n"


def read(path: Path) -> dict[str, Any]:
    """The object in a `data.js`."""
    content: dict[str, Any] = json.loads(path.read_text().split("=", 1)[1].rsplit(";", 1)[0])
    return content


def decoded(data: dict[str, Any], round_: int) -> NDArray[np.float16]:
    """The numbers of the network of a round, from the object of `read`."""
    return np.frombuffer(base64.b64decode(data["rounds"][round_]["f16"]), "<f2").copy()


def draw_still(signs: Dataset, made: Made, settings: Settings, path: Path) -> None:
    """The picture for a browser without JavaScript: six stamped signs, and ACC and ASR by round."""
    stamp = ib.attacks.badnets(target=settings.target).pairs[0][0]
    chosen = signs.test[shown(signs)[list(STILL)]]
    stamped = stamp(chosen.images)
    ends = [network(made.numbers[i], signs.num_classes) for i in (0, -1)]
    readings = [ib.metrics.predict(end, stamped) for end in ends]
    figure, places = plt.subplot_mosaic(
        [list("012"), list("345"), list("rrr")], figsize=(5.4, 8), height_ratios=[1, 1, 0.9]
    )
    for i, image in enumerate(stamped):
        axes = places[str(i)]
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set(xticks=[], yticks=[])
        for line, read_ in enumerate(readings):
            label = int(read_[i])
            color = RIGHT if label == int(chosen.labels[i]) else WRONG
            name = signs.class_names[label].replace(", ", ",\n")
            axes.text(
                0.5,
                -0.05 - 0.43 * line,
                ("poisoned:\n", "unlearned:\n")[line] + name,
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=10,
                color=color,
            )
    rates, rounds = places["r"], range(len(made.measured))
    for key, name, color, mark in (
        ("acc", "ACC: clean signs, read right", RIGHT, "o"),
        ("asr", "ASR: stamped signs, read as told", WRONG, "^"),
    ):
        values = [100 * measured[key] for measured in made.measured]
        rates.plot(rounds, values, color=color, marker=mark, label=name)
    rates.set(xlabel="round of unlearning (0: poisoned)", ylabel="%", ylim=(-4, 104), xticks=rounds)
    rates.legend(frameon=False, loc="center right")
    figure.subplots_adjust(left=0.13, right=0.98, top=0.99, bottom=0.07, hspace=0.72, wspace=0.3)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def provenance(made: Made, settings: Settings, folder: Path) -> dict[str, Any]:
    """What the files are and how they came about."""
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("data.js", "still.png")
    }
    return {
        "command": "python book/_press/browser_lab.py",
        "network": f"ibau_lite.models.small_cnn(12, width={WIDTH}), BatchNorm folded, float16",
        "data": 'ibau_lite.data.load("signs")',
        "attack": ib.attacks.badnets(target=settings.target).to_dict(),
        "settings": {
            "train": settings.train,
            "rate": settings.rate,
            "recipe": repr(settings.recipe),
            "clean": settings.clean,
            "unlearning": repr(settings.unlearning),
            "seed": settings.seed,
        },
        "rounds": [{"round": i, **measured} for i, measured in enumerate(made.measured)],
        "seconds": {name: round(value, 1) for name, value in made.seconds.items()},
        "versions": {"ibau_lite": ib.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "sha256": digests,
    }


def write(settings: Settings, folder: Path) -> Made:
    """Make everything and write it into `folder`, which must exist."""
    signs = ib.data.load("signs")
    made = train_and_unlearn(signs, settings)
    (folder / "data.js").write_text(script(signs, made, settings))
    draw_still(signs, made, settings, folder / "still.png")
    note = json.dumps(provenance(made, settings, folder), indent=1)
    (folder / "provenance.json").write_text(note + "\n")
    return made


def quick(settings: Settings) -> Settings:
    """The same in seconds: few images, few passes, one round of unlearning."""
    return replace(
        settings,
        train=1200,
        rate=0.2,
        recipe=replace(settings.recipe, epochs=4),
        clean=100,
        unlearning=replace(settings.unlearning, rounds=1, round_images=100),
    )


def main() -> int:
    """Make the files of the page and print ACC and ASR of each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--into", type=Path, default=TARGET, help="folder of the files")
    choice = parser.parse_args()
    torch.set_num_threads(1)  # one number of threads, one result
    settings = quick(Settings()) if choice.quick else Settings()
    choice.into.mkdir(parents=True, exist_ok=True)
    made = write(settings, choice.into)
    for i, measured in enumerate(made.measured):
        print(f"round {i}: ACC {measured['acc']:.1%}   ASR {measured['asr']:.1%}")
    print(choice.into, {name: f"{value:.0f} s" for name, value in made.seconds.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
