"""Look at a network that you do not trust, and unlearn its backdoor, from the command line.

    python -m ibau_lite inspect --checkpoint net.pt --arch resnet18 --clean photos --out report
    python -m ibau_lite defend --checkpoint net.pt --arch resnet18 --clean photos --out report

`photos` has one folder a class, in the order in which the network counts. Nothing in the checkpoint
is executed. `inspect` writes report.html; `defend` unlearns as well, and writes
defended.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from ibau_lite import checkpoints, models
from ibau_lite.data import LabelledImages, load_labelled_folder
from ibau_lite.diagnosis import diagnose
from ibau_lite.ibau import IBAU, ibau
from ibau_lite.metrics import predict
from ibau_lite.report import Report
from ibau_lite.streams import stream

_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "small_vgg": models.small_vgg,
    "small_cnn": models.small_cnn,
    "resnet18": models.resnet18,
    "preact_resnet18": models.preact_resnet18,
}
_LONG = 60  # seconds from which an estimate is printed first


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it was done, 2 for something that cannot be read."""
    choice = _parser().parse_args(arguments)
    try:
        return _run(choice)
    except (ValueError, TypeError, OSError, ImportError, AttributeError) as error:
        print(f"ibau_lite {choice.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ibau_lite", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("inspect", "see whether a class stands out"),
        ("defend", "see, unlearn, and see again"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--checkpoint", type=Path, required=True, help="the weights")
        command.add_argument(
            "--arch", required=True,
            help=f"{', '.join(_ARCHITECTURES)}, or module:function, which is called with "
            "num_classes=",
        )  # fmt: skip
        command.add_argument("--clean", type=Path, required=True, help="one folder a class")
        command.add_argument("--out", type=Path, required=True, help="the folder to write to")
        command.add_argument("--size", type=int, default=32, help="pixels of a side (32)")
        command.add_argument("--mean", help="of each channel, as the training subtracted it: r,g,b")
        command.add_argument("--std", help="of each channel, as the training divided by it: r,g,b")
        command.add_argument("--held-out", type=float, default=0.2, help="share to measure ACC on")
        command.add_argument("--seed", type=int, default=0)
        if name == "defend":
            command.add_argument("--rounds", type=int, default=IBAU().rounds)
            command.add_argument(
                "--naive",
                action="store_true",
                help="without the indirect term: several times faster",
            )
    return parser


def _run(choice: argparse.Namespace) -> int:
    images, names = load_labelled_folder(choice.clean, size=choice.size)
    clean, held_out = _parts(images, choice.held_out, choice.seed)
    bare = _build(choice.arch)(num_classes=len(names))
    checkpoints.load(choice.checkpoint, bare)
    model = _normalised(bare, choice.mean, choice.std).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    config = IBAU(**({"rounds": choice.rounds} if choice.command == "defend" else {}))
    config = replace(config, indirect=None) if getattr(choice, "naive", False) else config
    report = Report(names)
    report.given = {
        "checkpoint": str(choice.checkpoint),
        "its SHA-256": hashlib.sha256(choice.checkpoint.read_bytes()).hexdigest(),
        "architecture": choice.arch,
        "classes": str(len(names)),
        "clean images": f"{len(clean):,} to work with, {len(held_out):,} held out",
        "seed": str(choice.seed),
    }
    _estimate(model, clean, config if choice.command == "defend" else None)
    report.accuracy["before"] = _right(model, held_out)
    report.diagnoses["before"] = diagnose(model, clean, seed=choice.seed, progress=True)
    print(f"before: {report.diagnoses['before']}", flush=True)
    if choice.command == "defend":
        result = ibau(model, clean, config=config, seed=choice.seed, progress=True)
        report.accuracy["after"] = _right(result.model, held_out)
        report.diagnoses["after"] = diagnose(result.model, clean, seed=choice.seed, progress=True)
        print(f"after:  {report.diagnoses['after']}", flush=True)
        report.history = result.history
        report.settings = {f.name: str(getattr(config, f.name)) for f in fields(config)}
        report.settings["seconds"] = f"{result.seconds:.0f}"
        whole = result.model
        new = whole.network if isinstance(whole, models.Normalised) else whole
        checkpoints.save(new, choice.out / "defended.safetensors", {"from": report.given})
    choice.out.mkdir(parents=True, exist_ok=True)
    path = choice.out / "report.html"
    path.write_text(report.html(f"{choice.command}: {choice.checkpoint.name}"), "utf-8")
    for name, (right, count) in report.accuracy.items():
        print(f"accuracy {name}: {right / count:.1%} of {count:,} held-out images")
    print(f"written: {path}")
    return 0


def _build(name: str) -> Callable[..., nn.Module]:
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(
            f"--arch: one of {', '.join(_ARCHITECTURES)}, or module:function, got {name!r}"
        )
    found: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
    return found


def _normalised(network: nn.Module, mean: str | None, std: str | None) -> nn.Module:
    if (mean is None) != (std is None):
        raise ValueError("--mean and --std go together")
    if mean is None or std is None:
        return network
    return models.Normalised(network, *(map(float, each.split(",")) for each in (mean, std)))


def _parts(
    images: LabelledImages, share: float, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """The images to work with and those held out, drawn at random."""
    count = round(share * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"--held-out {share:g} of {len(images)} images leaves one part empty")
    order = torch.randperm(len(images), generator=stream(seed, "defense", "held_out"))
    return images[order[count:]], images[order[:count]]


def _right(model: nn.Module, images: LabelledImages) -> tuple[int, int]:
    return int((predict(model, images.images) == images.labels).sum()), len(images)


def _estimate(model: nn.Module, clean: LabelledImages, config: IBAU | None) -> None:
    """Say how long it will take, from one pass over a few images, where that is long."""
    few = clean[:64].to(next(model.parameters()).device)
    began = time.perf_counter()
    nn.functional.cross_entropy(model(few.images), few.labels).backward()
    each = (time.perf_counter() - began) / len(few)
    model.zero_grad(set_to_none=True)
    classes = int(model(few.images[:1]).shape[1])
    passes = 20 * max(400, 20 * classes)  # two sets, eight steps and two evaluations
    if config is not None:
        # The search of the first round is a diagnosis, there is one before and one after; a later
        # search climbs toward one class; own answers and the indirect term double the pass at most.
        passed = config.round_images or len(clean)
        passes = 3 * passes + config.rounds * (2 * passed + 20 * (config.inner.images or passed))
    if passes * each > _LONG:
        print(f"this will take about {passes * each / 60:.0f} minutes", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
