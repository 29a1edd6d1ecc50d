"""The checks themselves: what is sound passes, and each broken promise is named."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import pytest
import torch

from ibau_lite.attacks import Patch
from ibau_lite.defenses import DefenseResult, FineTuningConfig, fine_tuning
from ibau_lite.testing import DEFENSE_CHECKS, TRIGGER_CHECKS, check_defense, check_trigger

BRIEF = FineTuningConfig(epochs=2, batch_size=12)


def test_a_sound_defence_passes():
    check_defense(fine_tuning, config=BRIEF)


def tuned(model, clean, **options) -> DefenseResult:
    return fine_tuning(model, clean, **{**options, "config": BRIEF})


def in_place(model, clean, **options):
    result = tuned(model, clean, **options)
    model.load_state_dict(result.model.state_dict())
    return result


def the_same_module(model, clean, **options):
    model.load_state_dict(tuned(model, clean, **options).model.state_dict())
    return DefenseResult(model.eval(), 1e-9, [{"round": 1, "loss": 1.0}])


def global_draws(model, clean, *, seed=0, **options):
    return tuned(model, clean, seed=int(torch.randint(10**6, ())), **options)


def seedless(model, clean, *, seed=0, **options):
    return tuned(model, clean, seed=0, **options)


def unfrozen(model, clean, **options):
    flags = [p.requires_grad for p in model.parameters()]
    free = copy.deepcopy(model).requires_grad_(any(flags))
    result = tuned(free, clean, **options)
    for p, flag in zip(result.model.parameters(), flags):
        p.requires_grad_(flag)
    return result


def counts_the_evaluator(model, clean, **options):
    started = time.perf_counter()
    return replace(tuned(model, clean, **options), seconds=time.perf_counter() - started)


def deaf(model, clean, *, evaluator=None, **options):
    return tuned(model, clean, **options)


def talks(model, clean, **options):
    print("working")
    return tuned(model, clean, **options)


def trusting(model, clean, **options):
    try:
        return tuned(model, clean, **options)
    except (ValueError, TypeError):
        return DefenseResult(copy.deepcopy(model), 1.0, [])


def tensors_in_the_history(model, clean, **options):
    result = tuned(model, clean, **options)
    rows = [{**row, "loss": torch.tensor(row["loss"])} for row in result.history]
    return replace(result, history=rows)


def half(model, clean, **options):
    result = tuned(model, clean, **options)
    return replace(result, model=result.model.float())


def silent(model, clean, **options):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuned(model, clean, **options)


UNTOUCHED = "the given model and images are untouched"
NEW = "a new model comes out, in evaluation mode"
BITS, SEED = "the same seed gives the same bits", "the seed matters"
EVALUATOR = "the evaluator's answers are kept, its time is not counted"
BAR = "a progress bar only when asked for"


@pytest.mark.parametrize(
    ("defense", "broken"),
    [
        (in_place, {UNTOUCHED, "something changes"}),
        (the_same_module, {UNTOUCHED, NEW, "something changes"}),
        (global_draws, {BITS, EVALUATOR, "the global random state is untouched"}),
        (seedless, {SEED}),
        (unfrozen, {"frozen parameters stay as they are"}),
        (counts_the_evaluator, {EVALUATOR}),
        (deaf, {EVALUATOR}),
        (talks, {BAR}),
        (trusting, {promise for promise in DEFENSE_CHECKS if promise.startswith("refuses")}),
        (tensors_in_the_history, {"a row a round, of plain numbers, and the time it took"}),
        (half, {"a float64 network stays one"}),
        (silent, {promise for promise in DEFENSE_CHECKS if promise.startswith("warns")}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_promise_is_named(defense, broken):
    with pytest.raises(AssertionError) as caught:
        check_defense(defense)
    lines = str(caught.value).splitlines()[1:]
    named = {promise for promise in DEFENSE_CHECKS if any(f"- {promise}:" in k for k in lines)}
    assert named >= broken, str(caught.value)
    assert len(named) <= len(broken) + 2  # one fault may break a promise or two beside it


def test_what_is_excused_is_not_reported():
    check_defense(deaf, excused={EVALUATOR: "known"})


def test_an_excuse_for_something_else():
    with pytest.raises(ValueError, match="none of the promises"):
        check_defense(fine_tuning, config=BRIEF, excused={"it is fast": "no"})


def test_a_sound_trigger_passes():
    check_trigger(Patch.square(3))
    check_trigger(Patch.square(2, value=0.3), shape=(1, 8, 8))


@dataclass(frozen=True)
class Shifted:
    """A careless trigger; each flaw is one of the ways in which one can be wrong."""

    flaw: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.flaw != "trusts" and not (
            images.is_floating_point() and images.ndim == 4 and (images.numel() == 0
                or (images.min() >= 0 and images.max() <= 1))
        ):  # fmt: skip
            raise ValueError("no images")
        if self.flaw == "in place":
            return images.add_(0.3).clamp_(0, 1)
        if self.flaw == "nothing":
            return images.clone()
        stamped = images + 0.3
        if self.flaw == "random":
            stamped = images + 0.3 * torch.rand(())
        if self.flaw == "batch":
            stamped = images + 0.1 + 0.2 * images.mean() if len(images) else images.clone()
        if self.flaw == "single":
            stamped = stamped.float()
        return stamped if self.flaw == "range" else stamped.clamp(0, 1)


@pytest.mark.parametrize(
    ("flaw", "broken"),
    [
        ("range", "gives images of the same shape, kind and range"),
        ("single", "gives images of the same shape, kind and range"),
        ("in place", "leaves its argument as it was"),
        ("nothing", "stamps something"),
        ("random", "gives the same result for the same input"),
        ("batch", "stamps each image by itself"),
        ("trusts", "refuses what are no images in [0, 1]"),
    ],
)
def test_a_flaw_of_a_trigger_is_named(flaw, broken):
    with pytest.raises(AssertionError, match=r"- ") as caught:
        check_trigger(Shifted(flaw))
    assert f"- {broken}:" in str(caught.value)
    check_trigger(Shifted("none"))


def test_a_trigger_without_a_description_or_a_hash():
    class Bare:
        __hash__ = None

        def __call__(self, images):
            return Patch.square(2)(images)

    with pytest.raises(AssertionError) as caught:
        check_trigger(Bare())
    assert "a hashable value" in str(caught.value) and "can be written" in str(caught.value)
    assert {"a hashable value", "can be written to a record"} <= set(TRIGGER_CHECKS)
