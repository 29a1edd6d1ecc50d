"""Streams: no two purposes share numbers, and a batch's share of poison is that of chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ibau_lite import streams
from ibau_lite.attacks import AllToAll, AllToOne, Attack, Patch
from ibau_lite.data import LabelledImages
from ibau_lite.streams import PURPOSES, derived_seed, stream
from ibau_lite.training import Recipe, fit

DETAILS = ((), (0,), (1,), ("badnets",), ("blend",), ("ibau", "held_out"))


def permutations(seed: int) -> dict[tuple, torch.Tensor]:
    """The first permutation that each purpose would draw, the bare seed's and the splits' too."""
    drawn = {
        (purpose, *detail): torch.randperm(200, generator=stream(seed, purpose, *detail))
        for purpose in PURPOSES
        for detail in DETAILS
    }
    drawn[("bare",)] = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    drawn[("split",)] = torch.from_numpy(np.random.default_rng(seed).permutation(200))
    return drawn


def test_no_two_purposes_share_a_permutation():
    drawn = permutations(0) | {(1, *name): order for name, order in permutations(1).items()}
    for (one, first), (other, second) in itertools.combinations(drawn.items(), 2):
        # Two independent permutations agree in one place, on average.
        assert int((first == second).sum()) < 12, (one, other)


@given(st.integers(0, 2**70), st.sampled_from(sorted(PURPOSES)), st.text(max_size=8))
def test_a_stream_depends_on_its_arguments_alone(seed, purpose, detail):
    torch.manual_seed(seed % 1000)
    one = torch.rand(4, generator=stream(seed, purpose, detail))
    assert torch.equal(one, torch.rand(4, generator=stream(seed, purpose, detail)))
    assert not torch.equal(one, torch.rand(4, generator=stream(seed + 1, purpose, detail)))
    assert not torch.equal(one, torch.rand(4, generator=stream(seed, purpose, detail, "more")))


def test_details_are_told_apart_however_they_are_cut():
    assert derived_seed(0, "order", "a", "bc") != derived_seed(0, "order", "ab", "c")
    assert derived_seed(0, "order", "1") == derived_seed(0, "order", 1)


def test_the_numbers_are_those_of_this_version(monkeypatch):
    """If this fails, kept networks mean other seeds: raise `VERSION` and state the new numbers."""
    assert derived_seed(0, "weights") == 1592879419630909787
    before = derived_seed(0, "weights")
    monkeypatch.setattr(streams, "VERSION", streams.VERSION + 1)
    assert derived_seed(0, "weights") != before


@pytest.mark.parametrize(
    ("seed", "purpose", "error", "says"),
    [
        (-1, "order", ValueError, "0 or more"),
        (1.5, "order", TypeError, "whole number"),
        (True, "order", TypeError, "whole number"),
        (None, "order", TypeError, "whole number"),
        (0, "luck", ValueError, "order, augmentation"),
    ],
)
def test_what_is_no_stream_is_refused(seed, purpose, error, says):
    with pytest.raises(error, match=says):
        stream(seed, purpose)


# --- the poison in a training -------------------------------------------------------------------

COUNT, BATCH, EPOCHS, CLASSES = 4000, 100, 3, 10


def trained_batches(attack: Attack, rate: float, seed: int) -> list[list[int]]:
    """How many of each pair's poisoned images each batch of a training holds: [batches][pairs]."""
    generator = torch.Generator().manual_seed(99)
    train = LabelledImages(
        torch.rand(COUNT, 1, 8, 8, generator=generator),
        torch.randint(CLASSES, (COUNT,), generator=generator),
    )
    poisoned = attack.poison(train, rate, seed)
    pair_of = torch.full((COUNT,), -1)
    pair_of[poisoned.indices] = poisoned.pair
    seen: list[list[int]] = []

    class Watched:
        base, labels = poisoned.base, poisoned.labels

        @staticmethod
        def stamp(images, index):
            counts = torch.bincount(pair_of[index] + 1, minlength=len(attack.pairs) + 1)
            seen.append(counts[1:].tolist())
            return images

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, CLASSES))
    fit(network, Watched(), Recipe(epochs=EPOCHS, batch_size=BATCH, lr=1e-3), seed=seed)
    return seen


ATTACKS = {
    "one target": (Attack("one", ((Patch.square(2), AllToOne(8)),)), 0.2),
    "all to all": (Attack("all", ((Patch.square(2), AllToAll(CLASSES)),)), 0.2),
    "seven": (
        Attack("seven", tuple((Patch.square(k + 1, margin=0), AllToOne(k)) for k in range(7))),
        0.35,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_batch_of_each_epoch_has_its_share_of_poison(name, seed):
    """The counts in batches are those of draws without replacement: mean exact, variance near.

    For B of N images, of which P are poisoned, the variance is B p (1 − p) (N − B) / (N − 1).
    """
    attack, rate = ATTACKS[name]
    counts = torch.tensor(trained_batches(attack, rate, seed), dtype=torch.float64)
    batches = COUNT // BATCH
    by_epoch = counts.view(EPOCHS, batches, len(attack.pairs))
    share = rate / len(attack.pairs)
    variance = BATCH * share * (1 - share) * (COUNT - BATCH) / (COUNT - 1)
    for epoch in by_epoch:
        assert torch.equal(epoch.sum(0), by_epoch[0].sum(0))  # each image once an epoch
        assert torch.allclose(epoch.mean(0), torch.tensor(BATCH * share, dtype=torch.float64))
        for pair in epoch.T:
            assert float((pair - BATCH * share).abs().max()) < 5 * variance**0.5
            ratio = float(pair.var()) / variance  # 40 batches: a relative deviation of 0.23
            assert 0.35 < ratio < 2.2
    assert not torch.equal(by_epoch[0], by_epoch[1])


def test_attacks_of_one_seed_poison_other_images():
    generator = torch.Generator().manual_seed(1)
    train = LabelledImages(torch.rand(1000, 1, 8, 8, generator=generator), torch.arange(1000) % 10)
    rule = AllToOne(8)
    drawn = [
        set(Attack(name, ((Patch.square(2), rule),)).poison(train, 0.2).indices.tolist())
        for name in ("badnets", "blend")
    ]
    common = len(drawn[0] & drawn[1])  # of 900 eligible 200 are drawn: 44 in common by chance
    assert 25 < common < 65
