"""The activation that a unit exceeds at a given share of all positions, exactly, and the images that excite it most.

Both are taken from a stream of images, which may be split into shards: the largest values of a whole are among the
largest of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as arrays, for storing it."""
        return {
            "values": self.values,
            "smallest": self.smallest,
            "largest": self.largest,
            "positions": np.array(self.positions, np.int64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Thresholds:
        """Undo `arrays`."""
        return cls(arrays["values"], arrays["smallest"], arrays["largest"], int(arrays["positions"]))


def hazen_place(positions: int, quantile: float) -> float:
    """Return the place of the threshold in the ascending order of all values, from 0, between two of them or on one.

    Hazen's plotting position as numpy computes it, n * p + 1/2 - 1 (Hyndman and Fan 1996, definition 5).
    """
    return min(max(positions * (1 - quantile) + 0.5 - 1, 0.0), positions - 1)


def kept_values(positions: int, quantile: float) -> int:
    """Return how many of a unit's largest values the threshold of that many positions depends on."""
    return positions - math.floor(hazen_place(positions, quantile))


class TopValues:
    """Keeps the largest values of every unit, which is all that a high quantile depends on.

    Args:
        units: number of units.
        positions: number of values that each unit will have in all, over all shards.
        quantile: the share of positions above the threshold, 0 < quantile <= 1.
    """

    def __init__(self, units: int, positions: int, quantile: float) -> None:
        self._positions = positions
        place = hazen_place(positions, quantile)
        self._fraction = place - math.floor(place)
        self._kept = kept_values(positions, quantile)
        self._top = np.empty((units, 0), np.float32)
        self._pending: list[npt.NDArray[np.float32]] = []
        self._seen = 0
        self._smallest = np.full(units, np.inf, np.float32)

    def add(self, activations: npt.NDArray[np.float32]) -> None:
        """Take the activations of some images, float32 [images, units, height, width].

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
        self._seen += values.shape[1]
        self._smallest = np.minimum(self._smallest, values.min(axis=1))
        self._take(_largest(values, self._kept))

    def merge(self, other: TopValues) -> None:
        """Take what another has kept of other images; in any order the result is that of one pass over all.

        Raises:
            ValueError: if it was announced other numbers of units or values, or another quantile.
        """
        if (self._positions, self._kept, self._fraction) != (other._positions, other._kept, other._fraction):
            raise ValueError(f"kept {other._kept} values of {other._positions}, not {self._kept} of {self._positions}")
        if len(self._smallest) != len(other._smallest):
            raise ValueError(f"{len(other._smallest)} units do not go with {len(self._smallest)}")
        other._settle()
        self._seen += other._seen
        self._smallest = np.minimum(self._smallest, other._smallest)
        self._take(other._top)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is kept as arrays: the largest values in ascending order, float32 [units, kept or fewer]."""
        self._settle()
        # Sorted, equal values lie side by side, and the file gets smaller.
        return {
            "top": np.sort(self._top, axis=1),
            "smallest": self._smallest,
            "seen": np.array(self._seen, np.int64),
            "positions": np.array(self._positions, np.int64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], quantile: float) -> TopValues:
        """Undo `arrays`; `quantile` as it was given; ValueError if the arrays do not fit it."""
        made = cls(len(arrays["top"]), int(arrays["positions"]), quantile)
        made._top, made._smallest, made._seen = arrays["top"], arrays["smallest"], int(arrays["seen"])
        if made._top.shape != (len(made._smallest), min(made._seen, made._kept)):
            raise ValueError(f"{made._top.shape} values were kept of {made._seen}, of which {made._kept} are needed")
        return made

    def _take(self, largest: npt.NDArray[np.float32]) -> None:
        self._pending.append(largest)
        if sum(part.shape[1] for part in self._pending) > self._kept:
            self._settle()

    def thresholds(self) -> Thresholds:
        """Return the quantiles of everything that was added.

        Raises:
            ValueError: if other than the announced number of values was added.
        """
        if self._seen != self._positions:
            raise ValueError(f"{self._seen} values were added of {self._positions}")
        self._settle()
        ordered = np.sort(self._top, axis=1).astype(np.float64)
        low, high = ordered[:, 0], ordered[:, min(1, ordered.shape[1] - 1)]
        # The two forms are numpy's: exact at both ends of the interval.
        rise, fraction = high - low, self._fraction
        values = low + rise * fraction if fraction < 0.5 else high - rise * (1 - fraction)
        # 0.0 and -0.0 are equal, so which of them is found depends on the order; adding 0 makes both 0.0.
        largest = ordered[:, -1].astype(np.float32)
        return Thresholds(values + 0.0, self._smallest + np.float32(0), largest + np.float32(0), self._positions)

    def _settle(self) -> None:
        self._top = _largest(np.concatenate([self._top, *self._pending], axis=1), self._kept)
        self._pending = []


def _largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    if values.shape[1] <= count:
        return values
    # Behind a ReLU most values are equal, and on those `np.partition` is many times slower than sorting.
    return np.sort(values, axis=1)[:, -count:].copy()


class BestImages:
    """Keeps for every unit the `count` images of highest peak: its greatest activation in the image."""

    def __init__(self, units: int, count: int) -> None:
        self._count = count
        self._peaks = np.empty((units, 0), np.float32)
        self._images = np.empty((units, 0), np.int64)

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """The images' numbers, [units, count or fewer]: highest peak first, of equal ones the lowest number."""
        return self._images

    def add(self, activations: npt.NDArray[np.float32], images: Sequence[int]) -> None:
        """Take activations, float32 [images, units, height, width], of images by their numbers."""
        peaks = activations.max(axis=(2, 3)).T
        self._take(peaks, np.broadcast_to(np.array(images, np.int64), peaks.shape))

    def merge(self, other: BestImages) -> None:
        """Take what another has kept of other images; in any order the result is that of one pass over all.

        Raises:
            ValueError: if it keeps another number of images, or has other units.
        """
        if self._count != other._count or len(self._peaks) != len(other._peaks):
            raise ValueError(
                f"{other._count} images of {len(other._peaks)} units do not go with {self._count} of {len(self._peaks)}"
            )
        self._take(other._peaks, other._images)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is kept as arrays, for storing it."""
        return {"peaks": self._peaks, "peak_images": self._images}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], count: int) -> BestImages:
        """Undo `arrays`; `count` as it was given; ValueError if the arrays do not fit it."""
        made = cls(len(arrays["peaks"]), count)
        made._peaks, made._images = arrays["peaks"], arrays["peak_images"]
        if made._peaks.shape != made._images.shape or made._peaks.ndim != 2 or made._peaks.shape[1] > count:
            raise ValueError(f"{made._images.shape} images for {made._peaks.shape} peaks, of at most {count}")
        return made

    def _take(self, peaks: npt.NDArray[np.float32], images: npt.NDArray[np.int64]) -> None:
        peaks = np.concatenate([self._peaks, peaks], axis=1)
        images = np.concatenate([self._images, images], axis=1)
        order = np.lexsort((images, -peaks), axis=1)[:, : self._count]
        self._peaks = np.take_along_axis(peaks, order, axis=1)
        self._images = np.take_along_axis(images, order, axis=1)
