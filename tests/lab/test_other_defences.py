from __future__ import annotations

import pytest

from ibau_lab import describe
from ibau_lab.contenders import contender
from ibau_lab.first_run import PROFILES
from ibau_lab.other_defences import TALK, experiment, rows
from ibau_lab.published import table
from ibau_lite.defenses import REGISTRY


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_runs_the_same_defences_and_can_describe_them(profile: str) -> None:
    assert [row.label for row in rows(profile)] == [row.label for row in rows("smoke")]
    assert all(row.defense in REGISTRY and describe(row.config) for row in rows(profile))
    mirrored = {r.label: r.config for r in rows(profile, "cifar10") if r.label != "I-BAU"}
    assert all(config.flip for config in mirrored.values()) and mirrored["NAD"].teacher.flip
    assert not contender("dp", profile, "cifar10").config.flip  # its images carry the trigger


def test_all_that_the_talk_reports_on_has_a_row_or_trains_anew() -> None:
    printed = {entry.defense for name in ("Table 1", "Table 2") for entry in table(name)}
    assert set(TALK.values()) == printed
    assert set(TALK) - {row.label for row in rows("cpu")} == {"no defence", "DP"}


def test_data_that_a_profile_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="cifar10 or gtsrb in profile 'cpu', got 'signs'"):
        experiment("cpu", "signs")
