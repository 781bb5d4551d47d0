"""Maps of few cells, alike for all images, whose means over many images say where evidence lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GRID = 8
"""Rows and columns of the coarse maps."""
Maps = npt.NDArray[np.float64]


def coarse(evidence: Maps) -> Maps:
    """Return how much evidence lies in each cell of a grid over the image, [GRID, GRID], of a map [h, w].

    A pixel on the border of two cells goes to both by its parts.
    """
    rows, columns = (_overlaps(length) for length in evidence.shape)
    return np.asarray(rows @ evidence @ columns.T)


def _overlaps(length: int) -> Maps:
    """Return which part of each pixel lies in each cell, [GRID, length]."""
    edges, pixels = np.arange(GRID + 1) * (length / GRID), np.arange(length)
    low = np.maximum(edges[:-1, None], pixels)
    parts: Maps = (np.minimum(edges[1:, None], pixels + 1) - low).clip(min=0)
    return parts


def enlarged_cells(grid: Maps, times: int = 12) -> Maps:
    """Return a coarse map with each cell as a square of so many pixels."""
    return grid.repeat(times, axis=0).repeat(times, axis=1)
