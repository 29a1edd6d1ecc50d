r"""DP: train anew on the poisoned images, so privately that no few of them decide anything.

DP-SGD clips the gradient of each image to norm C and adds noise,

.. math:: \theta \leftarrow \theta - \frac{\eta}{B} \Big( \sum_{i \in \text{batch}}
          \frac{g_i}{\max(1, \|g_i\|_2 / C)} + \mathcal N(0, \sigma^2 C^2 I) \Big),

which makes the network (ε, δ)-differentially private: one image more or less hardly changes the
result. A backdoor rests on many images, so the guarantee covers it only in part.
Source: Abadi et al., *Deep Learning with Differential Privacy*, CCS 2016. As a defence: Du, Jia,
Song, *Robust Anomaly Detection and Backdoor Attack Detection via Differential Privacy*, ICLR 2020.
"""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.data import LabelledImages
from ibau_lite.logits import checked, read
from ibau_lite.protocol import Outcome, Run, check_finite, defense
from ibau_lite.streams import derived_seed, stream
from ibau_lite.training import augment

__all__ = ["DPConfig", "dp", "with_group_norm"]


@dataclass(frozen=True)
class DPConfig:
    """Settings of `dp`: DP-SGD with a constant step and momentum.

    `noise` is σ and `clip` is C. `delta` is the δ at which ε is reported. `batch_size` is the
    expected size of a batch: each image takes part with probability batch_size / N, as the
    accounting requires. The gradients of `chunk` images are held at a time; this affects memory
    only. `private=False` trains the same network from the same weights without clipping or noise (ε
    = ∞). It shows what the change of architecture costs.
    """

    epochs: int = 20
    batch_size: int = 256
    lr: float = 0.5
    momentum: float = 0.9
    noise: float = 1.0
    clip: float = 1.0
    delta: float = 1e-5
    chunk: int = 128
    private: bool = True
    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        check_ranges(
            self, epochs="[1, ∞)", batch_size="[1, ∞)", chunk="[1, ∞)", lr="(0, ∞)",
            momentum="[0, 1)", noise="(0, ∞)", clip="(0, ∞)", delta="(0, 1)", shift="[0, ∞)",
        )  # fmt: skip


@defense(DPConfig)
def dp(
    model: nn.Module,
    clean: LabelledImages,
    config: DPConfig,
    run: Run,
    *,
    train: LabelledImages | None = None,
) -> Outcome:
    """Train the architecture of `model` from scratch on `train`, the poisoned set, by DP-SGD.

    No weight is kept, and the clean images are only checked. This is what a defender can do who
    trains the network herself. Batch normalisation, which mixes images, becomes group
    normalisation. `functools.partial(dp, train=…)` meets the protocol of a defence. The history has
    one row an epoch: loss, and epsilon so far. `details` holds epsilon and delta.

    Raises as `ibau` does. Raises `ValueError` if `train` is missing or does not fit, and
    `ImportError` without Opacus (the extra `dp`), unless `config.private` is false.

    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> config = DPConfig(epochs=1, batch_size=12, private=False)
    >>> dp(tiny_network(), tiny_images(), config=config, train=tiny_images()).details["epsilon"]
    inf
    """
    if train is None:
        raise ValueError(
            "dp trains from scratch and needs the (poisoned) training set: "
            "dp(model, clean, train=LabelledImages(poisoned.images, poisoned.labels))"
        )
    untrained = with_group_norm(model, run.seed)
    train = _checked(train, clean, model)
    fresh = copy.deepcopy(untrained)
    device = clean.images.device
    rate = min(1.0, config.batch_size / len(train))
    descend, spent = _optimiser(fresh, config, rate, len(train), run.seed)
    history: list[dict[str, Any]] = []
    for epoch in tqdm(range(config.epochs), disable=not run.progress, desc="DP-SGD"):
        losses = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derived_seed(run.seed, "dropout", "dp", epoch))
            for index in _poisson(len(train), rate, run.generator):
                index = index.to(device)
                images = augment(
                    train.images[index], run.generator, flip=config.flip, shift=config.shift
                )
                losses.append(descend(images, train.labels[index]))
        loss = float(torch.stack(losses).nanmean())  # an empty batch has none
        check_finite(fresh, f"epoch {epoch + 1}", "lower lr")
        row = {"round": epoch + 1, "loss": loss, "epsilon": spent()}
        history.append(row | run.evaluate(_plain(fresh, untrained)))
    details = {"epsilon": history[-1]["epsilon"], "delta": config.delta}
    return _plain(fresh, untrained), history, details


