"""Bilinear upsampling with half-pixel centres, cell by cell.

A cell is the square between four neighbouring positions of an activation map; all pixels inside it are interpolated
from the same four corners, so a cell without a corner above a threshold has no pixel above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Axis:
    """How one dimension of `positions` is upsampled to `pixels`.

    Attributes:
        low: for each pixel the position at or before it; its cell.
        high: for each pixel the position after it; `low` at the border.
        weight: for each pixel how far it lies from `low` to `high`, 0 <= weight < 1.
        start: for each cell its first pixel.
        count: for each cell its number of pixels.
    """

    low: Indices
    high: Indices
    weight: Floats
    start: Indices
    count: Indices

    @cached_property
    def weights_by_cell(self) -> Floats:
        """float32 [cells, most pixels of a cell]: each cell's weights, filled up with NaN, which exceeds nothing."""
        table = np.full((len(self.count), max(1, int(self.count.max()))), np.nan, np.float32)
        table[self.low, np.arange(len(self.low)) - self.start[self.low]] = self.weight
        return table

    @classmethod
    def between(cls, positions: int, pixels: int) -> Axis:
        """Return the geometry; pixel i lies at (i + 1/2) * positions / pixels - 1/2, but not before 0."""
        # In integers, so that a pixel that falls on a position gets weight 0 and not nearly 1.
        place = np.maximum((2 * np.arange(pixels) + 1) * positions - pixels, 0)
        low = np.minimum(place // (2 * pixels), positions - 1)
        weight = (place - low * (2 * pixels)) / (2 * pixels)
        weight[low == positions - 1] = 0.0
        count = np.bincount(low, minlength=positions)
        return cls(
            low.astype(np.intp),
            np.minimum(low + 1, positions - 1).astype(np.intp),
            weight.astype(np.float32),
            np.cumsum(count) - count,
            count,
        )


@dataclass(frozen=True, eq=False)
class Grid:
    """The geometry of upsampling maps of one size to another: one `Axis` down and one across."""

    rows: Axis
    columns: Axis

    @classmethod
    def between(cls, positions: tuple[int, int], pixels: tuple[int, int]) -> Grid:
        """Return the geometry for maps of `positions` (height, width) seen at `pixels` (height, width)."""
        return cls(Axis.between(positions[0], pixels[0]), Axis.between(positions[1], pixels[1]))


def upsample(maps: Floats, grid: Grid) -> Floats:
    """Upsample whole maps, float32 [..., h, w] to [..., H, W].

    Equal to torch's `interpolate(mode="bilinear", align_corners=False)` up to rounding; between equal values it is
    exact, so that a plateau is never lifted over a threshold that equals it.
    """
    rows, columns = grid.rows, grid.columns
    upper, lower = maps[..., rows.low, :], maps[..., rows.high, :]
    bands = upper + (lower - upper) * rows.weight[:, None]
    left, right = bands[..., columns.low], bands[..., columns.high]
    return np.asarray(left + (right - left) * columns.weight)
