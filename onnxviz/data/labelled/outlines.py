"""Regions as COCO writes them: polygons, and runs of pixels; made to masks as its own code makes them.

Lin et al. 2014 (arXiv:1405.0312); the definitions are those of cocoapi's `maskApi.c`: `rleFrPoly`, `rleFrString`. Runs
go down the columns, the first is outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxviz.core import limits
from onnxviz.core.errors import DataError

Mask = npt.NDArray[np.bool_]

_SCALE = 5
"""A polygon is drawn in so many steps to a pixel."""
_MOST_STEPS = 50_000_000
_FARTHEST = 2.0
"""So many sides of the image a polygon may lie outside."""


def polygon_mask(points: npt.NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Return the pixels inside a polygon, bool [height, width]; points [N, 2] are x and y in pixels.

    Raises:
        DataError: if the polygon lies far outside of the image, or has too many points.
    """
    height, width = size
    reach = np.array([width, height]) * _FARTHEST
    if len(points) < 1 or not ((points >= -reach) & (points <= reach + reach / _FARTHEST)).all():
        raise DataError("a polygon without points, or far outside of the image")
    corners = np.trunc(_SCALE * points + 0.5).astype(np.int64)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    if int(np.abs(ends - starts).max(axis=1).sum()) > _MOST_STEPS:
        raise DataError("a polygon with too long an outline")
    drawn = [_edge(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    xs, ys = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    moved = np.flatnonzero(xs[1:] != xs[:-1]) + 1
    x = np.where(xs[moved] < xs[moved - 1], xs[moved], xs[moved] - 1)
    x = (x + 0.5) / _SCALE - 0.5
    y = np.minimum(ys[moved], ys[moved - 1])
    y = np.ceil(np.clip((y + 0.5) / _SCALE - 0.5, 0, height))
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    flips = np.bincount((x[kept] * height + y[kept]).astype(np.int64), minlength=height * width + 1)[:-1]
    return np.asarray((np.cumsum(flips) % 2 == 1).reshape(width, height).T)


def _edge(start: Sequence[int], end: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the steps of an edge, both ends included, along its longer side."""
    across, down = abs(end[0] - start[0]), abs(end[1] - start[1])
    if not across and not down:
        return np.array(start[:1]), np.array(start[1:])
    flat = across >= down
    turned = start[0] > end[0] if flat else start[1] > end[1]
    (x0, y0), (x1, y1) = (end, start) if turned else (start, end)
    steps = np.arange(max(across, down) + 1)
    if turned:
        steps = steps[::-1]
    if flat:
        return steps + x0, np.trunc(y0 + (y1 - y0) / across * steps + 0.5).astype(np.int64)
    return np.trunc(x0 + (x1 - x0) / down * steps + 0.5).astype(np.int64), steps + y0


def runs_mask(counts: Sequence[int], size: tuple[int, int]) -> Mask:
    """Return the pixels of runs that go down the columns, outside and inside in turn, bool [height, width].

    Raises:
        DataError: if they do not fill the image.
    """
    height, width = size
    if height * width > limits.IMAGE_PIXELS:
        raise DataError(f"a mask of {width} x {height} pixels is too large")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise DataError(f"runs of {sum(counts)} pixels do not fill an image of {width} x {height}")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, np.array(counts, np.int64))
    return np.asarray(inside.reshape(width, height).T)


def decode_runs(text: str) -> list[int]:
    """Return the runs that a text stands for; raises DataError if it stands for none.

    A run is written in groups of 5 bits, the lowest first, from the character 0 on, with 32 more where another group
    follows; from the fourth run on it is the difference to the run two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 30:
            raise DataError("a text that stands for no runs of pixels")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise DataError("a text of runs that ends within one")
    return counts
