"""Means with their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxviz.core.means import Mean, interval_of_mean


def test_a_mean_leaves_out_what_is_unknown() -> None:
    found = Mean.of([1.0, math.nan, 3.0, 5.0])
    assert (found.value, found.total) == (3.0, 3)
    assert Mean.of([2.0]).interval == ()
    empty = Mean.of([math.nan])
    assert math.isnan(empty.value)
    assert (empty.total, empty.interval) == (0, ())


def test_the_interval_depends_on_no_order_and_moves_with_the_numbers() -> None:
    values = np.random.default_rng(0).normal(size=30)
    low, high = interval_of_mean(values.tolist())  # type: ignore[misc]
    assert interval_of_mean(values[::-1].tolist()) == (low, high)
    assert low < values.mean() < high
    assert interval_of_mean((2 * values + 1).tolist()) == pytest.approx((2 * low + 1, 2 * high + 1))


@pytest.mark.parametrize("count", [10, 24, 500])
def test_the_interval_holds_the_true_mean_about_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(1)
    held = [
        low < 0.7 < high for low, high in (interval_of_mean(random.normal(0.7, 1, count).tolist()) for _ in range(400))
    ]
    assert 0.89 < np.mean(held) < 0.98  # 0.95 but for the error of 400 trials, and of the bootstrap at small counts
