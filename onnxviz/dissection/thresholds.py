"""The activation that a unit exceeds at a given share of all positions, exactly, from a stream of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.errors import AnalysisError


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
        """Which units have the same activation everywhere: they are dead on this data."""
        return np.asarray(self.smallest == self.largest)

    @property
    def saturated(self) -> npt.NDArray[np.bool_]:
        """Which living units have their greatest activation as threshold, so that no position lies above it."""
        return np.asarray(~self.constant & (self.values >= self.largest))


class TopValues:
    """Keeps the largest values of every unit, which is all that a high quantile depends on.

    Args:
        units: number of units.
        positions: number of values that each unit will have in all.
        quantile: the share of positions above the threshold, 0 < quantile <= 1.
    """

    def __init__(self, units: int, positions: int, quantile: float) -> None:
        self._positions = positions
        # Hazen's position in the ascending order of n values, from 0, as numpy computes it: n * p + 1/2 - 1.
        place = min(max(positions * (1 - quantile) + 0.5 - 1, 0.0), positions - 1)
        self._lower = math.floor(place)
        self._fraction = place - self._lower
        self._kept = positions - self._lower
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
        self._pending.append(_largest(values, self._kept))
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
        return Thresholds(values, self._smallest, ordered[:, -1].astype(np.float32), self._positions)

    def _settle(self) -> None:
        self._top = _largest(np.concatenate([self._top, *self._pending], axis=1), self._kept)
        self._pending = []


def _largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    if values.shape[1] <= count:
        return values
    # Behind a ReLU most values are equal, and on those `np.partition` is many times slower than sorting.
    return np.sort(values, axis=1)[:, -count:].copy()
