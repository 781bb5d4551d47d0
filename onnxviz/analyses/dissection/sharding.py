"""Which layers dissection computes together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxviz.analyses.sharding import SHARD_IMAGES
from onnxviz.core import limits
from onnxviz.core.values import Layer

_LAYERS_IN_A_JOB = 8


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
