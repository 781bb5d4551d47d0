"""The activation that a unit exceeds at a given share of all positions, exactly, and the images that excite it most.

Both are taken from a stream of images, which may be split into shards: the largest values of a whole are among the
largest of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import AnalysisError

_ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Differences below this part of the values are those between two orders of summing a bias and nothing."""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """What a layer's activations are cut at.

    Attributes:
        values: float64 [units], the exact Hazen quantile T with P(activation > T) = quantile.
        smallest: float32 [units], the unit's least activation.
        largest: float32 [units], the unit's greatest activation.
        positions: number of activations of each unit.
    """

    values: npt.NDArray[np.float64]
    smallest: npt.NDArray[np.float32]
    largest: npt.NDArray[np.float32]
    positions: int

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which units have the same activation everywhere, but for rounding: they are dead on this data."""
        reach = np.maximum(np.abs(self.smallest), np.abs(self.largest))
        return np.asarray(self.largest - self.smallest <= _ROUNDING * reach)

    @property
    def saturated(self) -> npt.NDArray[np.bool_]:
        """Which living units have their greatest activation as threshold, so that no position lies above it."""
        return np.asarray(~self.constant & (self.values >= self.largest))


def hazen_place(positions: int, quantile: float) -> float:
    """Return the place of the threshold in the ascending order of all values, from 0, between two of them or on one.

    Hazen's plotting position as numpy computes it, n * p + 1/2 - 1 (Hyndman and Fan 1996, definition 5).
    """
    return min(max(positions * (1 - quantile) + 0.5 - 1, 0.0), positions - 1)


def kept_values(positions: int, quantile: float) -> int:
    """Return how many of a unit's largest values the threshold of that many positions depends on."""
    return positions - math.floor(hazen_place(positions, quantile))


@dataclass(frozen=True, eq=False)
class LargestValues:
    """The largest values of every unit, which is all that a high quantile depends on.

    Attributes:
        top: float32 [units, kept or fewer], ascending.
        smallest: float32 [units], the unit's least value of all.
        seen: number of values of each unit of which these are the largest.
        positions: number of values that each unit has in all, over all shards.
        quantile: the share of positions above the threshold, 0 < quantile <= 1.
    """

    top: npt.NDArray[np.float32]
    smallest: npt.NDArray[np.float32]
    seen: int
    positions: int
    quantile: float

    @classmethod
    def of(cls, activations: npt.NDArray[np.float32], positions: int, quantile: float) -> LargestValues:
        """Keep the largest activations of some images, float32 [images, units, height, width].

        Raises:
            AnalysisError: if one is not finite.
        """
        values = np.ascontiguousarray(np.moveaxis(activations, 1, 0)).reshape(activations.shape[1], -1)
        if not np.isfinite(values).all():
            unit = int(np.nonzero(~np.isfinite(values).all(axis=1))[0][0])
            raise AnalysisError(
                f"unit {unit} has activations that are infinite or not a number",
                remedy="check the model's preprocessing, or leave the layer out",
            )
        top = _largest(values, kept_values(positions, quantile))
        return cls(top, values.min(axis=1), values.shape[1], positions, quantile)

    @classmethod
    def joined(cls, parts: Sequence[LargestValues]) -> LargestValues:
        """Keep the largest of all parts; in any order the result is that of one pass over all.

        Raises:
            ValueError: if they were announced different numbers of units or values, or different quantiles.
        """
        kinds = {(len(part.smallest), part.positions, part.quantile) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"units, values and quantiles do not go together: {sorted(kinds)}")
        ((_, positions, quantile),) = kinds
        top = _largest(np.concatenate([part.top for part in parts], axis=1), kept_values(positions, quantile))
        smallest = np.minimum.reduce([part.smallest for part in parts])
        return cls(top, smallest, sum(part.seen for part in parts), positions, quantile)

    def thresholds(self) -> Thresholds:
        """Return the quantiles of everything.

        Raises:
            ValueError: if there were other than the announced number of values.
        """
        if self.seen != self.positions:
            raise ValueError(f"{self.seen} values were added of {self.positions}")
        ordered = self.top.astype(np.float64)
        low, high = ordered[:, 0], ordered[:, min(1, ordered.shape[1] - 1)]
        place = hazen_place(self.positions, self.quantile)
        # The two forms are numpy's: exact at both ends of the interval.
        rise, fraction = high - low, place - math.floor(place)
        values = low + rise * fraction if fraction < 0.5 else high - rise * (1 - fraction)
        # 0.0 and -0.0 are equal, so which of them is found depends on the order; adding 0 makes both 0.0.
        largest = self.top[:, -1]
        return Thresholds(values + 0.0, self.smallest + np.float32(0), largest + np.float32(0), self.positions)


def _largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    # Behind a ReLU most values are equal, and on those `np.partition` is many times slower than sorting. Sorted, equal
    # values lie side by side, and the file gets smaller.
    return np.sort(values, axis=1)[:, -count:].copy()


@dataclass(frozen=True, eq=False)
class BestImages:
    """For every unit some images of highest peak: its greatest activation in the image.

    Attributes:
        count: most images that are kept.
        peaks: float32 [units, count or fewer], the highest first.
        images: int64 [units, count or fewer], their numbers; of equal peaks the lowest first.
    """

    count: int
    peaks: npt.NDArray[np.float32]
    images: npt.NDArray[np.int64]

    @classmethod
    def of(cls, activations: npt.NDArray[np.float32], images: Sequence[int], count: int) -> BestImages:
        """Choose among images by their numbers; activations are float32 [images, units, height, width]."""
        peaks = activations.max(axis=(2, 3)).T
        return cls._best(peaks, np.broadcast_to(np.array(images, np.int64), peaks.shape), count)

    def join(self, other: BestImages) -> BestImages:
        """Choose among both; in any order the result is that of one pass over all.

        Raises:
            ValueError: if the other keeps another number of images, or has other units.
        """
        if self.count != other.count or len(self.peaks) != len(other.peaks):
            raise ValueError(
                f"{other.count} images of {len(other.peaks)} units do not go with {self.count} of {len(self.peaks)}"
            )
        peaks = np.concatenate([self.peaks, other.peaks], axis=1)
        return self._best(peaks, np.concatenate([self.images, other.images], axis=1), self.count)

    @classmethod
    def _best(cls, peaks: npt.NDArray[np.float32], images: npt.NDArray[np.int64], count: int) -> BestImages:
        order = np.lexsort((images, -peaks), axis=1)[:, :count]
        return cls(count, np.take_along_axis(peaks, order, axis=1), np.take_along_axis(images, order, axis=1))
