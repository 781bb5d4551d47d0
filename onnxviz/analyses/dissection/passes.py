"""The two passes over the images: first for thresholds and the images of highest peaks, then for overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.base import Subject
from onnxviz.analyses.dissection.chance import Exchange, likeness
from onnxviz.analyses.dissection.counting import Grid, Labels, Overlap, ShuffledOverlap, categories_of, count_image
from onnxviz.analyses.dissection.sharding import counts_size
from onnxviz.analyses.dissection.thresholds import BestImages, LargestValues, Thresholds, kept_values
from onnxviz.analyses.sharding import LastLook, Pass, map_size
from onnxviz.analyses.stream import Activations, Batch
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.values import Layer
from onnxviz.model.maps import to_map

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

_ROW_BYTES = 200
"""A line of the units table, as JSON."""
_PICTURE_BYTES = 12_000
"""A photograph with a mask, 240 pixels, as JPEG."""

Top: TypeAlias = tuple[tuple[LargestValues, BestImages], ...]
Counts: TypeAlias = tuple[tuple[Overlap, ShuffledOverlap], ...]
"""Of each layer; with the images' own labels and with those of each shuffle."""


@dataclass(frozen=True, eq=False)
class Excitation:
    """When the units of a layer are strongly active.

    Attributes:
        thresholds: what their activations are cut at.
        images: int64 [units, most images shown or fewer], those that excite them most, the first first.
    """

    thresholds: Thresholds
    images: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """What both passes over a group of layers go by.

    Attributes:
        subject: the model.
        layers: those of the group.
        data: the labelled images.
        images: the numbers of those that are used.
        size: height and width at which masks and labels are compared.
        quantile: the share of positions above a threshold.
        best_units: most units of each layer that are shown.
        best_images: most images that are shown of each.
        shuffles: how often images get the labels of others.
    """

    subject: Subject
    layers: tuple[Layer, ...]
    data: ConceptSet
    images: tuple[int, ...]
    size: tuple[int, int]
    quantile: float
    best_units: int
    best_images: int
    shuffles: int

    @cached_property
    def exchange(self) -> Exchange:
        """Which labels each image is given in the shuffles; it looks at labels."""
        return Exchange.of(self.images, self.shuffles, self.subject.seed, likeness(self.data, self.images))

    @property
    def units(self) -> int:
        """Units of all layers."""
        return sum(layer.unit_count for layer in self.layers)

    def count_bytes(self, shuffles: int) -> int:
        """Return what counts with the labels of so many shuffles take."""
        kinds = len(self.data.concepts), len(self.data.categories)
        return sum(counts_size(layer.unit_count, *kinds, shuffles) for layer in self.layers)

    def maps(self, activations: Activations) -> list[npt.NDArray[np.float32]]:
        """Return each layer's maps, float32 [images, units, height, width]."""
        found = [np.ascontiguousarray(to_map(layer, activations[layer.name])) for layer in self.layers]
        for layer, maps in zip(self.layers, found, strict=True):
            if maps.ndim != 4:
                raise AnalysisError(
                    f"the activations of {shorten(layer.name)!r} are no maps (shape {maps.shape[1:]})",
                    remedy="choose layers whose units have a height and a width",
                )
        return found


