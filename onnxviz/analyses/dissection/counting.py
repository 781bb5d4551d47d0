"""Pixels of unit masks, of concepts, and of both together, as integers.

Definitions after Bau, Zhou, Khosla, Oliva and Torralba 2017 (arXiv:1704.05796), made exact: every count is an integer,
and upsampling is bilinear with half-pixel centres, cell by cell. A cell is the square between four neighbouring
positions of an activation map; all pixels inside it are interpolated from the same four corners, so a cell without a
corner above a threshold has no pixel above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import DataError, shorten
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import fit_labels

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Counts = npt.NDArray[np.signedinteger[Any]]
CountType: TypeAlias = type[np.signedinteger[Any]]

_SUMS = ("both", "unit", "concept", "images", "pixels")
_BINCOUNT_FROM = 8
"""Counting all places at once is faster from one in so many on that is named."""
_PIXELS_AT_ONCE = 1 << 18
"""Pixels interpolated in one step: large enough for numpy, small enough for the cache."""
_STRETCH = Preprocessing(fit="stretch")
_MOST_BYTES = 256 << 20
_FEWEST = 16


# --- upsampling -----------------------------------------------------------------------------------------------------


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


# --- labels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PixelLabels:
    """The labels of one image, ready to be counted.

    Attributes:
        columns: unsigned integers [layers, pixels]; 0 is no concept, c is column c - 1 of the counts; a pixel has none
            twice. As small as they can be, because those of many images are remembered.
        area: int64 [concepts], the pixels that carry each concept.
        has: int64 [categories], 1 where the image has a label of the category.
    """

    columns: npt.NDArray[np.unsignedinteger[Any]]
    area: Counts
    has: Counts

    @classmethod
    def of(cls, labels: npt.NDArray[np.integer[Any]], categories: npt.NDArray[np.intp]) -> PixelLabels:
        """Prepare labels, integers [layers, H, W]; `categories` gives the category of each concept, from 0."""
        columns = _without_repeats(labels.reshape(len(labels), -1).astype(np.min_scalar_type(len(categories))))
        area = np.bincount(columns.ravel(), minlength=len(categories) + 1)[1:]
        has = np.zeros(int(categories.max(initial=-1)) + 1, np.int64)
        has[categories[area > 0]] = 1
        return cls(columns, area, has)


def _without_repeats(columns: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Clear labels, [layers, pixels], that a pixel already carries in an earlier layer."""
    for layer in range(1, len(columns)):
        for earlier in range(layer):
            columns[layer][columns[layer] == columns[earlier]] = 0
    return columns


def categories_of(data: ConceptSet) -> npt.NDArray[np.intp]:
    """Return for each concept the place of its category among the data set's."""
    places = {category: place for place, category in enumerate(data.categories)}
    return np.array([places[concept.category] for concept in data.concepts], np.intp)


