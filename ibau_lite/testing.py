"""Does a defence, or a trigger, keep its promises? Checks for third-party code and assignments.

    from ibau_lite.testing import check_defense, check_trigger
    check_defense(my_defense, config=MyConfig(epochs=2))
    check_trigger(my_trigger)

Each promise of `defenses.Defense` and `attacks.Trigger` is one check with a name. To run each check
as a test of its own, pass the names to pytest::

    @pytest.mark.parametrize("promise", DEFENSE_CHECKS)
    def test_my_defense(promise):
        DEFENSE_CHECKS[promise](Subject(my_defense, MyConfig(epochs=2)))
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from ibau_lite import models
from ibau_lite.data import LabelledImages
from ibau_lite.defenses import Defense, DefenseResult
from ibau_lite.training import Recipe, fit

__all__ = [
    "DEFENSE_CHECKS",
    "TRIGGER_CHECKS",
    "Subject",
    "check_defense",
    "check_trigger",
    "tiny_images",
    "tiny_network",
]

CLASSES, SIZE = 4, 8


@dataclass(frozen=True)
class Subject:
    """The defence that is checked, and the configuration of every call (None: its own default).

    Choose settings that finish in a blink: the checks call the defence about twenty times, on
    networks that read 8×8 images of four classes.
    """

    defense: Defense
    config: Any = None

    def run(self, model: nn.Module, clean: Any, **options: Any) -> DefenseResult:
        """Call the defence without its warnings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.defense(model, clean, config=self.config, **options)


Trigger = Callable[[Tensor], Tensor]
DEFENSE_CHECKS: dict[str, Callable[[Subject], None]] = {}
"""What `check_defense` checks: the promise in words → a function that raises `AssertionError`."""

TRIGGER_CHECKS: dict[str, Callable[[Trigger, tuple[int, int, int]], None]] = {}
"""What `check_trigger` checks, by the promise in words."""


def check_defense(
    defense: Defense, *, config: Any = None, excused: Mapping[str, str] | None = None
) -> None:
    """Check every promise of `defenses.Defense`; report all broken promises, not only the first.

    `config` should make the defence quick (see `Subject`). `excused` maps promises that this
    defence does not make to the reason, such as {"the seed matters": "nothing is drawn"}. Raises
    `AssertionError` with one line for each broken promise, and `ValueError` for an excuse that is
    not one of `DEFENSE_CHECKS`.
    """
    subject = Subject(defense, config)
    _report(
        {name: functools.partial(check, subject) for name, check in DEFENSE_CHECKS.items()},
        excused or {},
    )


def check_trigger(
    trigger: Trigger,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    excused: Mapping[str, str] | None = None,
) -> None:
    """Check every promise of `attacks.Trigger` on random images of `shape` (C, H, W).

    Raises as `check_defense` does; `excused` has the same form.

    >>> from ibau_lite.attacks import Patch
    >>> check_trigger(Patch.square(4))
    """
    _report(
        {name: functools.partial(check, trigger, shape) for name, check in TRIGGER_CHECKS.items()},
        excused or {},
    )


