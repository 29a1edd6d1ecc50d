"""Median absolute deviations against numpy, and what they say in corner cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibau_lite.defenses.outliers import anomaly_index, left_anomaly_index, small_outliers

SIZES = st.lists(st.floats(1, 1000).map(lambda x: round(x, 3)), min_size=3, max_size=12)


@settings(deadline=None)
@given(SIZES)
def test_the_index_is_numpys(values):
    sizes = np.array(values)
    away = np.abs(sizes - np.median(sizes))
    mad = 1.4826 * np.median(away)
    ours = anomaly_index(torch.tensor(values, dtype=torch.float64)).numpy()
    if mad > 1e-9:
        np.testing.assert_allclose(ours, away / mad, rtol=1e-9, atol=1e-9)
    assert (ours >= 0).all() and (ours[away == 0] == 0).all()


@settings(deadline=None)
@given(SIZES)
def test_the_left_index_knows_only_sizes_up_to_the_median(values):
    sizes = torch.tensor(values, dtype=torch.float64)
    index, median = left_anomaly_index(sizes), float(np.median(values))
    assert (index[sizes > median] == 0).all()
    stretched = torch.where(sizes > median, sizes + 100, sizes)  # what lies above changes nothing
    if len(values) % 2:  # an even number of sizes has its median between two
        torch.testing.assert_close(left_anomaly_index(stretched), index)


def test_one_small_size_among_many():
    sizes = torch.tensor([50.0, 52.0, 12.0, 47.0, 55.0, 300.0])
    index = anomaly_index(sizes)
    assert small_outliers(sizes, index).tolist() == [2]  # 300 is an outlier on the other side
    assert index[5] > 2
    assert small_outliers(sizes, index, threshold=float(index[2]) + 1).tolist() == []


def test_equal_sizes_with_one_exception():
    sizes = torch.tensor([64.0, 64.0, 64.0, 3.0, 64.0])
    assert anomaly_index(sizes).tolist() == [0, 0, 0, float("inf"), 0]
    assert small_outliers(sizes, anomaly_index(sizes)).tolist() == [3]
    assert anomaly_index(torch.full((4,), 7.0)).tolist() == [0] * 4


@pytest.mark.parametrize("sizes", [[1.0, 2.0], [1.0, 2.0, float("inf")], [[1.0, 2.0, 3.0]]])
def test_too_few_sizes_or_none_that_is_a_number(sizes):
    for index in (anomaly_index, left_anomaly_index):
        with pytest.raises(ValueError, match="at least 3 finite"):
            index(torch.tensor(sizes))
