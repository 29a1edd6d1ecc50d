"""An attack that is written and read back is its equal, bit for bit; what is broken is refused."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ibau_lite import attacks
from ibau_lite.attacks import (
    Additive,
    AllToOne,
    Attack,
    Overlay,
    Patch,
    Pattern,
    badnets,
    badnets_all_to_all,
    blend,
    control,
    sig,
    wanet,
)

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def dense() -> Attack:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(1, 16, 16, generator=generator) > 0.8).float()
    pattern, delta = torch.rand(2, 3, 16, 16, generator=generator)
    told = json.dumps({"algorithm": "ü", "steps": 3})
    return Attack(
        "dense",
        (
            (Overlay(Pattern.of(mask), Pattern.of(pattern), told), AllToOne(2)),
            (Additive(Pattern.of(0.1 * delta), rescale=True, provenance=told), AllToOne(0)),
            (Patch(((-1, -1), (-2, -3)), ((0.1, 0.2, 0.3), (1 / 3, 0.5, 1.0))), AllToOne(1)),
        ),
    )


@pytest.mark.parametrize(
    "attack",
    [badnets(3), badnets_all_to_all(10), blend(1), sig(2), wanet(4, seed=3), dense()],
    ids=lambda attack: attack.name,
)
def test_what_is_read_back_is_equal_and_stamps_the_same_bits(attack: Attack, tmp_path: Path):
    path = tmp_path / "folder" / "attack.safetensors"
    attacks.save(attack, path)
    back = attacks.load(path)
    assert back == attack and hash(back) == hash(attack)
    assert back.to_dict() == attack.to_dict()  # the provenance as well, which == leaves out
    for (one, _), (two, _) in zip(
        (*attack.pairs, *attack.covers), (*back.pairs, *back.covers), strict=True
    ):
        assert torch.equal(one(IMAGES), two(IMAGES))
    assert list(path.parent.iterdir()) == [path]


def test_a_control_stays_a_control(tmp_path: Path):
    attacks.save(control(badnets(3)), tmp_path / "clean")
    back = attacks.load(tmp_path / "clean")
    assert back == control(badnets(3)) and back != Attack("clean", badnets(3).pairs)


def tampered(tmp_path: Path, change) -> Path:
    """A stored `dense` attack whose tensors and description went through `change`."""
    path = tmp_path / "attack"
    attacks.save(dense(), path)
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        data = json.loads(file.metadata()["ibau_lite_attack"])
    change(tensors, data)
    safetensors.torch.save_file(tensors, path, {"ibau_lite_attack": json.dumps(data)})
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, d: t["1.delta"].mul_(2), "the numbers with digest"),
        (lambda t, d: t.pop("0.mask"), "mask: its numbers are expected"),
        (lambda t, d: d["pairs"][0]["trigger"].update(kind="bell"), "got 'bell'"),
        (lambda t, d: d["pairs"][0]["rule"].update(kind="AllToNone"), "got 'AllToNone'"),
        (lambda t, d: d["pairs"][0]["rule"].update(target=-1), "a class number"),
        (lambda t, d: d.pop("pairs"), "the description of an attack is expected"),
        (lambda t, d: d["pairs"][0].pop("rule"), "the description of an attack is expected"),
        (lambda t, d: d["pairs"][0]["rule"].update(more=1), "the description of an attack is"),
        (lambda t, d: d.update(pairs=None), "the description of an attack is expected"),
        (lambda t, d: d.update(name="../../etc/passwd"), "name: 1 to 100 printable characters"),
        (lambda t, d: d.update(name="\x1b[2J" + 10**6 * "x"), r"got \\x1b\[2Jxx.*…"),
        (lambda t, d: d.update(name=["mine"]), "name: 1 to 100 printable characters"),
        (lambda t, d: d["pairs"][0]["rule"].update(target=10**30), "of at most 63 bits"),
        (lambda t, d: d["pairs"][2]["trigger"].update(cells=[[1e400, -1]]), "OverflowError"),
    ],
)
def test_files_that_were_changed_are_refused(change, says, tmp_path: Path):
    with pytest.raises(ValueError, match=says):
        attacks.load(tampered(tmp_path, change))


def test_truncated_and_foreign_files_are_refused(tmp_path: Path):
    path = tmp_path / "attack"
    attacks.save(dense(), path)
    path.write_bytes(path.read_bytes()[:-5])
    foreign = tmp_path / "weights"
    safetensors.torch.save_file({"w": torch.zeros(2)}, foreign)
    for broken, says in (
        (path, "not a whole safetensors file, or one that was changed"),
        (foreign, r"a whole file of attacks\.save"),
    ):
        with pytest.raises(ValueError, match=says):
            attacks.load(broken)


def test_a_bit_that_changed_on_the_way_is_noticed(tmp_path: Path):
    """In the description as well as in the pictures: another target is another attack."""
    path = tmp_path / "attack"
    attacks.save(dense(), path)
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            attacks.load(path)


def test_one_attack_is_one_file_and_older_files_are_read(tmp_path: Path):
    contents = set()
    for _ in range(20):  # the parts of the metadata used to come in either order
        attacks.save(dense(), tmp_path / "attack")
        contents.add((tmp_path / "attack").read_bytes())
    assert len(contents) == 1
    assert attacks.load(tampered(tmp_path, lambda tensors, data: None)) == dense()  # no digest


def test_only_regular_files_are_read(tmp_path: Path, impatient):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device"), (".", "a folder")):
        with pytest.raises(ValueError, match=f"a regular file is expected, got {kind}"):
            attacks.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        attacks.load(tmp_path / "nothing")


def test_what_nests_too_deep_is_refused_and_not_quoted(tmp_path: Path):
    path = tmp_path / "attack"
    deep = 100_000 * "[" + 100_000 * "]"
    for header in (
        {"ibau_lite_attack": deep},
        {"ibau_lite_attack": json.dumps({"name": "x", "control": False, "pairs": [], "covers": 3})},
    ):
        safetensors.torch.save_file({"w": torch.zeros(2)}, path, header)
        with pytest.raises(ValueError, match=str(path)) as caught:
            attacks.load(path)
        assert len(str(caught.value)) < 1000


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path):
    def identity(images):
        return images

    class Mine(AllToOne):
        pass

    class Red(Patch):
        pass

    for attack in (
        Attack("mine", ((identity, AllToOne(0)),)),
        Attack("mine", ((Red.square(2), AllToOne(0)),)),  # would come back as a plain Patch
        Attack("mine", ((Patch.square(2), Mine(0)),)),
    ):
        with pytest.raises(TypeError, match="cannot be saved"):
            attacks.save(attack, tmp_path / "attack")
    with pytest.raises(ValueError, match="name: 1 to 100 printable"):
        attacks.save(Attack("a/b", badnets(1).pairs), tmp_path / "attack")
    assert not list(tmp_path.iterdir())