def tiny_images(count: int = 24, seed: int = 0) -> LabelledImages:
    """Noise [count, 3, 8, 8] with one bright band of two rows, whose height is the class (of 4).

    >>> tiny_images(8).labels.tolist()
    [0, 1, 2, 3, 0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(seed)
    images = 0.4 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
    labels = torch.arange(count) % CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2] += 0.5
    return LabelledImages(images, labels)


def tiny_network() -> nn.Module:
    """A trained `small_cnn` that reads `tiny_images`; a fresh copy each time."""
    return copy.deepcopy(_trained())


@functools.lru_cache(maxsize=1)
def _trained() -> nn.Module:
    model, data = models.small_cnn(CLASSES, width=4), tiny_images(128, seed=1)
    fit(model, data, Recipe(epochs=3, batch_size=16, lr=0.05))
    return model.eval()


def _report(checks: Mapping[str, Callable[[], None]], excused: Mapping[str, str]) -> None:
    unknown = sorted(set(excused) - set(checks))
    if unknown:
        raise ValueError(f"excused: {unknown} are none of the promises {sorted(checks)}")
    broken = []
    for name, check in checks.items():
        if name not in excused:
            try:
                check()
            except Exception as error:  # a check that crashes is a promise broken as well
                broken.append(f"- {name}: {type(error).__name__}: {error}")
    if broken:
        raise AssertionError("\n".join([f"{len(broken)} of {len(checks)} are broken:", *broken]))


def _promises(registry: dict[str, Any], name: str) -> Callable[[Any], Any]:
    def keep(check: Any) -> Any:
        registry[name] = check
        return check

    return keep


_defense = functools.partial(_promises, DEFENSE_CHECKS)
_trigger = functools.partial(_promises, TRIGGER_CHECKS)


# --- defences -----------------------------------------------------------------------------------


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _settings(model: nn.Module) -> list[Any]:
    """Everything about a model that a defence must leave alone, apart from the numbers."""
    parameters = [
        (name, p.requires_grad, p.grad, p.device, p.dtype) for name, p in model.named_parameters()
    ]
    return [parameters, [(name, module.training) for name, module in model.named_modules()]]


@_defense("the given model and images are untouched")
def _untouched(subject: Subject) -> None:
    for training in (False, True):
        model = tiny_network().train(training)
        list(model.children())[1].eval()  # flags that differ from module to module
        next(model.parameters()).requires_grad_(False)
        clean = tiny_images()
        before = _weights(model), _settings(model), clean.images.clone(), clean.labels.clone()
        subject.run(model, clean)
        assert _same(_weights(model), before[0]), "the weights of the given model changed: copy it"
        assert _settings(model) == before[1], (
            "requires_grad, a gradient, or the mode of a module of the given model changed"
        )
        kept = torch.equal(clean.images, before[2]) and torch.equal(clean.labels, before[3])
        assert kept, "the clean images or labels changed"


@_defense("a new model comes out, in evaluation mode")
def _new_model(subject: Subject) -> None:
    model = tiny_network().train()
    result = subject.run(model, tiny_images()).model
    assert isinstance(result, nn.Module), f"model: a Module is expected, got {type(result)}"
    assert not any(m.training for m in result.modules()), "the result is in training mode: eval()"
    memory = {p.data_ptr() for p in itertools.chain(model.parameters(), model.buffers())}
    shared = [n for n, p in result.named_parameters() if p.data_ptr() in memory]
    assert not shared, f"the result shares memory with the given model: {shared}"
    left = [n for n, p in result.named_parameters() if p.grad is not None]
    assert not left, f"gradients are left on the result: {left}"


@_defense("something changes")
def _something_changes(subject: Subject) -> None:
    model = tiny_network()
    result = subject.run(model, tiny_images())
    assert not _same(_weights(result.model), _weights(model)), "the result has the given weights"


@_defense("frozen parameters stay as they are")
def _frozen(subject: Subject) -> None:
    model = tiny_network()
    parts = list(model.children())
    for module in (*parts[:2], parts[13]):  # the first convolution, its normalisation, the last one
        module.requires_grad_(False)
    result = dict(subject.run(model, tiny_images()).model.named_parameters())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, result[name]), f"{name} was frozen and has changed"
        assert result[name].requires_grad == parameter.requires_grad, f"{name}: requires_grad"


@_defense("the same seed gives the same bits")
def _same_bits(subject: Subject) -> None:
    runs = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        runs.append(subject.run(tiny_network(), tiny_images(), seed=7))
    assert _same(_weights(runs[0].model), _weights(runs[1].model)), (
        "two runs with one seed gave other weights: draw from torch.Generator().manual_seed(seed)"
    )
    assert runs[0].history == runs[1].history, "two runs with one seed gave other histories"


@_defense("the seed matters")
def _seed_matters(subject: Subject) -> None:
    one, other = (subject.run(tiny_network(), tiny_images(), seed=seed).model for seed in (7, 8))
    assert not _same(_weights(one), _weights(other)), "seeds 7 and 8 gave the same weights"


@_defense("the global random state is untouched")
def _random_state(subject: Subject) -> None:
    before = torch.get_rng_state()
    subject.run(tiny_network(), tiny_images())
    assert torch.equal(torch.get_rng_state(), before), (
        "torch's global random state moved: draw from a torch.Generator of your own"
    )


@_defense("a row a round, of plain numbers, and the time it took")
def _rows(subject: Subject) -> None:
    started = time.perf_counter()
    result = subject.run(tiny_network(), tiny_images())
    spent = time.perf_counter() - started
    assert 0 < result.seconds <= spent, f"seconds: {result.seconds}, but it took {spent:.3g}"
    assert result.history, "the history is empty"
    for row in result.history:
        odd = {key: value for key, value in row.items() if not isinstance(value, (int, float))}
        assert not odd, f"history: plain numbers are expected, got {odd}"
        assert row.keys() == result.history[0].keys(), "the rows of the history differ in keys"
    rounds = [row.get("round") for row in result.history]
    assert rounds == list(range(1, len(rounds) + 1)), f"history: rounds 1, 2, …, got {rounds}"
    assert isinstance(result.details, dict), f"details: a dict is expected, got {result.details}"


@contextlib.contextmanager
def _clock() -> Iterator[Callable[[float], None]]:
    """A function that puts `time.perf_counter` and `time.time` forward by so many seconds."""
    ahead = 0.0
    kept = {name: getattr(time, name) for name in ("perf_counter", "time")}

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    try:
        for name, tell in kept.items():
            setattr(time, name, lambda tell=tell: tell() + ahead)
        yield forward
    finally:
        for name, tell in kept.items():
            setattr(time, name, tell)


@_defense("the evaluator's answers are kept, its time is not counted")
def _evaluator(subject: Subject) -> None:
    seen: list[dict[str, Tensor]] = []
    hour = 3600.0

    def evaluator(network: nn.Module) -> dict[str, float]:
        forward(hour)
        assert not network.training, "the evaluator is given a network in training mode"
        seen.append(_weights(network))
        network.train()  # as careless ones leave it
        for tensor in network.state_dict().values():
            tensor.zero_()
        return {"my_accuracy": len(seen) / 10}

    with _clock() as forward:
        result = subject.run(tiny_network(), tiny_images(), evaluator=evaluator)
    before = len(seen) - len(result.history)
    assert before in (0, 1), "the evaluator is to be called once a round, and once before the first"
    assert result.seconds < hour, "seconds include the evaluator's"
    answers = [row.get("my_accuracy") for row in result.history]
    wanted = [(k + 1) / 10 for k in range(before, len(seen))]
    assert answers == wanted, f"the history holds {answers}"
    assert _same(seen[-1], _weights(result.model)), (
        "the last round's network is not the result: give the evaluator a copy, it may change it"
    )
    assert not any(m.training for m in result.model.modules()), (
        "an evaluator left the network in training mode, and so it came out: give it a copy"
    )
    blind = subject.run(tiny_network(), tiny_images())
    assert _same(_weights(blind.model), seen[-1]), "looking changes the result"


@_defense("a progress bar only when asked for")
def _bar(subject: Subject) -> None:
    said = []
    for progress in (False, True):
        with (
            contextlib.redirect_stderr(io.StringIO()) as err,
            contextlib.redirect_stdout(io.StringIO()) as out,
        ):
            subject.run(tiny_network(), tiny_images(), progress=progress)
        said.append((out.getvalue(), err.getvalue()))
    assert said[0] == ("", ""), f"without progress nothing is printed; this was: {said[0]}"
    assert "100%" in said[1][1], "with progress=True a tqdm bar is expected on stderr"


@_defense("five images are enough")
def _few_images(subject: Subject) -> None:
    result = subject.run(tiny_network(), tiny_images()[:5])
    _assert_finite(result.model)


@_defense("networks with group normalisation, and residual ones")
def _other_networks(subject: Subject) -> None:
    for build in (_group_normalised, _residual):
        model = build().eval()
        result = subject.run(model, tiny_images()[:8])
        _assert_finite(result.model)
        assert result.model(tiny_images().images[:2]).shape == (2, CLASSES)


@_defense("a float64 network stays one")
def _double(subject: Subject) -> None:
    result = subject.run(tiny_network().double(), tiny_images()).model
    kinds = {p.dtype for p in result.parameters()}
    assert kinds == {torch.float64}, f"parameters of a float64 network came back as {kinds}"
    _assert_finite(result)


def _group_normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ELU(), nn.Flatten(), nn.Linear(144, CLASSES)
    )


def _residual() -> nn.Module:
    return models.ResNet((1, 1), CLASSES, 3)


def _assert_finite(model: nn.Module) -> None:
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    assert not broken, f"NaN or infinite weights came out: {broken}"


def _refuses(
    subject: Subject, kind: type[Exception], what: str, model: nn.Module, clean: object
) -> None:
    try:
        subject.run(model, clean)
    except kind as error:
        assert str(error), f"{what}: the {kind.__name__} says nothing"
    except Exception as error:
        raise AssertionError(f"{what}: {kind.__name__} is expected, got {error!r}") from error
    else:
        raise AssertionError(f"{what}: {kind.__name__} is expected, nothing was raised")


@_defense("refuses an empty clean set")
def _empty(subject: Subject) -> None:
    _refuses(subject, ValueError, "no clean images", tiny_network(), tiny_images()[:0])


@_defense("refuses what is no LabelledImages")
def _no_labelled(subject: Subject) -> None:
    pair = (tiny_images().images, tiny_images().labels)
    _refuses(subject, TypeError, "a tuple as the clean set", tiny_network(), pair)


@_defense("refuses labels that the model has no output for")
def _labels_beyond(subject: Subject) -> None:
    wrong = LabelledImages(tiny_images().images, tiny_images().labels + 1)
    _refuses(subject, ValueError, "a label 4 for 4 outputs", tiny_network(), wrong)


@_defense("refuses weights and statistics that are no numbers")
def _not_numbers(subject: Subject) -> None:
    for value in (math.nan, math.inf):
        model = tiny_network()
        weight = next(model.parameters()).data
        weight[(0,) * weight.ndim] = value
        _refuses(subject, ValueError, f"a weight {value}", model, tiny_images())
    model = tiny_network()
    next(model.buffers())[0] = math.nan
    _refuses(subject, ValueError, "a running mean NaN", model, tiny_images())


@_defense("refuses a model without anything to change")
def _all_frozen(subject: Subject) -> None:
    for model in (tiny_network().requires_grad_(False), nn.Flatten()):
        _refuses(subject, ValueError, "no parameter requires a gradient", model, tiny_images())


@_defense("refuses a model that is no classifier")
def _no_classifier(subject: Subject) -> None:
    _refuses(subject, ValueError, "outputs [N, 2, 8, 8]", nn.Conv2d(3, 2, 1), tiny_images())


@_defense("warns if the clean set holds one class")
def _one_class(subject: Subject) -> None:
    clean = tiny_images()
    assert _warns(subject, clean[clean.labels == 2]), "one class only: a UserWarning is expected"


@_defense("warns if the labels are no better than chance")
def _chance(subject: Subject) -> None:
    assert not _warns(subject, tiny_images()), "a UserWarning on sound images, which is chatter"
    clean = tiny_images(72)
    wrong = LabelledImages(clean.images, (clean.labels + 1) % CLASSES)
    assert _warns(subject, wrong), "all labels wrong: a UserWarning is expected"


def _warns(subject: Subject, clean: LabelledImages) -> bool:
    """Whether a plain `UserWarning` was given; a solver's own kind speaks of something else.

    The defence is not run beyond it.
    """

    def hear(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning:
            raise _HeardError

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = hear  # `catch_warnings` puts it back
        try:
            subject.defense(tiny_network(), clean, config=subject.config)
        except _HeardError:
            return True
    return False


class _HeardError(Exception):
    """The warning that a check waits for."""


# --- triggers -----------------------------------------------------------------------------------


def _images(shape: tuple[int, int, int], count: int = 5) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


@_trigger("a hashable value")
def _hashable(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    assert hash(trigger) == hash(trigger), "the hash changes"
    assert trigger == copy.deepcopy(trigger), (
        "a copy is not equal to the original: make the trigger a frozen dataclass of plain values"
    )


@_trigger("gives images of the same shape, kind and range")
def _same_kind(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    for dtype in (torch.float32, torch.float64):
        images = _images(shape).to(dtype)
        stamped = trigger(images)
        assert stamped.shape == images.shape, f"{list(images.shape)} became {list(stamped.shape)}"
        assert stamped.dtype == dtype, f"{dtype} became {stamped.dtype}"
        low, high = (float(bound) for bound in stamped.aminmax())
        assert low >= 0 and high <= 1, f"values in [0, 1] are expected, got {low:g} to {high:g}"


@_trigger("leaves its argument as it was")
def _argument(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    images = _images(shape)
    before = images.clone()
    stamped = trigger(images)
    assert torch.equal(images, before), "the images that were given changed: clone them"
    assert stamped.data_ptr() != images.data_ptr(), "the result shares memory with the argument"


@_trigger("stamps something")
def _stamps(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    images = _images(shape)
    changed = (trigger(images) != images).flatten(1).any(1)
    assert bool(changed.all()), "an image came back as it was"


@_trigger("gives the same result for the same input")
def _deterministic(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        results.append(trigger(_images(shape)))
        assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
    assert torch.equal(*results), "two calls gave two results"


@_trigger("stamps each image by itself")
def _each_by_itself(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    images = _images(shape)
    alone = torch.cat([trigger(image[None]) for image in images])
    together = trigger(images)
    assert torch.allclose(alone, together, rtol=0, atol=1e-6), "the others in a batch matter"
    assert len(trigger(images[:0])) == 0, "no images should give no images"


@_trigger("refuses what are no images in [0, 1]")
def _refuses_images(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    wrong: Collection[tuple[str, Tensor]] = (
        ("values up to 255", 255 * _images(shape)),
        ("values below 0", _images(shape) - 0.5),
        ("NaN", _images(shape) * math.nan),
        ("one image without its batch axis", _images(shape)[0]),
        ("bytes", (255 * _images(shape)).byte()),
    )
    for what, images in wrong:
        try:
            trigger(images)
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"{what}: ValueError or TypeError is expected, nothing was raised")


@_trigger("can be written to a record")
def _record(trigger: Trigger, shape: tuple[int, int, int]) -> None:
    to_dict = getattr(trigger, "to_dict", None)
    if to_dict is None:
        assert "0x" not in repr(trigger), (
            f"{trigger!r} is known by its address only: a frozen dataclass has a repr that says "
            "what it is, or give it to_dict()"
        )
    else:
        json.dumps(to_dict())
