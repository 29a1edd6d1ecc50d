"""Training a classifier, in one loop.

SGD with Nesterov momentum and a one-cycle learning rate, over tensors that lie in memory. Random
shifts and flips are drawn a batch at a time, on the device, so no worker process is needed. The
loop knows nothing of triggers. A training set with a method `stamp`, such as a poisoned one, stamps
each batch after its augmentation, so that no trigger is mirrored or moved with its image.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite._modes import evaluation_mode, usual_settings
from ibau_lite.data import LabelledImages
from ibau_lite.files import replacing
from ibau_lite.logits import check_logits, checked, read
from ibau_lite.streams import VERSION, derived_seed, stream

__all__ = ["Recipe", "StampedSet", "augment", "fit", "precision", "shuffled_positions"]


class StampedSet(Protocol):
    """A training set that changes its batches after augmentation, such as `attacks.PoisonedSet`."""

    @property
    def base(self) -> Tensor:
        """The images before stamping, float32 [N, C, H, W] in [0, 1]."""
        ...

    @property
    def labels(self) -> Tensor:
        """The labels to learn, int64 [N]."""
        ...

    def stamp(self, images: Tensor, index: Tensor) -> Tensor:
        """Change a batch [B, C, H, W] of augmented images at the positions `index` [B]."""
        ...


_COMPILE_PAYS_FROM = 400_000
"""Image passes (images × epochs) from which a minute of compilation is won back on a CPU."""


_MOST_POSITIONS = 10**8
"""Positions of one pass, drawn at once: 800 MB."""


@dataclass(frozen=True)
class Recipe:
    """How to train: every number that `fit` uses.

    `lr` is the peak of the one-cycle schedule, reached after the fraction `warmup` of all steps.
    `momentum` is Nesterov's. It falls by 0.1 while the learning rate rises, from 0.05 above the
    stated value to 0.05 below, and then rises again. `flip` mirrors images left-right with
    probability ½ (never for signs or digits). `shift` moves them by up to that many pixels and
    reflects the border.

    `precision` is "float32", "bfloat16" (autocast; the weights stay float32) or "auto". "auto" is
    bfloat16 if the device multiplies in it (on a processor: AVX-512 BF16 or AMX; emulated, it is
    several times slower than float32), else float32. `compile=None` compiles on a CPU with a C++
    compiler if the run is long enough to win the compilation back, in bfloat16 only. Float32 runs
    are not compiled, so that the same seed gives the same bits.

    Raises `TypeError` or `ValueError` for settings of another kind or outside their range.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.3
    label_smoothing: float = 0.0
    flip: bool = False
    shift: int = 0
    precision: str = "float32"
    channels_last: bool = True
    compile: bool | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"precision must be 'auto', 'float32' or 'bfloat16', got {self.precision!r}"
            )
        check_ranges(
            self, epochs="[1, ∞)", batch_size="[1, ∞)", lr="(0, ∞)", warmup="(0, 1)",
            momentum="[0, 1)", label_smoothing="[0, 1)", shift="[0, ∞)",
        )  # fmt: skip


