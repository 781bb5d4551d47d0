"""Which layers dissection computes together, and what each job on them goes by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.base import Subject
from onnxviz.analyses.dissection.chance import Exchange, likeness
from onnxviz.analyses.dissection.counting import CountType, count_type
from onnxviz.analyses.dissection.fit import Fit, LayerCounts, part_count
from onnxviz.analyses.dissection.presence import MOST_IMAGES, PeakSample
from onnxviz.analyses.sharding import SHARD_IMAGES, map_size
from onnxviz.analyses.stream import Activations
from onnxviz.core import limits
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import Layer
from onnxviz.model.maps import to_map

if TYPE_CHECKING:
    from onnxviz.analyses.dissection.analysis import Dissection
    from onnxviz.data.concepts import ConceptSet

_LAYERS_IN_A_JOB = 8


@dataclass(frozen=True)
class Setting:
    """What a job goes by: the analysis, layers that are computed together, the model, the labelled images it uses."""

    analysis: Dissection
    layers: Sequence[Layer]
    subject: Subject
    data: ConceptSet
    images: Sequence[int]

    @property
    def shuffles(self) -> int:
        """The number of shuffles: of few images there are fewer in which none has its own labels."""
        return min(self.analysis.shuffles, len(self.images) - 1)

    @cached_property
    def exchange(self) -> Exchange:
        """Which labels each image is given in the shuffles; it looks at labels."""
        return Exchange.of(self.images, self.shuffles, self.subject.seed, likeness(self.data, self.images))

    @property
    def parts(self) -> int:
        """The number of parts into which the images are cut; it looks at labels."""
        alike = self.exchange.alike
        return part_count(len(self.images), 1 if alike is None else alike.distance)

    @property
    def likeness(self) -> float:
        """How many images stand for one independent one; it looks at labels.

        Where a quarter of the likeness is left at a distance, half of that, since what counts is how alike both
        activations and labels are: intervals of an AUC held so (`presence`) in simulated films.
        """
        alike = self.exchange.alike
        return 1.0 if alike is None else max(1.0, alike.distance / 2)

    @cached_property
    def sample(self) -> frozenset[int]:
        """The images whose peaks are kept."""
        return frozenset(spread_evenly(self.images, MOST_IMAGES))

    @property
    def count_type(self) -> CountType:
        """The type of what is counted."""
        height, width = self.analysis.label_sides(self.subject.input_size)
        return count_type(len(self.images) * height * width)

    @property
    def units(self) -> int:
        """Units of all layers."""
        return sum(layer.unit_count for layer in self.layers)

    def positions(self, layer: Layer) -> int:
        """Return the number of positions of a layer's maps."""
        return map_size(self.subject.view, layer, self.subject.input_size)

    def count_bytes(self, layers: Sequence[Layer]) -> int:
        """Return the most that counts of some layers take, with the images' own labels and with those of shuffles."""
        concepts, categories = len(self.data.concepts), len(self.data.categories)
        units = sum(layer.unit_count for layer in layers)
        own = units * (concepts + categories) + len(layers) * (2 * concepts + categories)
        shuffled = units * (concepts + categories) + len(layers) * concepts
        counts = part_count(len(self.images), 1) * own + 2 * self.shuffles * shuffled
        return np.dtype(self.count_type).itemsize * counts

    def groups(self) -> list[list[Layer]]:
        """Return the layers that are computed together, in the network's order.

        Up to `SHARD_IMAGES` images, the activations of a group can be kept in memory between two passes, or are
        computed twice where they turn out larger than declared. Of more images, the shards of a group can keep their
        largest activations; or the group is as large as if there were `SHARD_IMAGES`, and there are fewer shards. It
        does not depend on the size of the shards, since a layer's last bits may depend on what is computed with it.
        """
        count = len(self.images)
        many = count > SHARD_IMAGES
        room = float(limits.KEPT_ACTIVATION_BYTES)
        counts_room = limits.SHARDED_BYTES / math.ceil(count / SHARD_IMAGES)
        if many:
            values = math.ceil(count / SHARD_IMAGES) * count * self.analysis.quantile
            room = max(room / SHARD_IMAGES, limits.SHARDED_BYTES / values)
        groups: list[list[Layer]] = []
        total = counts = 0
        for layer in self.layers:
            declared = math.prod(length or 1 for length in layer.spatial_shape)
            size = 4 * layer.unit_count * (self.positions(layer) if many else count * declared)
            kept = self.count_bytes([layer])
            full = total + size > room or counts + kept > counts_room
            if not groups or full or len(groups[-1]) == _LAYERS_IN_A_JOB:
                groups.append([])
                total = counts = 0
            groups[-1].append(layer)
            total, counts = total + size, counts + kept
        return groups

    def fits(self, counts: Sequence[tuple[LayerCounts, PeakSample]]) -> list[Fit]:
        """Return how well each layer's units fit the concepts."""
        return [Fit.of(own, sample, self.analysis.least_images, self.likeness) for own, sample in counts]

    def maps(self, activations: Activations) -> list[npt.NDArray[np.float32]]:
        """Return each layer's maps, float32 [images, units, height, width], of the lower side with the other sign."""
        found = [np.ascontiguousarray(to_map(layer, activations[layer.name])) for layer in self.layers]
        for layer, maps in zip(self.layers, found, strict=True):
            if maps.ndim != 4:
                raise AnalysisError(
                    f"the activations of {shorten(layer.name)!r} are no maps (shape {maps.shape[1:]})",
                    remedy="choose layers whose units have a height and a width",
                )
        return found if self.analysis.side == "upper" else [-maps for maps in found]