class Labels:
    """The labels of images, prepared for counting at a size; those of the last `remembered` are, if memory allows."""

    def __init__(self, data: ConceptSet, size: tuple[int, int], remembered: int) -> None:
        self._data = data
        self._size = size
        self.categories = categories_of(data)
        self._columns = _columns_of(data)
        each = size[0] * size[1] * len(data.categories) * np.min_scalar_type(len(data.concepts)).itemsize
        self.of = lru_cache(max(_FEWEST, min(remembered, _MOST_BYTES // each)))(self._read)

    def _read(self, image: int) -> PixelLabels:
        data, columns = self._data, self._columns
        labels = fit_labels(data.read_labels(image), _STRETCH, self._size)
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(columns) or columns[labels].min(initial=0) < 0:
            raise DataError(
                "holds a label that is none of the data set's concepts",
                where=f"{data.name}: {shorten(data.names[image])}",
            )
        return PixelLabels.of(columns[labels], self.categories)


def _columns_of(data: ConceptSet) -> npt.NDArray[np.int32]:
    """Return for each label value the column of its concept, counted from 1; 0 for none, -1 for an unknown value."""
    columns = np.full(max(concept.index for concept in data.concepts) + 1, -1, np.int32)
    columns[0] = 0
    for place, concept in enumerate(data.concepts):
        columns[concept.index] = place + 1
    return columns


# --- counts ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Overlap:
    """Pixel counts of one layer's units against concepts, summed over images.

    Attributes:
        categories: int [concepts], the category of each concept, from 0.
        both: integers [units, concepts], pixels inside the unit's mask that carry the concept.
        unit: integers [units, categories], pixels of the unit's mask in images that have a label of the category.
        concept: integers [concepts], pixels that carry the concept.
        images: integers [concepts], images that have a pixel of the concept.
        pixels: integers [categories], all pixels of the images that have a label of the category.
    """

    categories: npt.NDArray[np.intp]
    both: Counts
    unit: Counts
    concept: Counts
    images: Counts
    pixels: Counts

    @classmethod
    def empty(cls, units: int, categories: npt.NDArray[np.intp], kind: CountType = np.int64) -> Overlap:
        """Return zero counts of a type that can hold them (`count_type`)."""
        concepts, kinds = len(categories), int(categories.max(initial=-1)) + 1
        return cls(
            categories,
            np.zeros((units, concepts), kind),
            np.zeros((units, kinds), kind),
            np.zeros(concepts, kind),
            np.zeros(concepts, kind),
            np.zeros(kinds, kind),
        )

    @classmethod
    def whole(cls, parts: Sequence[Overlap]) -> Overlap:
        """Return the counts of all parts together, int64."""
        stacks = ([getattr(part, name) for part in parts] for name in _SUMS)
        return cls(parts[0].categories, *(np.asarray(np.sum(stack, axis=0, dtype=np.int64)) for stack in stacks))

    def __add__(self, other: Overlap) -> Overlap:
        """Add the counts of other images; ValueError if they are of other units or concepts."""
        if self.both.shape != other.both.shape or (self.categories != other.categories).any():
            raise ValueError(f"counts of {other.both.shape} units and concepts do not go with {self.both.shape}")
        return Overlap(self.categories, *(getattr(self, name) + getattr(other, name) for name in _SUMS))

    def iou(self) -> npt.NDArray[np.float64]:
        """Return intersection over union of every unit with every concept, float64 [units, concepts].

        Bau et al. 2017, equation 1: both sums run over the images that have a label of the concept's category; a
        pair without any pixel has 0.
        """
        return iou(self.both, self.unit[:, self.categories] + self.concept - self.both)

    def precision(self) -> npt.NDArray[np.float64]:
        """Return the share of every unit's mask that carries each concept, float64 [units, concepts].

        Of the mask in the images that have a label of the concept's category, as for `iou`; 0 where there is no mask.
        """
        return iou(self.both, self.unit[:, self.categories])


@dataclass(eq=False)
class ShuffledOverlap:
    """Pixel counts of the same units against the labels of other images, in several shuffles.

    Attributes:
        both: integers [shuffles, units, concepts], pixels inside the unit's mask that carry the concept.
        unit: integers [shuffles, units, categories], pixels of the mask in images whose labels have the category.
        concept: integers [shuffles, concepts], pixels that carry the concept.
    """

    both: Counts
    unit: Counts
    concept: Counts

    @classmethod
    def empty(
        cls, shuffles: int, units: int, categories: npt.NDArray[np.intp], kind: CountType = np.int64
    ) -> ShuffledOverlap:
        """Return zero counts of a type that can hold them (`count_type`)."""
        concepts, kinds = len(categories), int(categories.max(initial=-1)) + 1
        shapes = (shuffles, units, concepts), (shuffles, units, kinds), (shuffles, concepts)
        return cls(*(np.zeros(shape, kind) for shape in shapes))

    def __add__(self, other: ShuffledOverlap) -> ShuffledOverlap:
        """Add the counts of other images."""
        return ShuffledOverlap(self.both + other.both, self.unit + other.unit, self.concept + other.concept)

    def ious(self, categories: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.float64]]:
        """Yield for each shuffle what `Overlap.iou` is, float64 [units, concepts]."""
        for both, unit, concept in zip(self.both, self.unit, self.concept, strict=True):
            yield iou(both, unit[:, categories] + concept - both)


def count_type(pixels: int) -> CountType:
    """Return the smaller integer type that can count so many pixels, all those of a data set's images."""
    return np.int32 if pixels <= np.iinfo(np.int32).max // 2 else np.int64  # a union adds two counts


def iou(both: Counts, union: Counts) -> npt.NDArray[np.float64]:
    """Return intersection over union, elementwise; 0 where the union is empty."""
    return np.asarray(np.divide(both, union, out=np.zeros(both.shape), where=union > 0))


def count_overlap(
    overlap: Overlap,
    activations: Floats,
    thresholds: npt.NDArray[np.float64],
    labels: npt.NDArray[np.integer[Any]],
    grid: Grid,
) -> None:
    """Add images to the counts: activations [images, units, h, w] and labels [images, layers, H, W]."""
    nothing = ShuffledOverlap.empty(0, len(overlap.both), overlap.categories)
    for image, own in enumerate(labels):
        prepared = PixelLabels.of(own, overlap.categories)
        count_image(overlap, nothing, activations[image], thresholds, (prepared,), grid)


def count_image(
    overlap: Overlap,
    shuffled: ShuffledOverlap,
    activations: Floats,
    thresholds: npt.NDArray[np.float64],
    labels: Sequence[PixelLabels],
    grid: Grid,
) -> None:
    """Add one image to the counts, with its own labels and with those of other images: its masks are found once.

    Args:
        overlap: the counts with the image's own labels, changed in place.
        shuffled: the counts with other images' labels, changed in place.
        activations: float32 [units, h, w].
        thresholds: float64 [units]; a pixel belongs to the mask if its upsampled activation is above.
        labels: the image's own, then for each shuffle another image's.
        grid: from (h, w) to (H, W).
    """
    units, concepts = overlap.both.shape
    area = np.zeros(units, np.int64)
    sums = [counts.reshape(-1) for counts in (overlap.both, *shuffled.both)]
    for _, unit, pixel in mask_pixels(activations[None], round_down(thresholds), grid):
        area += np.bincount(unit, minlength=units)
        first = unit * concepts - 1
        for counts, own in zip(sums, labels, strict=True):
            for columns in own.columns:
                column = columns[pixel]
                _add_ones(counts, (first + column)[column > 0])
    for areas, own in zip((overlap.unit, *shuffled.unit), labels, strict=True):
        areas += area[:, None] * own.has
    for areas, own in zip(shuffled.concept, labels[1:], strict=True):
        areas += own.area
    overlap.concept += labels[0].area
    overlap.images += labels[0].area > 0
    overlap.pixels += labels[0].has * labels[0].columns.shape[1]


def _add_ones(counts: Counts, places: Counts) -> None:
    """Add 1 at every place, as often as it is named."""
    if _BINCOUNT_FROM * len(places) > len(counts):
        counts += np.bincount(places, minlength=len(counts))
    else:
        np.add.at(counts, places, 1)


def round_down(thresholds: npt.NDArray[np.float64]) -> Floats:
    """Return the largest float32 not above each threshold: a float32 exceeds both or neither."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def mask_pixels(activations: Floats, thresholds: Floats, grid: Grid) -> Iterator[tuple[Indices, Indices, Indices]]:
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
