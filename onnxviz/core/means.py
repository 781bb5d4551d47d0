"""Means of measured numbers with their intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from onnxviz.core.shares import LEVEL

_RESAMPLES = 4000
_MANY = 400
"""From so many numbers on a mean is as good as normally distributed, and resamples would take memory for nothing."""


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

    def span(self, write: Callable[[float], str] = "{:.3f}".format) -> str:
        """Return the interval in words, "0.1 to 0.3"; "" where there is none."""
        return " to ".join(write(end).replace("-", "−") for end in self.interval)

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return the mean of the numbers that are none of them NaN; those that are NaN are left out."""
        known = sorted(value for value in values if not math.isnan(value))
        if not known:
            return cls(math.nan, 0, ())
        return cls(math.fsum(known) / len(known), len(known), interval_of_mean(known))


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | tuple[()]:
    """Return between what a mean lies with a confidence of `LEVEL`; empty for fewer than two numbers.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13), always of the same resamples, widened by
    sqrt(n / (n - 1)), without which it is too narrow for small n (Hesterberg 2015, The American Statistician 69, 371,
    section 4.1); for `_MANY` numbers and more the normal distribution's.
    """
    numbers = np.sort(np.asarray(values, np.float64))  # the same interval in whatever order they come
    count = len(numbers)
    if count < 2:
        return ()
    centre = float(numbers.mean())
    if count >= _MANY:
        reach = NormalDist().inv_cdf(0.5 + LEVEL / 2) * float(numbers.std(ddof=1)) / math.sqrt(count)
        return centre - reach, centre + reach
    spread = (_resamples(count) @ numbers - centre) * math.sqrt(count / (count - 1))
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return centre + float(low), centre + float(high)


@functools.lru_cache(maxsize=4)
def _resamples(count: int) -> npt.NDArray[np.float64]:
    """Return the weight of each of so many numbers in each resample's mean, [resamples, count]."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    return drawn / count
