"""Attacks as files: safetensors for the pictures, JSON metadata for everything else."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import safetensors
import safetensors.torch
from torch import Tensor

from ibau_lite.attacks.blend import Blend
from ibau_lite.attacks.control import Control
from ibau_lite.attacks.dense import Additive, Overlay
from ibau_lite.attacks.poisoning import AllToAll, AllToOne, Attack, CleanLabel, Relabelling
from ibau_lite.attacks.sinusoid import Sinusoid
from ibau_lite.attacks.triggers import Patch, Trigger
from ibau_lite.attacks.warping import Warp

_KEY = "ibau_lite_attack"

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

    Raises `TypeError`, before anything is written, for a trigger or a label rule that is not in
    `TRIGGERS` or `RULES`.
    """
    tensors: dict[str, Tensor] = {}
    for number, (trigger, _) in enumerate((*attack.pairs, *attack.covers)):
        parts = _numbers(trigger)
        tensors |= {f"{number}.{name}": value.contiguous() for name, value in parts.items()}
    data = {
        "name": attack.name,
        "control": isinstance(attack, Control),
        "pairs": [{"trigger": _trigger_data(t), "rule": _rule_data(r)} for t, r in attack.pairs],
        "covers": [{"trigger": _trigger_data(t), "ratio": ratio} for t, ratio in attack.covers],
    }
    header = {_KEY: json.dumps(data)}
    content = safetensors.torch.save(tensors, header)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)  # whoever reads sees a whole file
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Attack:
    """Read back what `save` wrote, bit for bit.

    Raises `ValueError` for a file that is truncated or holds no attack, for a kind of trigger or
    rule that is not known, and where the numbers do not have the digest that the metadata state.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data = json.loads(metadata[_KEY])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: a whole file of attacks.save is expected ({error}); write it again"
        ) from error
    try:
        return _built(data, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: the description of an attack is expected ({error})") from error


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
    return (Control if data["control"] else Attack)(data["name"], pairs, covers)


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
            f"trigger: a kind among {', '.join(TRIGGERS)} is expected, got {data.get('kind')!r}"
        )
    return TRIGGERS[data["kind"]](data, tensors)


def _rule(data: dict[str, Any]) -> Relabelling:
    if data.get("kind") not in RULES:
        raise ValueError(
            f"rule: a kind among {', '.join(RULES)} is expected, got {data.get('kind')!r}"
        )
    rule: Relabelling = RULES[data["kind"]](**{k: v for k, v in data.items() if k != "kind"})
    return rule
