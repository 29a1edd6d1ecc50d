"""Attacks as files: safetensors for the pictures, JSON metadata for everything else."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ibau_lite import tensor_files
from ibau_lite.attacks._blend import Blend
from ibau_lite.attacks._control import Control
from ibau_lite.attacks.dense import Additive, Overlay
from ibau_lite.attacks.poisoning import AllToAll, AllToOne, Attack, CleanLabel, Relabelling
from ibau_lite.attacks.sinusoid import Sinusoid
from ibau_lite.attacks.triggers import Patch, Trigger
from ibau_lite.attacks.warping import Warp
from ibau_lite.files import Refused, read_regular, refusing, replacing, shown

_KEY = "ibau_lite_attack"
_MOST_BYTES = 64 * 2**20
_MOST_TENSORS = 256

TRIGGERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Trigger]] = {
    "patch": lambda data, tensors: Patch.from_dict(data),
    "blend": Blend.from_dict,
    "overlay": Overlay.from_dict,
    "additive": Additive.from_dict,
    "sinusoid": Sinusoid.from_dict,
    "warp": Warp.from_dict,
}
"""How a trigger of each kind is read back from its `to_dict` and `tensors`; add your own here."""

RULES: dict[str, type] = {rule.__name__: rule for rule in (AllToOne, AllToAll, CleanLabel)}
"""The label rules that can be read back, dataclasses by name; add your own here."""


def save(attack: Attack, path: str | os.PathLike[str]) -> None:
    """Write an attack to a safetensors file, entirely or not at all; `load` gives its equal back.

    Equal attacks give equal bytes, among them a SHA-256 of all the others.

    Raises `TypeError`, before anything is written, for a trigger or a label rule that is not in
    `TRIGGERS` or `RULES`; `ValueError` for a name that `load` does not take and for an attack of
    more than 64 MiB, 256 pictures, or 2 MiB of description.
    """
    tensors: dict[str, Tensor] = {}
    for number, (trigger, _) in enumerate((*attack.pairs, *attack.covers)):
        parts = _numbers(trigger)
        tensors |= {f"{number}.{name}": value.contiguous() for name, value in parts.items()}
    data = {
        "name": _name(attack.name),
        "control": isinstance(attack, Control),
        "pairs": [{"trigger": _trigger_data(t), "rule": _rule_data(r)} for t, r in attack.pairs],
        "covers": [{"trigger": _trigger_data(t), "ratio": ratio} for t, ratio in attack.covers],
    }
    content = tensor_files.pack(tensors, _KEY, json.dumps(data))
    if len(content) > _MOST_BYTES or len(tensors) > _MOST_TENSORS:
        raise ValueError(
            f"{shown(attack.name)}: at most {_MOST_BYTES:,} bytes and {_MOST_TENSORS} pictures are "
            f"expected, got {len(content):,} and {len(tensors)}"
        )
    with replacing(path) as file:
        file.write(content)


def load(path: str | os.PathLike[str]) -> Attack:
    """Read back what `save` wrote, bit for bit.

    Read is a regular file of at most 64 MiB, of which the description has at most 2 MiB; so at most
    300 MiB of memory are taken.

    Raises `ValueError` for a file that is truncated, larger or holds no attack, for a kind of
    trigger or rule that is not known, for a name that is not 1 to 100 printable characters that a
    file name may have, and where the bytes or the numbers do not have the digest that the metadata
    state. `FileNotFoundError` as usual.
    """
    content = read_regular(path, _MOST_BYTES)
    with refusing(path, "a whole file of attacks.save is expected; write it again"):
        tensors, metadata = tensor_files.unpack(content, _KEY, _MOST_TENSORS)
        if _KEY not in metadata:
            raise Refused("a whole file of attacks.save is expected, and this one holds no attack")
        data = json.loads(metadata[_KEY], parse_int=_whole)
    with refusing(path, "the description of an attack is expected"):
        return _built(data, tensors)


def _built(data: dict[str, Any], tensors: dict[str, Tensor]) -> Attack:
    triggers = []
    for number, entry in enumerate((*data["pairs"], *data["covers"])):
        prefix = f"{number}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        triggers.append(_trigger(entry["trigger"], own))
    rules = [_rule(pair["rule"]) for pair in data["pairs"]]
    ratios = [cover["ratio"] for cover in data["covers"]]
    pairs = tuple(zip(triggers[: len(rules)], rules, strict=True))
    covers = tuple(zip(triggers[len(rules) :], ratios, strict=True))
    attack = (Control if data["control"] else Attack)(_name(data["name"]), pairs, covers)
    hash(attack)  # a list among its settings would fail later
    return attack


def _whole(digits: str) -> int:
    """A whole number that a tensor can hold; class numbers, positions and seeds are such."""
    number = int(digits)
    if abs(number) >= 2**63:
        raise Refused(f"whole numbers of at most 63 bits are expected, got {shown(digits)}")
    return number


def _name(name: Any) -> str:
    """Names of attacks become parts of messages and of file names."""
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set('/\\:*?"<>|')
    if not plain or not 1 <= len(name) <= 100 or name.startswith("."):
        raise ValueError(
            "name: 1 to 100 printable characters that a file name may have are expected, "
            f"got {shown(name)}"
        )
    return str(name)


def _numbers(trigger: Trigger) -> dict[str, Tensor]:
    numbers: dict[str, Tensor] = trigger.tensors() if hasattr(trigger, "tensors") else {}
    return numbers


def _trigger_data(trigger: Trigger) -> dict[str, Any]:
    data = trigger.to_dict() if hasattr(trigger, "to_dict") else {}
    if data.get("kind") not in TRIGGERS:
        raise TypeError(
            f"{trigger!r} cannot be saved: a to_dict() with a kind among {', '.join(TRIGGERS)} is "
            "expected (add yours to attacks.storage.TRIGGERS)"
        )
    if type(_trigger(data, _numbers(trigger))) is not type(trigger):
        raise TypeError(
            f"{trigger!r} cannot be saved: a subclass needs a kind of its own in to_dict() and in "
            "attacks.storage.TRIGGERS"
        )
    return data


def _rule_data(rule: Relabelling) -> dict[str, Any]:
    kind = type(rule).__name__
    if RULES.get(kind) is not type(rule):
        raise TypeError(
            f"{rule!r} cannot be saved: one of {', '.join(RULES)} is expected (add yours to "
            "attacks.storage.RULES)"
        )
    fields = dataclasses.fields(rule)  # type: ignore[arg-type]
    return {"kind": kind, **{field.name: getattr(rule, field.name) for field in fields}}


def _trigger(data: dict[str, Any], tensors: dict[str, Tensor]) -> Trigger:
    if data.get("kind") not in TRIGGERS:
        raise ValueError(
            f"trigger: a kind among {', '.join(TRIGGERS)} is expected, "
            f"got '{shown(data.get('kind'))}'"
        )
    return TRIGGERS[data["kind"]](data, tensors)


def _rule(data: dict[str, Any]) -> Relabelling:
    if data.get("kind") not in RULES:
        raise ValueError(
            f"rule: a kind among {', '.join(RULES)} is expected, got '{shown(data.get('kind'))}'"
        )
    rule: Relabelling = RULES[data["kind"]](**{k: v for k, v in data.items() if k != "kind"})
    return rule