def with_group_norm(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of the architecture with new weights and no normalisation over images.

    `BatchNorm2d(C)` becomes `GroupNorm(g, C)`. Our g is the largest divisor of C up to 8 that
    leaves four channels to a group. Weights are drawn from `seed` by the `reset_parameters` of each
    module; all of them are trainable. Buffers stay. They are taken for constants, such as the mean
    and deviation of a normalisation; a warning names those that may be more.

    Raises `ValueError` for another layer that mixes images. Raises it, too, for parameters that no
    module draws anew (a class token, a layer's scale, the parts of a weight under `weight_norm`),
    because they would carry what the attacker put there.

    >>> with_group_norm(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)))[1]
    GroupNorm(4, 16, ...)
    """
    fresh = copy.deepcopy(model)
    for name, module in list(fresh.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, leaf = name.rpartition(".")
            channels = module.num_features
            groups = max(g for g in range(1, 9) if channels % g == 0 and 4 * g <= max(4, channels))
            like = module.weight if module.affine else next(fresh.parameters())
            norm = nn.GroupNorm(groups, channels, device=like.device, dtype=like.dtype)
            setattr(fresh.get_submodule(parent), leaf, norm)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{name} is a {type(module).__name__}: only BatchNorm2d is replaced")
    for parameter in fresh.parameters():
        parameter.data.fill_(math.nan)  # what is a number afterwards has been drawn
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, "weights", "dp"))
        for module in fresh.modules():
            _reset_on_cpu(module)
    kept = [name for name, p in fresh.named_parameters() if bool(p.isnan().any())]
    if kept:
        raise ValueError(
            f"dp must draw all weights anew, and no module says how for {', '.join(kept)}: give "
            "the module that owns them a method reset_parameters() (take a parametrisation, as "
            "weight_norm, off first: torch.nn.utils.parametrize.remove_parametrizations)"
        )
    constants = [n for n, b in fresh.named_buffers() if b.is_floating_point()]
    if constants:
        warnings.warn(
            f"dp keeps the buffers {', '.join(constants)} as constants; if they were learnt, "
            "build the model anew: they may carry what the attacker put there",
            stacklevel=4,
        )
    return fresh.requires_grad_(True).eval()


def _reset_on_cpu(module: nn.Module) -> None:
    """Draw on the CPU whatever the device, so that the same seed gives the same weights."""
    names = ("reset_parameters", "_reset_parameters")  # the second is PyTorch's attention's
    reset = next((name for name in names if hasattr(module, name)), None)
    if reset is None:
        return
    home = next((p.device for p in module.parameters(recurse=False)), torch.device("cpu"))
    getattr(module.to("cpu"), reset)()
    module.to(home)


def _checked(train: LabelledImages, clean: LabelledImages, model: nn.Module) -> LabelledImages:
    if not isinstance(train, LabelledImages):
        raise TypeError(f"train must be LabelledImages(images, labels), got {type(train).__name__}")
    if len(train) == 0 or train.images.shape[1:] != clean.images.shape[1:]:
        raise ValueError(
            f"train: images of the shape {list(clean.images.shape[1:])} are expected, "
            f"got {list(train.images.shape)}"
        )
    train = train.to(clean.images.device)
    with torch.no_grad():
        classes = read(model, train.images[:1]).shape[1]
    if int(train.labels.max()) >= classes:
        raise ValueError(
            f"train has the label {int(train.labels.max())}, but the model has {classes} outputs"
        )
    return train


def _poisson(count: int, rate: float, generator: torch.Generator) -> Iterator[Tensor]:
    """The batches of one pass: each holds each image with probability `rate`; it may be empty."""
    for _ in range(round(1 / rate)):
        yield (torch.rand(count, generator=generator) < rate).nonzero().flatten()


def _optimiser(
    model: nn.Module, config: DPConfig, rate: float, count: int, seed: int
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], float]]:
    """`(descend, spent)`: a step on a batch that returns its loss, and the ε spent so far."""
    sgd = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    dtype, expected = next(model.parameters()).dtype, max(1, round(rate * count))
    if not config.private:

        def plainly(images: Tensor, labels: Tensor) -> Tensor:
            if not len(images):
                return torch.tensor(math.nan)
            sgd.zero_grad(set_to_none=True)
            model.train()
            logits = checked(model(images.to(dtype)), len(images))  # others than in evaluation?
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            sgd.step()
            model.eval()
            return loss.detach().cpu()

        return plainly, lambda: math.inf

    opacus = _opacus()
    wrapped = opacus.GradSampleModule(model)
    noise = stream(seed, "defense", "dp", "noise", device=next(model.parameters()).device)
    private = opacus.optimizers.DPOptimizer(
        sgd,
        noise_multiplier=config.noise,
        max_grad_norm=config.clip,
        expected_batch_size=expected,
        generator=noise,
    )
    accountant = opacus.accountants.RDPAccountant()

    def privately(images: Tensor, labels: Tensor) -> Tensor:
        wrapped.train()
        total = torch.zeros(())
        parts = images.to(dtype).split(config.chunk)
        part_labels = labels.split(config.chunk)
        for part, (some, their_labels) in enumerate(zip(parts, part_labels, strict=True), start=1):
            private.zero_grad(set_to_none=True)
            if len(some):
                loss = F.cross_entropy(checked(wrapped(some), len(some)), their_labels)
                with warnings.catch_warnings():  # images need no gradient, and that is all it says
                    warnings.filterwarnings("ignore", message="Full backward hook is firing")
                    loss.backward()
                total += len(some) * loss.detach().cpu()
            else:  # the noise is added all the same
                for parameter in model.parameters():
                    none = parameter.new_zeros((0, *parameter.shape))
                    vars(parameter)["grad_sample"] = none
            private.signal_skip_step(do_skip=part < len(parts))  # clipped and added up until then
            private.step()
        accountant.step(noise_multiplier=config.noise, sample_rate=rate)
        wrapped.eval()
        return total / len(images)

    return privately, lambda: float(accountant.get_epsilon(config.delta))


def _opacus() -> Any:
    try:
        opacus = importlib.import_module("opacus")
        importlib.import_module("opacus.accountants")
        importlib.import_module("opacus.optimizers")
    except ImportError as error:
        raise ImportError(
            'private training needs Opacus: pip install "ibau_lite[dp]"; '
            "without it, DPConfig(private=False) trains the same network without privacy"
        ) from error
    return opacus


def _plain(trained: nn.Module, untrained: nn.Module) -> nn.Module:
    """The trained weights in a network without Opacus' hooks and per-image gradients."""
    plain = copy.deepcopy(untrained)
    plain.load_state_dict(trained.state_dict())
    return plain
