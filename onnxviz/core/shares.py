"""Shares of counts with their intervals, and whether two shares on the same things differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
"""Confidence level of every interval that is reported."""
_FLIPS = 9999


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    count: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total:
            raise ValueError(f"{self.count} of {self.total} is no share")

    @property
    def value(self) -> float:
        """The share in 0..1; NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of confidence `LEVEL` (`wilson`)."""
        return wilson(self.count, self.total)

    def __str__(self) -> str:
        """Write as "70.0 % (14 of 20; 48 to 85 %)"."""
        if not self.total:
            return "unknown (0 of 0)"
        low, high = (percent(end) for end in self.interval)
        span = f"{low.removesuffix('%')} to {high}"
        return f"{percent(self.value, 1)} ({self.count:,} of {self.total:,}; {span})".replace("%", " %")


def percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage that is 0 only of nothing and 100 only of all: "<1%", ">99%".

    Args:
        share: in 0..1.
        digits: after the point.
    """
    text, step = f"{share:.{digits}%}", 10.0**-digits
    if share > 0 and not float(text[:-1]):
        return f"<{step:.{digits}f}%"
    return f">{100 - step:.{digits}f}%" if share < 1 and float(text[:-1]) == 100 else text


def wilson(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the score interval of a share.

    Wilson 1927, J. Am. Stat. Assoc. 22, 209: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        count: how many have the property, from 0 to `total`.
        total: how many there are.
        level: confidence, above 0 and below 1.

    Returns:
        Lower and upper end in 0..1; (0, 1) where nothing was counted.
    """
    if not total:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, square = count / total, z * z / total
    centre = share + square / 2
    spread = z * math.sqrt(share * (1 - share) / total + square / (4 * total))
    # At the ends the formula gives 0 and 1 exactly, which rounding would miss.
    low = (centre - spread) / (1 + square) if count else 0.0
    return low, (centre + spread) / (1 + square) if count < total else 1.0


def difference(
    first: float, of_first: tuple[float, float], second: float, of_second: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval of the second value minus the first, from their own intervals.

    Newcombe 1998, Stat. Med. 17, 873, method 10, for score intervals of shares; for others Zou and Donner 2008, Stat.
    Med. 27, 1693, equation 8. The values are taken as independent: where both rest on the same images, which makes
    them alike, the interval is too wide.

    Returns:
        Lower and upper end, of the same confidence as the two.
    """
    centre = second - first
    below = math.hypot(second - of_second[0], of_first[1] - first)
    above = math.hypot(of_second[1] - second, first - of_first[0])
    return centre - below, centre + above


def mcnemar(only_first: int, only_second: int) -> float:
    """Return how probable so uneven a split is where two things succeed equally often on the same trials.

    The exact test of McNemar 1947, Psychometrika 12, 153: among the trials where just one of them succeeds, each is as
    likely as the other to be the one.

    Returns:
        The two-sided probability in 0..1; 1 where they never differ.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    if not total:
        return 1.0
    tail = sum(math.exp(_log_binomial(total, count) - total * math.log(2)) for count in range(fewer + 1))
    return min(1.0, 2 * tail)


def paired(differences: Sequence[float]) -> float:
    """Return how probable so large a mean difference is where each difference may as well have the other sign.

    Fisher's test of paired values (The Design of Experiments, 1935, section 21), on random signs, always the same ones.

    Args:
        differences: of what two things give on the same trials.

    Returns:
        The two-sided probability, above 0 and at most 1; 1 where they never differ.
    """
    values = np.array([value for value in differences if value], np.float64)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_FLIPS, len(values)))
    sums = np.abs(signs @ values)
    return float(1 + (sums >= abs(values.sum()) * (1 - 1e-9)).sum()) / (1 + _FLIPS)


def _log_binomial(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
