"""Pairs of runs with and without the indirect term."""

from __future__ import annotations

import pytest

from ibau_lab import indirect


def record(player: str, term: str, asr: float, acc: float, network: int = 0) -> dict:
    return {
        "defense": f"{player}, {term}",
        "seed": 4,
        "settings": {"victim": {"seed": network}},
        "after": {"attack_success_rate": asr, "accuracy": acc},
    }


def test_a_pair_is_subtracted_and_half_a_pair_is_left_out():
    found = indirect.differences(
        [
            record("eight steps on H", "naive", 0.30, 0.90),
            record("eight steps on H", "indirect", 0.10, 0.92),
            record("eight steps on H", "naive", 0.30, 0.90, network=1),
        ]
    )
    (row,) = found.to_dict("records")
    assert (row["player"], row["network"], row["seed"]) == ("eight steps on H", 0, 4)
    assert row["ASR"] == pytest.approx(-20) and row["ACC"] == pytest.approx(2)
    assert row["naive ASR"] == pytest.approx(30)
    assert list(indirect.differences([]).columns) == list(found.columns)


def test_the_interval_is_that_of_the_mean():
    mean, half = indirect.interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and half == pytest.approx(1.96 * (5 / 3) ** 0.5 / 2)
    assert indirect.interval([7.0]) == (7.0, 0.0)


def test_the_players_differ_in_the_inner_problem_alone():
    assert all(settings.indirect is not None for settings in indirect.PLAYERS.values())
    poor, good, _ = indirect.PLAYERS.values()
    assert poor.search.climb.steps == 1 and good.search.climb.steps == 8
    assert poor.sets == good.sets and poor.rounds == good.rounds
