"""Similarities of maps beside scipy's, and a loop over windows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxviz.analyses.attribution.map_similarity import rank_correlation, relative_change, structural_similarity

RANDOM = np.random.default_rng(0)


def test_rank_correlation_is_scipys_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    first = RANDOM.normal(size=(9, 12)).round(1)
    second = (first + RANDOM.normal(size=(9, 12))).round(0)
    wanted = stats.spearmanr(np.abs(first).ravel(), np.abs(second).ravel())[0]
    assert rank_correlation(first, second) == pytest.approx(wanted, abs=1e-12)
    assert rank_correlation(first, -3 * first) == pytest.approx(1)


def test_a_blank_map_is_like_none() -> None:
    assert rank_correlation(np.zeros((3, 3)), np.arange(9.0).reshape(3, 3)) == 0
    assert math.isnan(rank_correlation(np.zeros((3, 3)), np.ones((3, 3))))
    assert math.isnan(structural_similarity(np.zeros((9, 9)), np.ones((9, 9))))
    assert math.isnan(structural_similarity(np.zeros((6, 9)), RANDOM.random((6, 9))))
    assert math.isnan(relative_change(np.zeros((3, 3)), np.ones((3, 3))))


def test_structural_similarity_is_that_of_a_loop_over_windows() -> None:
    first, second = RANDOM.normal(size=(2, 11, 14))
    one, other = (np.abs(each) / np.abs(each).max() for each in (first, second))
    span = max(one.max(), other.max()) - min(one.min(), other.min())
    found = []
    for row in range(5):
        for column in range(8):
            x, y = (each[row : row + 7, column : column + 7].ravel() for each in (one, other))
            shared = np.cov(x, y)  # unbiased
            top = (2 * x.mean() * y.mean() + (0.01 * span) ** 2) * (2 * shared[0, 1] + (0.03 * span) ** 2)
            below = (x.mean() ** 2 + y.mean() ** 2 + (0.01 * span) ** 2) * (
                shared[0, 0] + shared[1, 1] + (0.03 * span) ** 2
            )
            found.append(top / below)
    assert structural_similarity(first, second) == pytest.approx(np.mean(found), abs=1e-10)
    assert structural_similarity(first, -5 * first) == pytest.approx(1)


def test_relative_change_is_a_ratio_of_lengths() -> None:
    assert relative_change(np.array([[3.0, 4.0]]), np.array([[3.0, 9.0]])) == pytest.approx(1)
