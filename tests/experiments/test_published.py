from __future__ import annotations

import pytest

from ibau_lite.experiments.published import SECONDS, one_trigger


@pytest.mark.parametrize(
    ("data", "columns", "sum_of_acc", "sum_of_asr", "table"),
    [("cifar10", 8, 589.63, 306.05, "Table 1"), ("gtsrb", 6, 417.05, 275.93, "Table 2")],
)
def test_a_row_has_the_sums_of_the_slide(
    data: str, columns: int, sum_of_acc: float, sum_of_asr: float, table: str
) -> None:
    row = one_trigger(data)
    assert len(row) == len({entry.defense for entry in row}) == columns
    assert sum(entry.accuracy for entry in row) == pytest.approx(sum_of_acc)
    assert sum(entry.attack_success_rate for entry in row) == pytest.approx(sum_of_asr)
    assert {entry.table for entry in row} == {table}


def test_spot_values() -> None:
    cifar10 = {entry.defense: entry for entry in one_trigger("cifar10")}
    gtsrb = {entry.defense: entry for entry in one_trigger("gtsrb")}
    assert (cifar10["I-BAU"].accuracy, cifar10["I-BAU"].attack_success_rate) == (83.35, 12.30)
    assert (gtsrb["no defence"].accuracy, gtsrb["I-BAU"].attack_success_rate) == (97.69, 3.32)
    assert SECONDS["gtsrb"]["TABOR"] == 3529.70


def test_table_6_has_the_sums_of_the_slide() -> None:
    assert sum(SECONDS["cifar10"].values()) == pytest.approx(2034.66)
    assert sum(SECONDS["gtsrb"].values()) == pytest.approx(6037.63)


def test_what_is_not_transcribed_is_refused_with_what_is() -> None:
    with pytest.raises(KeyError, match="signs with badnets is not transcribed; known: cifar10"):
        one_trigger("signs")