def augment(images: Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> Tensor:
    """Mirror each image with probability ½ and move it by up to `shift` pixels (border reflected).

    `images` [B, C, H, W] → the same shape. `generator` is a CPU generator.

    >>> augment(torch.rand(4, 3, 8, 8), torch.Generator(), flip=True, shift=2).shape
    torch.Size([4, 3, 8, 8])
    """
    count, device = len(images), images.device
    if flip:
        mirrored = torch.rand(count, generator=generator).lt(0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if shift:
        height, width = images.shape[2:]
        windows = (
            F.pad(images, (shift,) * 4, mode="reflect").unfold(2, height, 1).unfold(3, width, 1)
        )
        dy, dx = torch.randint(2 * shift + 1, (2, count), generator=generator).to(device)
        images = windows[torch.arange(count, device=device), :, dy, dx]
    return images


def shuffled_positions(count: int, total: int, generator: torch.Generator) -> Tensor:
    """Positions [total] among `count` images: all of them in random order, then all of them again.

    The last repetition may be a part, so that no image occurs two times more often than another.
    Raises `ValueError` as `check_total` does.

    >>> shuffled_positions(3, 5, torch.Generator()).bincount().sort().values.tolist()
    [1, 2, 2]
    """
    check_total(total)
    passes = [torch.randperm(count, generator=generator) for _ in range(-(-total // count))]
    return torch.cat(passes)[:total]


def check_total(total: int, name: str = "total") -> None:
    """Raise `ValueError` if the positions of so many images a pass do not fit into memory."""
    if total > _MOST_POSITIONS:
        raise ValueError(
            f"{name}: at most {_MOST_POSITIONS:,} images a pass are expected, got {total:,}; "
            "for more, take more passes"
        )


def _parts(
    train: LabelledImages | StampedSet,
) -> tuple[Tensor, Tensor, Callable[..., Tensor] | None]:
    """Images, labels, and the function that changes a batch after augmentation, if any."""
    if isinstance(train, LabelledImages):
        return train.images, train.labels, None
    if all(hasattr(train, name) for name in ("base", "labels", "stamp")):
        return train.base, train.labels, train.stamp
    raise TypeError(
        "train: a LabelledImages(images, labels), or a poisoned set as Attack.poison makes it, is "
        f"expected, got {type(train).__name__}"
    )


def _check(images: Tensor, labels: Tensor, shift: int) -> None:
    if images.ndim != 4 or not images.is_floating_point() or labels.shape != images.shape[:1]:
        raise ValueError(
            "images [N, C, H, W] of floating point and labels [N] are expected, got "
            f"{images.dtype} {list(images.shape)} and {list(labels.shape)}"
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}; a label is a whole number")
    if len(images) == 0:
        raise ValueError("there is nothing to train on: images is empty")
    if shift >= min(images.shape[2:]):
        raise ValueError(f"shift must be below the image size {min(images.shape[2:])}, got {shift}")


def _check_model(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One look at the logits, before hours are spent on labels that the model cannot give."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the model has no parameter that requires a gradient: nothing to train")
    with evaluation_mode(model), torch.no_grad():
        check_logits(logits := read(model, images[:16]))  # a lazy network takes its shapes here
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model was built under torch.inference_mode, where nothing can be trained: build "
            "it outside, or train a copy (model.load_state_dict)"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        from_one = " (labels count from 0)" if low == 1 else ""
        raise ValueError(
            f"labels must be classes 0 to {logits.shape[1] - 1} of the model, "
            f"got {low} to {high}{from_one}"
        )


def precision(recipe: Recipe, device: torch.device) -> str:
    """The number type of a recipe on a device, "float32" or "bfloat16": what "auto" stands for.

    >>> precision(Recipe(), torch.device("cpu"))
    'float32'
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        half = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Older versions of torch do not tell: float32 there.
        tell = getattr(torch.cpu, "get_capabilities", dict)
        has: dict[str, bool] = tell() if device.type == "cpu" else {}
        half = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return "bfloat16" if half else "float32"


def _compiles(recipe: Recipe, images: int, device: torch.device) -> bool:
    if recipe.compile is not None:
        return recipe.compile
    long_enough = images * recipe.epochs >= _COMPILE_PAYS_FROM
    has_compiler = shutil.which("g++") is not None
    half = precision(recipe, device) == "bfloat16"
    return half and device.type == "cpu" and long_enough and has_compiler


@usual_settings()
def fit(
    model: nn.Module,
    train: LabelledImages | StampedSet,
    recipe: Recipe = Recipe(),
    *,
    seed: int = 0,
    stage: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Minimise the mean cross-entropy of `model` over a training set, in place.

    Args:
        model: any classifier. It is trained on the device of its parameters (CPU, CUDA, MPS).
        train: `LabelledImages`, or a poisoned set of `Attack.poison`, on any device. A poisoned
            batch is stamped after flip and shift.
        recipe: every setting.
        seed: the order of the images, augmentation and dropout, each from its own stream
            (`streams`). On a CPU in float32 the same seed gives the same bits, for one recipe and
            one number of threads.
        stage: the number of this call in a training of several calls with one seed. Each stage
            draws other random numbers.
        checkpoint: a file that is written after every epoch and removed at the end. If it exists at
            the start, the training continues after its last epoch, to the same bits.

    Returns: one dict an epoch: epoch, loss and accuracy (means over the batches of the epoch, in
        training mode), lr at its end, seconds.

    Raises: `TypeError` for another kind of training set, and for a model that gives no tensor.
        `ValueError` for an empty set, for labels that are not whole numbers or not classes of the
        model, for a model that gives no logits for these images (see `logits`) or was built under
        `torch.inference_mode`, and for the checkpoint of another training. `FloatingPointError` if
        the loss becomes NaN or infinite (the step size is too large).

    The model is left in evaluation mode. PyTorch's global settings are replaced by the usual ones
    during the training.

    >>> from ibau_lite.models import small_cnn
    >>> from ibau_lite.testing import tiny_images
    >>> rows = fit(small_cnn(4, width=2), tiny_images(), Recipe(epochs=2, batch_size=8))
    >>> [row["epoch"] for row in rows]
    [1, 2]
    """
    images, labels, stamp = _parts(train)
    _check(images, labels, recipe.shift)
    _check_model(model, images, labels)
    device, dtype = (first := next(model.parameters())).device, first.dtype
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model.to(memory_format=layout)  # type: ignore[call-overload]
    batch = min(recipe.batch_size, len(images))
    steps = len(images) // batch  # the incomplete last batch is dropped: one shape to compile
    optimizer, schedule = _optimizer(model, recipe, recipe.epochs * steps)
    network = torch.compile(model) if _compiles(recipe, len(images), device) else model
    half = torch.autocast(
        device.type, torch.bfloat16, enabled=precision(recipe, device) == "bfloat16"
    )
    order, moves = (stream(seed, purpose, stage) for purpose in ("order", "augmentation"))
    saved = _Checkpoint(
        checkpoint,
        {"recipe": asdict(recipe), "seed": [int(seed), int(stage), VERSION], "images": len(images)},
        {"model": model, "optimizer": optimizer, "schedule": schedule},
        [order, moves],
        device,
    )

    def step(index: Tensor) -> Tensor:
        """One update on the images at `index`; returns (loss, accuracy) of the batch."""
        x = images[index.to(images.device)].to(device)
        y = labels[index.to(labels.device)].to(device)
        x = augment(x, moves, flip=recipe.flip, shift=recipe.shift)
        if stamp is not None:
            x = stamp(x, index)
        with half:
            logits = network(x.to(dtype).contiguous(memory_format=layout))
        checked(logits, batch)  # in training mode some networks give more than logits
        loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
        return torch.stack([loss.detach(), (logits.argmax(1) == y).float().mean()])

    with _dropout_seeded(derived_seed(seed, "dropout", stage), device), _training_mode(model):
        history = saved.resumed()
        done, total = len(history), recipe.epochs * steps
        bar = tqdm(
            initial=done * steps, total=total, disable=not progress, unit="batch", desc="fit"
        )
        with bar:
            for epoch in range(done, recipe.epochs):
                started = time.perf_counter()
                shuffled = torch.randperm(len(images), generator=order)[: steps * batch]
                rows = torch.stack([step(index) for index in shuffled.split(batch)])
                mean_loss, mean_accuracy = rows.mean(0).tolist()
                if not math.isfinite(mean_loss):
                    raise FloatingPointError(
                        f"the loss became {mean_loss} in epoch {epoch + 1}: "
                        f"lower Recipe.lr (now {recipe.lr})"
                    )
                history.append(
                    {
                        "epoch": epoch + 1,
                        "loss": mean_loss,
                        "accuracy": mean_accuracy,
                        "lr": float(schedule.get_last_lr()[0]),
                        "seconds": time.perf_counter() - started,
                    }
                )
                bar.set_postfix(loss=f"{mean_loss:.3f}", accuracy=f"{mean_accuracy:.3f}")
                if epoch + 1 < recipe.epochs:
                    saved.write(history)
    saved.remove()
    return history


class _Checkpoint:
    """Everything that the rest of a training depends on, in a file that is replaced as a whole."""

    def __init__(
        self,
        path: str | Path | None,
        training: dict[str, Any],
        parts: dict[str, Any],
        generators: list[torch.Generator],
        device: torch.device,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.training, self.parts, self.generators = training, parts, generators
        self.cuda = device if device.type == "cuda" else None

    def write(self, history: list[dict[str, float]]) -> None:
        if self.path is None:
            return
        state = {
            "training": self.training,
            "history": history,
            "generators": [generator.get_state() for generator in self.generators],
            "dropout": torch.get_rng_state(),
            "dropout_cuda": None if self.cuda is None else torch.cuda.get_rng_state(self.cuda),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        with replacing(self.path) as file:
            torch.save(state, file)

    def resumed(self) -> list[dict[str, float]]:
        """Put everything back as it was after the last epoch, and give the history so far."""
        if self.path is None or not self.path.exists():
            return []
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            of = state["training"]
        except Exception:  # whatever a damaged file raises; its own words advise to trust it
            raise ValueError(
                f"{self.path}: not a checkpoint of `fit`, or damaged. Remove it to begin anew"
            ) from None
        if of != self.training:
            raise ValueError(
                f"{self.path}: the checkpoint of another training ({of}); this one is "
                f"{self.training}. Remove the file or name another"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for generator, kept in zip(self.generators, state["generators"], strict=True):
            generator.set_state(kept)
        torch.set_rng_state(state["dropout"])
        if self.cuda is not None and state["dropout_cuda"] is not None:
            torch.cuda.set_rng_state(state["dropout_cuda"], self.cuda)
        history: list[dict[str, float]] = state["history"]
        return history

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _optimizer(
    model: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    total, rise = steps + 1, recipe.warmup
    if rise * total == 1:  # a rise of no step, by which OneCycleLR would divide
        rise += 1e-9
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.lr,
        total_steps=total,
        pct_start=rise,
        cycle_momentum=recipe.momentum > 0,
        base_momentum=max(0.0, round(recipe.momentum - 0.05, 10)),
        max_momentum=min(0.999, round(recipe.momentum + 0.05, 10)),
    )
    return optimizer, schedule


@contextmanager
def _dropout_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators: seed them inside, put the caller's state back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode inside, evaluation mode afterwards, whatever happened."""
    model.train()
    try:
        yield
    finally:
        model.eval()
