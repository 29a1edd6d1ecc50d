"""What every defence is: a function of a model and a clean set that returns a new model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ibau_lite._modes import usual_settings
from ibau_lite.data import LabelledImages
from ibau_lite.door import clean_on_device, private_copy, stored_values
from ibau_lite.metrics import Report
from ibau_lite.streams import stream

__all__ = [
    "Defense",
    "DefenseResult",
    "Evaluator",
    "Outcome",
    "Run",
    "check_finite",
    "configured",
    "defense",
    "hold_out",
]

Config = TypeVar("Config")
History = list[dict[str, Any]]
Details = dict[str, Any]
Outcome = tuple[nn.Module, History, Details]
"""What an algorithm gives back to `defense`: the new model, the history, the details."""

Evaluator = Callable[[nn.Module], Mapping[str, float] | Report]
"""Measures a model (say its ACC and ASR); it is handed a copy, in evaluation mode.

It is called once before the first round, so that one that does not work fails at once, and after
each round. A `Report`, as `metrics.evaluate` gives it, becomes `accuracy` and
`attack_success_rate`.
"""


@dataclass(frozen=True, eq=False)
class DefenseResult:
    """The result of a defence.

    `model` is a NEW network in evaluation mode. `seconds` is the wall time of the call without the
    evaluator. `history` is one dict a round, with what the evaluator returned. `details` holds what
    a plot needs (for I-BAU the last δ) and, under "before", what the evaluator returned for the
    given model.
    """

    model: nn.Module = field(repr=False)
    seconds: float
    history: History = field(repr=False)
    details: Details = field(default_factory=dict, repr=False)


class Defense(Protocol):
    """The protocol of a defence: a model and clean images in, a `DefenseResult` out.

    The given model is never changed. `evaluator` is called after each round. Anything that meets
    this protocol works wherever a defence of this library does; no registration is needed. The
    decorator `defense` makes one out of an algorithm.
    """

    def __call__(
        self,
        model: nn.Module,
        clean: LabelledImages,
        *,
        config: Any = None,
        seed: int = 0,
        progress: bool = False,
        evaluator: Evaluator | None = None,
    ) -> DefenseResult: ...


class Run:
    """One call of a defence: its seed, its clock and its evaluator."""

    def __init__(
        self, name: str, model: nn.Module, seed: int, progress: bool, evaluator: Evaluator | None
    ) -> None:
        self.name, self.seed, self.progress = name, seed, progress
        self._evaluator, self._model = evaluator, model
        self._given = {
            (id(space), key): (space[key], copy.copy(space[key]))
            for space, key in stored_values(model)
        }
        self._started, self._away = time.perf_counter(), 0.0

    @cached_property
    def generator(self) -> torch.Generator:
        """The stream of random numbers of this defence and seed, on the CPU."""
        return stream(self.seed, "defense", self.name)

    @property
    def seconds(self) -> float:
        """Wall time since the call, without the evaluator's."""
        return time.perf_counter() - self._started - self._away

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """What the evaluator returns for a copy of the model; an empty dict without an evaluator.

        Raises `TypeError` if it returns neither a `Report` nor a dict of numbers.
        """
        if self._evaluator is None:
            return {}
        began = time.perf_counter()
        self.tidy()
        numbers = _numbers(self._evaluator(copy.deepcopy(model).eval()))
        self._away += time.perf_counter() - began
        return numbers

    def tidy(self) -> None:
        """Give the modules back the values they had at the start, without those of a forward pass.

        A value that hangs on a graph would make the model impossible to copy. A tensor that was
        there from the start keeps its new value, such as the weight that `weight_norm` computes.
        """
        for space, key in list(stored_values(self._model)):
            now = space.pop(key)
            if (id(space), key) in self._given:
                before, contents = self._given[id(space), key]
                if isinstance(before, list):
                    before[:] = contents
                elif isinstance(before, dict):
                    before.clear()
                    before.update(contents)
                still = isinstance(before, Tensor) and isinstance(now, Tensor)
                space[key] = now.detach() if still else before


