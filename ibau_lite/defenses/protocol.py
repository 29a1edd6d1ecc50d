"""What every defence is: a function of a model and a clean set that returns a new model."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ibau_lite.data import Labelled
from ibau_lite.metrics import Report
from ibau_lite.modes import kept_modes

__all__ = [
    "Defended",
    "Defense",
    "Evaluator",
    "answers",
    "check_finite",
    "clean_on_device",
    "configured",
    "hold_out",
    "private_copy",
    "recast",
]

Config = TypeVar("Config")
Arguments = ParamSpec("Arguments")

Evaluator = Callable[[nn.Module], Mapping[str, float] | Report]
"""Measures a model between rounds (say ACC and ASR); its answers go into the history.

A `Report`, as `metrics.evaluate` gives it, becomes `accuracy` and `attack_success_rate`.
"""


@dataclass(frozen=True, eq=False)
class Defended:
    """The result of a defence.

    `model` is a NEW network in evaluation mode; `seconds` the wall time, evaluators excluded;
    `history` one dict a round; `details` what a plot needs (for I-BAU the last δ).
    """

    model: nn.Module = field(repr=False)
    seconds: float
    history: list[dict[str, Any]] = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)


class Defense(Protocol):
    """The protocol of a defence: a model and clean images in, a `Defended` out.

    The model that is given is never changed; `evaluator` is called after each round. Anything that
    meets this protocol works wherever a defence of this library does; no registration is needed.
    """

    def __call__(
        self,
        model: nn.Module,
        clean: Labelled,
        *,
        config: Any = None,
        seed: int = 0,
        progress: bool = False,
        evaluator: Evaluator | None = None,
    ) -> Defended: ...


def recast(defense: Callable[Arguments, Defended]) -> Callable[Arguments, Defended]:
    """Under `torch.autocast`, have the weights cast whenever they are used.

    PyTorch keeps the cast of a parameter until the outermost autocast ends. A defence that runs
    inside one changes parameters, and would go on with the old ones.
    """

    @functools.wraps(defense)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Defended:
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return defense(*args, **kwargs)
        finally:
            torch.set_autocast_cache_enabled(cached)

    return run


def configured(config: Config | None, kind: type[Config]) -> Config:
    """`config`, or the defaults of `kind`; `TypeError` for the settings of something else."""
    if config is None:
        return kind()
    if not isinstance(config, kind):
        raise TypeError(f"config must be a {kind.__name__} or None, got {type(config).__name__}")
    return config


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of the model that a defence may change, in evaluation mode.

    Parameters that require no gradient are frozen: no defence changes them. Raises `TypeError` for
    what is no module, or one that PyTorch cannot call with other parameters; `ValueError` if the
    model has no parameters that are free, one of them all is NaN or infinite, or in float16, in
    which Adam divides by zero; or if it cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a torch.nn.Module is expected, got {type(model).__name__}")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TypeError(f"model: pass {type(model).__name__}'s own network, model.module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model: a scripted network has no Python forward; pass the original")
    parameters = dict(model.named_parameters())
    if not any(p.requires_grad for p in parameters.values()):
        raise ValueError(
            "the model has no parameters that require a gradient: there is nothing to unlearn; "
            "model.requires_grad_(True) frees them all"
        )
    broken = [name for name, p in parameters.items() if not bool(torch.isfinite(p).all())]
    if broken:
        raise ValueError(f"the model's weights are NaN or infinite in {', '.join(broken)}")
    if any(p.dtype == torch.float16 for p in parameters.values()):
        raise ValueError("the model is in float16, too coarse to be trained: pass model.float()")
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied ({error}); a tensor that a forward pass has left in an "
            "attribute is one reason: set it to None"
        ) from error


def clean_on_device(model: nn.Module, clean: Labelled, *, shift: int = 0) -> Labelled:
    """The clean set where the model is, checked at the door.

    Raises `TypeError` for something other than a `Labelled`, `ValueError` for an empty set, images
    too small for `shift`, logits that are NaN or infinite, or labels that the model has no output
    for. Warns if only one class is there, if the model is at chance on it (mislabelled, or
    normalised differently from its training), or if it reads images of one label alike but as
    another (classes numbered differently).
    """
    if not isinstance(clean, Labelled):
        raise TypeError(
            f"clean must be a Labelled(images, labels), got {type(clean).__name__}; "
            "wrap tensors with ibau_lite.data.Labelled"
        )
    if len(clean) == 0:
        raise ValueError("the clean set is empty: every defence needs clean images")
    if shift >= min(clean.images.shape[2:]):
        raise ValueError(
            f"shift must be below the image size {min(clean.images.shape[2:])}, got {shift}"
        )
    moved = clean.to(next(model.parameters()).device)
    with torch.no_grad():
        logits = _outputs(model, moved.images[:200])
    classes = logits.shape[1]
    if int(moved.labels.max()) >= classes:
        raise ValueError(
            f"the clean set has the label {int(moved.labels.max())}, "
            f"but the model has {classes} outputs"
        )
    if len(moved.labels.unique()) == 1 and classes > 1:
        warnings.warn(
            "the clean set holds one class only: the others will be forgotten", stacklevel=4
        )
    if len(moved) >= 50:
        _warn_of_labels(logits.argmax(1), moved.labels[:200], classes)
    return moved


def _warn_of_labels(read: Tensor, labels: Tensor, classes: int) -> None:
    """Compare how often images are read as labelled with how often those of one label are alike.

    Two images of a class are read alike with probability Σ_k q_k², where the q_k are how often it
    is read as k; the root of it is about the accuracy that the right numbers of the classes give.
    """
    accuracy = float((read == labels).float().mean())
    chance = 1 / classes
    counts = labels.new_zeros(classes, classes).index_put_(
        (labels, read), torch.ones_like(labels), accumulate=True
    )
    pairs = int((counts.sum(1) * (counts.sum(1) - 1)).sum())
    alike = (int((counts * (counts - 1)).sum()) / pairs) ** 0.5 if pairs else 0.0
    if accuracy < chance + 0.5 * chance * (1 - chance):
        doubt = "which is chance: wrong labels, or images prepared differently from its training?"
    elif accuracy < 0.8 * alike:
        doubt = (
            f"but images of one label alike, as if it could read {alike:.0%}: are the classes "
            "numbered as in its training?"
        )
    else:
        return
    warnings.warn(
        f"the model reads {accuracy:.0%} of the first clean images as labelled, {doubt}",
        stacklevel=5,
    )


def answers(evaluator: Evaluator | None, model: nn.Module) -> dict[str, float]:
    """What the evaluator says of the model, for the history; nothing without one.

    Each module is in the mode it was in when the evaluator came, whatever that did.
    """
    if evaluator is None:
        return {}
    with kept_modes(model):
        said = evaluator(model)
    if isinstance(said, Report):
        return {key: getattr(said, key) for key in ("accuracy", "attack_success_rate")}
    return dict(said)


def hold_out(
    clean: Labelled, fraction: float, generator: torch.Generator
) -> tuple[Labelled, Labelled]:
    """(what is left to train on, what is held out), drawn at random.

    Raises `ValueError` for a set too small to be split.
    """
    count = max(1, round(fraction * len(clean)))
    if count >= len(clean):
        raise ValueError(
            f"{len(clean)} clean images are too few to hold out {fraction:.0%} of them and train "
            "on the rest"
        )
    order = torch.randperm(len(clean), generator=generator).to(clean.labels.device)
    return clean[order[count:]], clean[order[:count]]


def check_finite(model: nn.Module, when: str, advice: str) -> None:
    """Raise `FloatingPointError` if a parameter became NaN or infinite."""
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        raise FloatingPointError(
            f"{when}: θ became NaN or infinite ({', '.join(broken)}); {advice}"
        )


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images.to(next(model.parameters()).dtype))
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(
            f"the model must map images [N, C, H, W] to logits [N, classes], "
            f"got {shape} for {len(images)} images"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model's logits on the clean images are NaN or infinite")
    return logits
