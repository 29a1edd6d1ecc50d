"""The sentence about the source: by contents first, then by what the data says of itself."""

from __future__ import annotations

import dataclasses

import numpy as np

from ibau_lite.data import provenance
from ibau_lite.data.halves import Halves

HALVES = Halves(
    np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), np.array([0, 1, 0, 1]),
    np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([1, 0]), ("a", "b"), "a camera",
)  # fmt: skip


def test_the_source_carries_the_fingerprint() -> None:
    digits = provenance.fingerprint(HALVES)[:12]
    assert provenance.describe(HALVES) == f"a camera, sha256 {digits}"


def test_known_contents_win_over_what_is_said(monkeypatch) -> None:
    monkeypatch.setitem(provenance._KNOWN, provenance.fingerprint(HALVES), "cifar10 (JPEG copy)")
    assert provenance.describe(HALVES).startswith("cifar10 (JPEG copy), sha256 ")


def test_the_fingerprint_changes_with_every_part_and_with_nothing_else() -> None:
    prints = {provenance.fingerprint(HALVES)}
    for name in ("x_train", "y_train", "x_test", "y_test"):
        changed = getattr(HALVES, name).copy()
        changed.flat[-1] ^= 1
        prints.add(provenance.fingerprint(dataclasses.replace(HALVES, **{name: changed})))
    assert len(prints) == 5
    same = dataclasses.replace(
        HALVES, source="another", y_test=HALVES.y_test.astype(np.int32),
        x_train=np.asfortranarray(HALVES.x_train),
    )  # fmt: skip
    assert provenance.fingerprint(same) == provenance.fingerprint(HALVES)


def test_a_stored_source_cannot_break_a_table() -> None:
    said = dataclasses.replace(HALVES, source="one\ntwo\x1b[31m" + "x" * 1000)
    text = provenance.describe(said)
    assert text.isprintable()
    assert text.startswith("onetwo")
    assert len(text) < 240