def defense(
    kind: type[Any], *, name: str | None = None
) -> Callable[[Callable[..., Outcome]], Callable[..., DefenseResult]]:
    """Make a `Defense` of an algorithm: the decorator does what all of them have in common.

    The algorithm is a function `(model, clean, config, run)` that returns (model, history,
    details). It may use its arguments as they are. The model is its own copy, in evaluation mode.
    The clean set is on the model's device and checked (`clean_on_device`). The config is of class
    `kind`. From the `Run` it draws its random numbers, and it gives the `Run` the model after each
    round. It runs with PyTorch's usual settings, whatever the caller's are. Further keyword options
    reach it as they are. `name` is that of its random stream and progress bar (default: the name of
    the function).

    Before the first round, the defence raises `TypeError` for a config that is not of exactly this
    class (a subclass has settings that would be ignored), and what `private_copy`,
    `clean_on_device` and the evaluator raise.

    >>> from dataclasses import dataclass
    >>> from ibau_lite.testing import tiny_images, tiny_network
    >>> @dataclass(frozen=True)
    ... class Shrink:
    ...     factor: float = 0.9
    >>> @defense(Shrink)
    ... def shrink(model, clean, config, run):
    ...     for weight in model.parameters():
    ...         weight.data *= config.factor
    ...     return model, [{"round": 1, **run.evaluate(model)}], {}
    >>> shrink(tiny_network(), tiny_images(), config=Shrink(0.5)).history
    [{'round': 1}]
    """

    def decorate(algorithm: Callable[..., Outcome]) -> Callable[..., DefenseResult]:
        def defended(
            model: nn.Module,
            clean: LabelledImages,
            *,
            config: Any = None,
            seed: int = 0,
            progress: bool = False,
            evaluator: Evaluator | None = None,
            **options: Any,
        ) -> DefenseResult:
            with usual_settings(), _casting_anew():
                config = configured(config, kind)
                model = private_copy(model)
                run = Run(name or algorithm.__name__, model, seed, progress, evaluator)
                clean = clean_on_device(model, clean, shift=getattr(config, "shift", 0))
                before = {} if evaluator is None else {"before": run.evaluate(model)}
                run.tidy()  # the door has read images
                new, history, details = algorithm(model, clean, config, run, **options)
                run.tidy()
                return DefenseResult(new.eval(), run.seconds, history, details | before)

        for part in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(defended, part, getattr(algorithm, part))
        return defended

    return decorate


def configured(config: Config | None, kind: type[Config]) -> Config:
    """`config`, or the defaults of `kind`; `TypeError` for another class, a subclass included."""
    if config is None:
        return kind()
    if type(config) is not kind:
        raise TypeError(f"config must be a {kind.__name__} or None, got {type(config).__name__}")
    return config


def hold_out(
    clean: LabelledImages, fraction: float, generator: torch.Generator
) -> tuple[LabelledImages, LabelledImages]:
    """Split a clean set at random into (what is left to train on, what is held out).

    Raises `ValueError` for a set that is too small to be split.
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


def _numbers(answer: object) -> dict[str, float]:
    if isinstance(answer, Report):
        answer = {key: getattr(answer, key) for key in ("accuracy", "attack_success_rate")}
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"evaluator: a dict of numbers or a Report is expected, got {type(answer).__name__}"
        )
    numbers: dict[str, float] = {}
    for key, value in answer.items():
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(value, Real):
            raise TypeError(f"evaluator: {key!r} is to be a number, got {value!r}")
        numbers[str(key)] = int(value) if isinstance(value, Integral) else float(value)
    return numbers


@contextmanager
def _casting_anew() -> Iterator[None]:
    """Under `torch.autocast`, have the weights cast whenever they are used.

    PyTorch keeps the cast of a parameter until the outermost autocast ends. A defence that runs
    inside one changes parameters, and would go on with the old ones.
    """
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