@dataclass(frozen=True)
class TopValuesPass(Pass[Top]):
    """Keeps the largest activations and the best images; concludes with an `Excitation` of each layer."""

    setting: Setting
    name: ClassVar[str] = "top values"
    conclusion: ClassVar[str] = "thresholds"

    def order(self, images: Sequence[int]) -> Sequence[int]:  # noqa: ARG002 - the setting has them
        """Return the images as labels are passed on, so that those of a shard's images are few."""
        return self.setting.exchange.order

    def fold(self, batches: Iterable[Batch], before: Sequence[Any]) -> Top:  # noqa: ARG002 - the first pass
        """Keep the largest activations of each unit, and the images of its highest peaks."""
        setting = self.setting
        tops: list[list[LargestValues]] = [[] for _ in setting.layers]
        best: list[BestImages] = []
        for batch in batches:
            maps = setting.maps(batch.activations)
            for layer, parts, values in zip(setting.layers, tops, maps, strict=True):
                positions = len(setting.images) * values[0, 0].size
                try:
                    parts.append(LargestValues.of(values, positions, setting.quantile))
                except AnalysisError as fault:
                    raise AnalysisError(fault.what, where=shorten(layer.name), remedy=fault.remedy) from fault
                if sum(part.top.shape[1] for part in parts) > kept_values(positions, setting.quantile):
                    parts[:] = [LargestValues.joined(parts)]
            found = [BestImages.of(each, batch.images, setting.best_images) for each in maps]
            best = [one.join(other) for one, other in zip(best, found, strict=True)] if best else found
        return tuple((LargestValues.joined(parts), images) for parts, images in zip(tops, best, strict=True))

    def join(self, one: Top, other: Top) -> Top:
        """Keep the largest and highest of both."""
        return tuple((LargestValues.joined((a, c)), b.join(d)) for (a, b), (c, d) in zip(one, other, strict=True))

    def conclude(self, whole: Top, *_: Any) -> tuple[Excitation, ...]:
        """Return the thresholds of the whole data set, and the images to show."""
        return tuple(Excitation(top.thresholds(), best.images) for top, best in whole)

    def stored_bytes(self, images: int | None) -> int:
        """Return the most that a shard's activations and images take, or thresholds and images."""
        setting, whole = self.setting, len(self.setting.images)
        if images is None:
            return setting.units * (16 + 8 * min(whole, setting.best_images))
        values = 0
        for layer in setting.layers:
            positions = map_size(setting.subject.view, layer, setting.subject.input_size)
            values += layer.unit_count * min(images * positions, kept_values(whole * positions, setting.quantile))
        return 4 * values + setting.units * (4 + 12 * min(images, setting.best_images))


@dataclass(frozen=True)
class OverlapsPass(Pass[Counts]):
    """Counts pixels of masks and labels; concludes with what `show` makes of it."""

    setting: Setting
    show: Callable[[Setting, Sequence[Excitation], Counts, LastLook], list[Any]]
    name: ClassVar[str] = "counts"
    conclusion: ClassVar[str] = "units"

    def fold(self, batches: Iterable[Batch], before: Sequence[Any]) -> Counts:
        """Count the pixels of a shard's images."""
        setting, exchange = self.setting, self.setting.exchange
        thresholds = [excitation.thresholds.values for excitation in before[0]]
        categories, shuffles = categories_of(setting.data), setting.shuffles
        counts = tuple(
            (Overlap.empty(units, categories), ShuffledOverlap.empty(shuffles, units, categories))
            for units in (layer.unit_count for layer in setting.layers)
        )
        labels = Labels(setting.data, setting.size, exchange.reach)
        places = {image: place for place, image in enumerate(exchange.order)}
        for batch in batches:
            maps = setting.maps(batch.activations)
            grids = [Grid.between((each.shape[2], each.shape[3]), setting.size) for each in maps]
            for row, image in enumerate(batch.images):
                own_and_others = [labels.of(owner) for owner in exchange.owners(places[image])]
                for layer_counts, values, cuts, grid in zip(counts, maps, thresholds, grids, strict=True):
                    count_image(*layer_counts, values[row], cuts, own_and_others, grid)
        return counts

    def join(self, one: Counts, other: Counts) -> Counts:
        """Add up."""
        return tuple((a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True))

    def conclude(self, whole: Counts, before: Sequence[Any], last: LastLook) -> list[Any]:
        """Show what was counted; only images that are shown are computed again."""
        return self.show(self.setting, before[0], whole, last)

    def stored_bytes(self, images: int | None) -> int:
        """Return what a shard's counts take, which are as large of any number, or all tables, arrays and pictures."""
        setting = self.setting
        if images is not None:
            return setting.count_bytes(setting.shuffles)
        shown = sum(min(setting.best_units, layer.unit_count) for layer in setting.layers)
        pictures = shown * min(len(setting.images), setting.best_images)
        numbers = setting.count_bytes(0) + 8 * setting.units * (len(setting.data.concepts) + 1 + 2 * setting.shuffles)
        return numbers + _ROW_BYTES * setting.units + _PICTURE_BYTES * pictures

    def images_again(self) -> int:
        """Return the number of images that are shown, at most."""
        setting = self.setting
        return min(len(setting.images), len(setting.layers) * setting.best_units * setting.best_images)
