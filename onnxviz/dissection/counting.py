"""Pixels of unit masks, of concepts, and of both together, as integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxviz.dissection.upsampling import Floats, Grid, Indices

Counts = npt.NDArray[np.int64]

_SUMS = ("both", "unit", "concept", "images", "pixels")
_PIXELS_AT_ONCE = 1 << 18
"""Pixels interpolated in one step: large enough for numpy, small enough for the cache."""


@dataclass(eq=False)
class Overlap:
    """Pixel counts of one layer's units against concepts, summed over images.

    Attributes:
        categories: int [concepts], the category of each concept, from 0.
        both: int64 [units, concepts], pixels inside the unit's mask that carry the concept.
        unit: int64 [units, categories], pixels of the unit's mask in images that have a label of the category.
        concept: int64 [concepts], pixels that carry the concept.
        images: int64 [concepts], images that have a pixel of the concept.
        pixels: int64 [categories], all pixels of the images that have a label of the category.
    """

    categories: npt.NDArray[np.intp]
    both: Counts
    unit: Counts
    concept: Counts
    images: Counts
    pixels: Counts

    @classmethod
    def empty(cls, units: int, categories: npt.NDArray[np.intp]) -> Overlap:
        """Return zero counts for a number of units and the categories of the concepts."""
        concepts, kinds = len(categories), int(categories.max(initial=-1)) + 1
        return cls(
            categories,
            np.zeros((units, concepts), np.int64),
            np.zeros((units, kinds), np.int64),
            np.zeros(concepts, np.int64),
            np.zeros(concepts, np.int64),
            np.zeros(kinds, np.int64),
        )

    def merge(self, other: Overlap) -> None:
        """Add the counts of other images.

        Raises:
            ValueError: if they are counts of other units or concepts.
        """
        if self.both.shape != other.both.shape or (self.categories != other.categories).any():
            raise ValueError(f"counts of {other.both.shape} units and concepts do not go with {self.both.shape}")
        for name in _SUMS:
            mine: Counts = getattr(self, name)
            mine += getattr(other, name)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the counts as arrays, for storing them."""
        return {"categories": self.categories.astype(np.int64), **{name: getattr(self, name) for name in _SUMS}}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Overlap:
        """Undo `arrays`."""
        return cls(arrays["categories"].astype(np.intp), **{name: arrays[name] for name in _SUMS})

    def iou(self) -> npt.NDArray[np.float64]:
        """Return intersection over union of every unit with every concept, float64 [units, concepts].

        Bau et al. 2017, equation 1: both sums run over the images that have a label of the concept's category; a
        pair without any pixel has 0.
        """
        union = self.unit[:, self.categories] + self.concept - self.both
        return np.asarray(np.divide(self.both, union, out=np.zeros(self.both.shape), where=union > 0))


def count_overlap(
    overlap: Overlap,
    activations: Floats,
    thresholds: npt.NDArray[np.float64],
    labels: npt.NDArray[np.integer[Any]],
    grid: Grid,
) -> None:
    """Add some images to the counts.

    Args:
        overlap: the counts, changed in place.
        activations: float32 [images, units, h, w].
        thresholds: float64 [units]; a pixel belongs to the mask if its upsampled activation is above.
        labels: integers [images, layers, H, W]; 0 is no concept, c is column c - 1 of the counts.
        grid: from (h, w) to (H, W).
    """
    units, concepts = overlap.both.shape
    images, layers = labels.shape[:2]
    flat = _without_repeats(labels.reshape(images, layers, -1).astype(np.int64))
    has_category = _count_concepts(overlap, flat)
    areas = np.zeros(images * units, np.int64)
    both = np.zeros(units * (concepts + 1), np.int64)
    for image, unit, pixel in _mask_pixels(activations, round_down(thresholds), grid):
        areas += np.bincount(image * units + unit, minlength=len(areas))
        for layer in range(layers):
            both += np.bincount(unit * (concepts + 1) + flat[image, layer, pixel], minlength=len(both))
    overlap.both += both.reshape(units, concepts + 1)[:, 1:]
    overlap.unit += areas.reshape(images, units).T @ has_category


def round_down(thresholds: npt.NDArray[np.float64]) -> Floats:
    """Return the largest float32 not above each threshold: a float32 exceeds both or neither."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def _without_repeats(flat: Counts) -> Counts:
    """Clear labels that a pixel already carries in an earlier layer."""
    for layer in range(1, flat.shape[1]):
        for earlier in range(layer):
            flat[:, layer][flat[:, layer] == flat[:, earlier]] = 0
    return flat


def _count_concepts(overlap: Overlap, flat: Counts) -> Counts:
    """Add the labels to the counts; return 1 where an image has a label of a category, [images, categories]."""
    concepts = len(overlap.categories)
    has_category = np.zeros((len(flat), overlap.unit.shape[1]), np.int64)
    for index, labels in enumerate(flat):
        area = np.bincount(labels.ravel(), minlength=concepts + 1)[1:]
        overlap.concept += area
        overlap.images += area > 0
        has_category[index, overlap.categories[area > 0]] = 1
    overlap.pixels += has_category.sum(axis=0) * flat.shape[2]
    return has_category


def _mask_pixels(activations: Floats, thresholds: Floats, grid: Grid) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Yield (image, unit, pixel) of every pixel whose upsampled activation is above its unit's threshold.

    Only cells with a corner above the threshold are interpolated; the arithmetic is that of `upsample`.
    """
    images, units, height, width = activations.shape
    cells = np.flatnonzero(_cells_with_corner_above(activations > thresholds[:, None, None]))
    row_weights, column_weights = grid.rows.weights_by_cell, grid.columns.weights_by_cell
    columns = len(grid.columns.low)
    block = row_weights.shape[1] * column_weights.shape[1]
    offsets = (np.arange(row_weights.shape[1])[:, None] * columns + np.arange(column_weights.shape[1])).ravel()
    step = max(1, _PIXELS_AT_ONCE // max(1, block))
    for start in range(0, len(cells), step):
        image, unit, row, column = np.unravel_index(cells[start : start + step], (images, units, height, width))
        below, beside = np.minimum(row + 1, height - 1), np.minimum(column + 1, width - 1)
        down, across = row_weights[row], column_weights[column]
        left = _between(activations[image, unit, row, column], activations[image, unit, below, column], down)
        right = _between(activations[image, unit, row, beside], activations[image, unit, below, beside], down)
        values = left[:, :, None] + (right - left)[:, :, None] * across[:, None, :]
        cell, place = np.nonzero(values.reshape(len(values), block) > thresholds[unit][:, None])
        first = grid.rows.start[row] * columns + grid.columns.start[column]
        yield image[cell], unit[cell], first[cell] + offsets[place]


def _cells_with_corner_above(above: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return for each cell, [..., h, w], whether one of its four corners is marked."""
    down = above.copy()
    down[..., :-1, :] |= above[..., 1:, :]
    cells = down.copy()
    cells[..., :-1] |= down[..., 1:]
    return cells


def _between(start: Floats, end: Floats, weights: Floats) -> Floats:
    return start[:, None] + (end - start)[:, None] * weights
