"""Means of measured numbers with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxviz.core.shares import LEVEL

_RESAMPLES = 4000


@dataclass(frozen=True)
class Mean:
    """A mean of so many numbers.

    Attributes:
        value: NaN of nothing.
        total: how many numbers it is of.
        interval: where the true mean lies with a confidence of `LEVEL`; empty for fewer than two numbers.
    """

    value: float
    total: int
    interval: tuple[float, float] | tuple[()]

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return the mean of the numbers that are none of them NaN; those that are NaN are left out."""
        known = sorted(value for value in values if not math.isnan(value))
        if not known:
            return cls(math.nan, 0, ())
        return cls(math.fsum(known) / len(known), len(known), bootstrap(known))


def bootstrap(values: Sequence[float]) -> tuple[float, float] | tuple[()]:
    """Return the percentile bootstrap interval of a mean, always of the same resamples; empty for fewer than two.

    Efron and Tibshirani 1993, chapter 13; widened by sqrt(n / (n - 1)), without which it is too narrow for small n
    (Hesterberg 2015, The American Statistician 69, 371, section 4.1).
    """
    numbers = np.sort(np.asarray(values, np.float64))  # the same interval in whatever order they come
    count = len(numbers)
    if count < 2:
        return ()
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    centre = float(numbers.mean())
    spread = (weights @ numbers / count - centre) * math.sqrt(count / (count - 1))
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return centre + float(low), centre + float(high)
