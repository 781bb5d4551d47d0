"""Tests and intervals of spurious evidence: shares beside chance, at places, and of classes beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.core.shares import LEVEL, Share, difference

SIGNIFICANT = 0.05
"""A result is taken for more than chance where it is as improbable as this, after correction for their number."""
FEWEST = 5
"""Of fewer images nothing is tested."""
_RESAMPLES, _PERMUTATIONS = 2_000, 999
_WINDOW = 2
"""Rows and columns of the grid that are one place."""

Numbers = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Contrast:
    """How often a class is given to images that have something of the class, and to others.

    Attributes:
        number: the class.
        own: among images with a part that comes from the class's images.
        others: among images whose part comes from images of other classes.
        probability: of so large a share of the first kind if both kinds were alike, after correction for the number of
            tests.
    """

    number: int
    own: Share
    others: Share
    probability: float = 1.0

    @property
    def effect(self) -> float:
        """How much higher the first share is."""
        return self.own.value - self.others.value

    @property
    def interval(self) -> tuple[float, float]:
        """The effect's interval."""
        return difference(self.others.value, self.others.interval, self.own.value, self.own.interval)

    def holds(self, least: float) -> bool:
        """Whether the effect is at least so large, and more than chance."""
        return self.probability < SIGNIFICANT and self.effect >= least


def fisher(own: Share, others: Share) -> float:
    """Return how probable at least so many of the first kind are where both kinds are alike.

    The one-sided exact test of Fisher (The Design of Experiments, 1935), a tail of the hypergeometric distribution.
    """
    total, hits = own.total + others.total, own.count + others.count
    most = min(own.total, hits)
    logs = [
        _log_choose(hits, count) + _log_choose(total - hits, own.total - count) - _log_choose(total, own.total)
        for count in range(own.count, most + 1)
        if own.total - count <= total - hits
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def _log_choose(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return probabilities corrected for their number (Holm 1979, Scand. J. Stat. 6, 65): none false in 95 of 100."""
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    corrected, highest = [1.0] * len(probabilities), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, probabilities[place] * (len(order) - rank)))
        corrected[place] = highest
    return corrected


def mean_interval(values: Sequence[float] | Numbers) -> tuple[float, float] | tuple[()]:
    """Return the percentile interval of a mean by resampling (Efron 1979), always by the same draws; () of too few."""
    given = np.asarray(values, np.float64)
    if len(given) < FEWEST:
        return ()
    drawn = np.random.default_rng(0).integers(len(given), size=(_RESAMPLES, len(given)))
    low, high = np.quantile(given[drawn].mean(axis=1), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


@dataclass(frozen=True)
class Place:
    """A fixed place of the image where a class's evidence lies more than that of other classes.

    Attributes:
        number: the class.
        top, left: where it begins, in cells of the grid.
        own: mean share of the evidence there, over the images of the class.
        others: the same over the images of all other classes.
        images: how many of the class.
        probability: of so large a difference at any place in any class, if maps had nothing to do with classes.
    """

    number: int
    top: int
    left: int
    own: float
    others: float
    images: int
    probability: float

    @property
    def effect(self) -> float:
        """How much more of the class's evidence lies there."""
        return self.own - self.others

    def holds(self, least: float) -> bool:
        """Whether the difference is at least so large, and more than chance."""
        return self.probability < SIGNIFICANT and self.effect >= least


def fixed_places(maps: Numbers, classes: Sequence[int] | npt.NDArray[np.integer], seed: int = 0) -> list[Place]:
    """Return for each class of at least `FEWEST` images the place where it has most evidence beyond other classes.

    Classes are exchanged among the images at random; the largest difference of any class and place is kept of each
    exchange, which corrects for the number of both (Westfall and Young 1993).

    Args:
        maps: [N, rows, columns], each adding up to 1.
        classes: [N].
        seed: of the exchanges.
    """
    numbers, member = np.unique(np.asarray(classes), return_inverse=True)
    counts = np.bincount(member, minlength=len(numbers))
    tested = np.flatnonzero((counts >= FEWEST) & (len(member) - counts >= FEWEST))
    if not len(tested):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(maps, (_WINDOW, _WINDOW), axis=(1, 2)).sum(axis=(-2, -1))
    flat, columns = windows.reshape(len(windows), -1).astype(np.float64), windows.shape[2]

    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    order, whole = np.argsort(member, kind="stable"), flat.sum(axis=0)

    def means(rows: npt.NDArray[np.intp]) -> tuple[Numbers, Numbers]:
        sums = np.add.reduceat(flat[rows], starts)[tested]
        return sums / counts[tested, None], (whole - sums) / (len(flat) - counts[tested, None])

    own, others = means(order)
    best = (own - others).argmax(axis=1)
    rng, highest = np.random.default_rng(seed), []
    for _ in range(_PERMUTATIONS):
        one, other = means(rng.permutation(len(flat)))
        highest.append(float((one - other).max()))
    found = []
    for row, place in enumerate(best.tolist()):
        effect = own[row, place] - others[row, place]
        chance = (1 + sum(value >= effect for value in highest)) / (1 + _PERMUTATIONS)
        found.append(
            Place(int(numbers[tested[row]]), place // columns, place % columns, float(own[row, place]),
                  float(others[row, place]), int(counts[tested[row]]), chance)
        )  # fmt: skip
    return found
