"""How alike two maps of the same image are."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_WINDOW = 7
"""Rows and columns of the window that the structural similarity is computed in."""

Map = npt.NDArray[np.floating]


def rank_correlation(first: Map, second: Map) -> float:
    """Return Spearman's correlation of the absolute values of two maps, equal ones sharing their mean rank.

    As Adebayo et al. 2018 (Sanity checks for saliency maps), "rank correlation with absolute value".

    Returns:
        In -1..1. 0 where one of the maps is the same everywhere, NaN where both are: nothing can be compared.
    """
    ranks = [_ranks(np.abs(each).ravel()) for each in (first, second)]
    centred = [each - each.mean() for each in ranks]
    lengths = [float(np.sqrt(each @ each)) for each in centred]
    if not any(lengths):
        return math.nan
    return float(centred[0] @ centred[1]) / (lengths[0] * lengths[1]) if all(lengths) else 0.0


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], np.float64)


def structural_similarity(first: Map, second: Map) -> float:
    """Return the mean structural similarity of the absolute values of two maps, each divided by its own maximum.

    Wang et al. 2004 (Image quality assessment), equation 13, with even windows of 7 × 7 and unbiased variances, as
    scikit-image computes it by default; windows that do not fit whole are left out.

    Returns:
        At most 1; NaN of maps with fewer than 7 rows or columns, and where both are the same everywhere.
    """
    if min(first.shape) < _WINDOW:
        return math.nan
    one, other = (np.abs(each).astype(np.float64) for each in (first, second))
    if not np.ptp(one) and not np.ptp(other):
        return math.nan
    one, other = (each / (each.max() or 1.0) for each in (one, other))
    span = max(one.max(), other.max()) - min(one.min(), other.min())
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    mean, to = _window_means(one), _window_means(other)
    variances = [unbiased * (_window_means(each * each) - _window_means(each) ** 2) for each in (one, other)]
    shared = unbiased * (_window_means(one * other) - mean * to)
    small, less = (0.01 * span) ** 2, (0.03 * span) ** 2
    alike = (2 * mean * to + small) * (2 * shared + less)
    return float((alike / ((mean**2 + to**2 + small) * (variances[0] + variances[1] + less))).mean())


def _window_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, _WINDOW, axis=axis)
        values = windows.mean(axis=-1)
    return values


def relative_change(first: Map, second: Map) -> float:
    """Return how far the second map is from the first, as a part of the first's length; NaN where that is 0.

    The numerator and denominator of Max-Sensitivity (Yeh et al. 2019), with Frobenius norms.
    """
    length = float(np.linalg.norm(first.astype(np.float64)))
    return float(np.linalg.norm(second.astype(np.float64) - first)) / length if length else math.nan
