"""Settings of the wrong kind are named; whatever fits passes, NumPy's numbers too."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from ibau_lite._kinds import check_kinds, check_ranges
from ibau_lite.attacks import Blend
from ibau_lite.defenses import (
    IBAU,
    ANPConfig,
    DPConfig,
    FineTuningConfig,
    InnerObjective,
    NADConfig,
)
from ibau_lite.minimax import Ascent
from ibau_lite.sets import L2Ball, LinfBall
from ibau_lite.training import Recipe


@dataclass(frozen=True)
class Some:
    count: int = 1
    rate: float = 0.5
    many: int | None = None
    name: str = ""
    really: bool = False
    other: tuple[int, ...] = ()  # of no kind that is looked at

    def __post_init__(self) -> None:
        check_kinds(self)


def test_what_fits_passes() -> None:
    Some(2, 1, 3, "a", True, (1,))
    Some(np.int64(2), np.float32(0.5), np.int32(1))  # type: ignore[arg-type]
    Some(rate=math.nan, other="?")  # type: ignore[arg-type]


def test_numbers_of_numpy_become_pythons() -> None:
    some = Some(np.int64(2), np.float32(0.5), np.int32(1))  # type: ignore[arg-type]
    assert [type(value) for value in (some.count, some.rate, some.many)] == [int, float, int]
    assert some == Some(2, 0.5, 1)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("count", 1.5, "count is a whole number, got 1.5"),
        ("count", True, "count is a whole number, got True"),
        ("count", None, "count is a whole number, got None"),
        ("rate", "1e-3", "rate is a number, got '1e-3'"),
        ("many", "2", "many is a whole number or None, got '2'"),
        ("name", 3, "name is a string, got 3"),
        ("really", "yes", "really is True or False, got 'yes'"),
        ("really", 1, "really is True or False, got 1"),
    ],
)
def test_what_does_not_is_named(field: str, value: object, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        Some(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: IBAU(lr="1e-3"), "lr is a number"),
        (lambda: InnerObjective(clamp="yes"), "clamp is True or False"),
        (lambda: FineTuningConfig(epochs=1.5), "epochs is a whole number"),
        (lambda: NADConfig(momentum="0.9"), "momentum is a number"),
        (lambda: ANPConfig(threshold="a"), "threshold is a number"),
        (lambda: Recipe(epochs="3"), "epochs is a whole number"),
        (lambda: DPConfig(epochs=1.5), "epochs is a whole number"),
        (lambda: L2Ball("4"), "radius is a number"),
        (lambda: LinfBall("4"), "radius is a number"),
        (lambda: Ascent(2.5), "steps is a whole number"),
        (lambda: Blend("x"), "alpha is a number"),
        (lambda: Blend(True), "alpha is a number"),
    ],
)
def test_settings_of_the_library_are_looked_at(build, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        build()


@pytest.mark.parametrize(
    ("value", "interval", "inside"),
    [
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (0, "(0, 1]", False),
        (1, "(0, 1]", True),
        (1e300, "(0, ∞)", True),
        (math.inf, "(0, ∞)", False),
        (math.nan, "[0, ∞)", False),
        (None, "[1, ∞)", True),
        ((0.5, 1.0), "(0, 1]", True),
        ((0.5, 1.5), "(0, 1]", False),
    ],
)
def test_a_field_lies_in_its_interval_or_is_refused(value, interval: str, inside: bool) -> None:
    settings = SimpleNamespace(rate=value)
    if inside:
        check_ranges(settings, rate=interval)
    else:
        with pytest.raises(
            ValueError, match=f"rate: .*{re.escape(interval)}.*{re.escape(str(value))}"
        ):
            check_ranges(settings, rate=interval)
