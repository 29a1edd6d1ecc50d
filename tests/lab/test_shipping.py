"""A shipped network arrives with its attack, or is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from ibau_lab.shipping import ship
from ibau_lite.attacks import badnets, control
from ibau_lite.models import small_cnn
from ibau_lite.zoo import SUMS, load_attack, load_from, names


def test_what_was_shipped_arrives_rounded_to_float16(tmp_path: Path) -> None:
    model, attack = small_cnn(4, width=2, seed=1), control(badnets(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ship(model, attack, tmp_path, "net", {"seed": 1})
    received = load_from(tmp_path, "net", small_cnn(4, width=2))
    assert received.attack == attack and received.metadata == {"seed": 1}
    assert not received.model.training
    for name, value in received.model.state_dict().items():
        rounded = before[name].half().float() if before[name].is_floating_point() else before[name]
        assert torch.equal(value, rounded), name
        assert torch.equal(model.state_dict()[name], before[name]), name


def test_digests_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    for name in ("one", "two", "one"):
        ship(small_cnn(4, width=2), badnets(2), tmp_path, name)
    lines = (tmp_path / SUMS).read_text("utf-8").splitlines()
    assert len(lines) == 4
    assert names(tmp_path) == {"one", "two"} and names(tmp_path / "empty") == frozenset()
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=tmp_path, check=True)


def test_files_that_were_changed_or_never_shipped_are_refused(tmp_path: Path) -> None:
    weights, _ = ship(small_cnn(4, width=2), badnets(2), tmp_path, "net")
    with pytest.raises(FileNotFoundError, match="there are net"):
        load_from(tmp_path, "other", small_cnn(4, width=2))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="not the file that"):
        load_from(tmp_path, "net", small_cnn(4, width=2))
    assert load_attack(tmp_path, "net") == badnets(2)  # its own file is untouched
    with pytest.raises(FileNotFoundError, match="no networks"):
        load_from(tmp_path / "empty", "net", small_cnn(4, width=2))


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = small_cnn(4, width=2)
    with torch.no_grad():
        model[1].running_var.fill_(1e6)
    with pytest.raises(ValueError, match="finite weights"):
        ship(model, badnets(2), tmp_path, "net")
    assert not list(tmp_path.iterdir())
