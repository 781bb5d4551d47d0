"""How dissection is split into jobs: layers into groups, images into shards; and how much each job stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxviz.analyses.dissection.thresholds import kept_values
from onnxviz.analyses.stream import SHARD_IMAGES
from onnxviz.core import limits
from onnxviz.core.values import Layer
from onnxviz.graph.view import GraphView

_LAYERS_IN_A_JOB = 8
_ROW_BYTES = 200
"""A line of the units table, as JSON."""
_PICTURE_BYTES = 12_000
"""A photograph with a mask, 240 pixels, as JPEG."""


def map_size(view: GraphView, layer: Layer, size: tuple[int, int]) -> int:
    """Return the number of positions of a layer's maps; where the network does not say, at most the image's own."""
    height, width = layer.map_shape or (None, None)
    if height and width:
        return height * width
    rows, columns = size
    if (field := view.receptive_field(layer, size)) is not None:
        return len(field.rows) * len(field.columns)
    return (height or rows) * (width or columns)


def counts_size(units: int, concepts: int, categories: int, shuffles: int) -> int:
    """Return the bytes of a layer's counts, with the images' own labels and with those of each shuffle."""
    return 8 * ((1 + shuffles) * units * (concepts + categories) + 2 * concepts + categories)


def layer_groups(
    layers: Sequence[Layer],
    images: int,
    quantile: float,
    map_sizes: Mapping[str, int],
    count_bytes: Mapping[str, int],
) -> list[list[Layer]]:
    """Return the layers that are computed together, in the network's order.

    Up to `SHARD_IMAGES` images, the activations of a group can be kept in memory between two passes, or are computed
    twice where they turn out larger than declared. Of more images, the shards of a group can keep their largest
    activations; or the group is as large as if there were `SHARD_IMAGES`, and there are fewer shards.

    The groups do not depend on the size of the shards: ONNX Runtime fuses operators whose values nobody asks for, and
    a layer's last bits may depend on which others are asked for with it.
    """
    many = images > SHARD_IMAGES
    room = float(limits.KEPT_ACTIVATION_BYTES)
    counts_room = limits.SHARDED_BYTES / math.ceil(images / SHARD_IMAGES)
    if many:
        values = math.ceil(images / SHARD_IMAGES) * images * quantile
        room = max(room / SHARD_IMAGES, limits.SHARDED_BYTES / values)
    groups: list[list[Layer]] = []
    total = counts = 0
    for layer in layers:
        declared = math.prod(length or 1 for length in layer.spatial_shape)
        size = 4 * layer.unit_count * (map_sizes[layer.name] if many else images * declared)
        kept = count_bytes[layer.name]
        full = total + size > room or counts + kept > counts_room
        if not groups or full or len(groups[-1]) == _LAYERS_IN_A_JOB:
            groups.append([])
            total = counts = 0
        groups[-1].append(layer)
        total, counts = total + size, counts + kept
    return groups


@dataclass(frozen=True)
class Extent:
    """What the sizes of a group's jobs depend on: units and positions of each layer's maps, and what holds for all."""

    units: tuple[int, ...]
    positions: tuple[int, ...]
    images: int
    quantile: float
    concepts: int
    categories: int
    best_images: int
    shuffles: int

    @property
    def activation_bytes(self) -> int:
        """What the activations of all layers take on all images."""
        return 4 * self.images * sum(units * positions for units, positions in self._layers)

    def shards(self, size: int | None) -> int:
        """Return the number of shards of `size` images; if None a default, fewer where they kept too much together."""
        if size is not None:
            return math.ceil(self.images / size)
        largest = max(self.top_bytes(self.images), self.count_bytes)
        return max(1, min(math.ceil(self.images / SHARD_IMAGES), limits.SHARDED_BYTES // max(1, largest)))

    def top_bytes(self, images: int) -> int:
        """Return the most that a shard of so many images stores of its largest activations and best images."""
        values = sum(
            units * min(images * positions, kept_values(self.images * positions, self.quantile))
            for units, positions in self._layers
        )
        return 4 * values + sum(self.units) * (4 + 12 * min(images, self.best_images))

    @property
    def merged_bytes(self) -> int:
        """What the merged thresholds and best images take."""
        return sum(self.units) * (16 + 8 * min(self.images, self.best_images))

    @property
    def count_bytes(self) -> int:
        """What one shard's counts take."""
        return sum(counts_size(units, self.concepts, self.categories, self.shuffles) for units in self.units)

    def result_bytes(self, best_units: int) -> int:
        """Return what the group's tables, arrays and pictures take."""
        pictures = sum(min(best_units, units) for units in self.units) * min(self.images, self.best_images)
        counts = sum(counts_size(units, self.concepts, self.categories, 0) for units in self.units)
        numbers = counts + 8 * sum(self.units) * (self.concepts + 1 + 2 * self.shuffles)
        return numbers + _ROW_BYTES * sum(self.units) + _PICTURE_BYTES * pictures

    @property
    def _layers(self) -> list[tuple[int, int]]:
        return list(zip(self.units, self.positions, strict=True))
