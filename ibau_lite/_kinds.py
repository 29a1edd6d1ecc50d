"""Settings of the wrong kind, named at the door: lr="1e-3" is no number, epochs=1.5 no count.

Numbers of another library's kinds, as NumPy's, become Python's.
"""

from __future__ import annotations

import dataclasses
from numbers import Integral, Real
from typing import Any

__all__ = ["check_kinds", "check_ranges"]

_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "True or False"),
    "str": (str, "a string"),
    "None": (type(None), "None"),
}


def check_kinds(settings: Any) -> None:
    """Raise `TypeError` for a field of a dataclass that holds something else than it is declared.

    Looked at are fields declared as int, float, bool, str, or one of these or None, in a module
    with `from __future__ import annotations`. A whole number is a number, too; True is neither.
    A number that is not Python's own is put in its place as one: `Tensor.split` and JSON take no
    `numpy.int64`.
    """
    for each in dataclasses.fields(settings):
        declared = str(each.type).split(" | ")
        value = getattr(settings, each.name)
        if not _KINDS.keys() >= set(declared):
            continue
        if isinstance(value, bool):
            fits = "bool" in declared
        else:
            fits = isinstance(value, tuple(_KINDS[name][0] for name in declared))
        if not fits:
            wanted = " or ".join(_KINDS[name][1] for name in declared)
            raise TypeError(f"{each.name} is {wanted}, got {value!r}")
        if isinstance(value, Real) and not isinstance(value, int | float):
            python = int(value) if isinstance(value, Integral) else float(value)
            object.__setattr__(settings, each.name, python)


def check_ranges(settings: Any, **intervals: str) -> None:
    """Raise `ValueError` for a field outside its interval, which is written as in mathematics.

    Of a tuple every number is checked; None is not. NaN lies in no interval.

    >>> from types import SimpleNamespace
    >>> check_ranges(SimpleNamespace(lr=0.1, momentum=1.0), lr="(0, ∞)", momentum="[0, 1)")
    Traceback (most recent call last):
    ValueError: momentum: a number in [0, 1) is expected, got 1.0
    """
    for name, interval in intervals.items():
        low, high = (float(end) for end in interval[1:-1].replace("∞", "inf").split(","))
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            above = number >= low if interval[0] == "[" else number > low
            below = number <= high if interval[-1] == "]" else number < high
            if not (above and below):
                some = "numbers" if isinstance(value, tuple) else "a number"
                verb = "are" if isinstance(value, tuple) else "is"
                raise ValueError(f"{name}: {some} in {interval} {verb} expected, got {value!r}")
