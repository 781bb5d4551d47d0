"""The two passes over the images: first for thresholds and the images of highest peaks, then for overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from onnxviz.analyses.dissection.counting import Grid, Labels, categories_of, count_image
from onnxviz.analyses.dissection.fit import LayerCounts
from onnxviz.analyses.dissection.sharding import Setting
from onnxviz.analyses.dissection.thresholds import BestImages, LargestValues, Thresholds, kept_values
from onnxviz.analyses.sharding import LastLook, Pass
from onnxviz.analyses.stream import Batch
from onnxviz.core.errors import AnalysisError, shorten

_ROW_BYTES = 200
"""A line of the units table, as JSON."""
_PICTURE_BYTES = 12_000
"""A photograph with a mask, 240 pixels, as JPEG."""

Top: TypeAlias = tuple[tuple[LargestValues, BestImages], ...]
Excitations: TypeAlias = tuple[tuple[Thresholds, BestImages], ...]
Counts: TypeAlias = tuple[LayerCounts, ...]


@dataclass(frozen=True)
class TopValuesPass(Pass[Top]):
    """Keeps the largest activations and the best images; concludes with thresholds and the images to show."""

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
                    parts.append(LargestValues.of(values, positions, setting.analysis.quantile))
                except AnalysisError as fault:
                    raise AnalysisError(fault.what, where=shorten(layer.name), remedy=fault.remedy) from fault
                if sum(part.top.shape[1] for part in parts) > kept_values(positions, setting.analysis.quantile):
                    parts[:] = [LargestValues.joined(parts)]
            found = [BestImages.of(each, batch.images, setting.analysis.best_images) for each in maps]
            best = [one.join(other) for one, other in zip(best, found, strict=True)] if best else found
        return tuple((LargestValues.joined(parts), images) for parts, images in zip(tops, best, strict=True))

    def join(self, one: Top, other: Top) -> Top:
        """Keep the largest and highest of both."""
        return tuple((LargestValues.joined((a, c)), b.join(d)) for (a, b), (c, d) in zip(one, other, strict=True))

    def conclude(self, whole: Top, *_: Any) -> Excitations:
        """Make thresholds of the largest activations."""
        return tuple((top.thresholds(), best) for top, best in whole)

    def stored_bytes(self, images: int | None) -> int:
        """Return the most that a shard's activations and images take, or thresholds and images."""
        setting, whole = self.setting, len(self.setting.images)
        if images is None:
            return setting.units * (16 + 12 * min(whole, setting.analysis.best_images))
        values = 0
        for layer in setting.layers:
            positions = setting.positions(layer)
            kept = kept_values(whole * positions, setting.analysis.quantile)
            values += layer.unit_count * min(images * positions, kept)
        return 4 * values + setting.units * (4 + 12 * min(images, setting.analysis.best_images))


@dataclass(frozen=True)
class OverlapsPass(Pass[Counts]):
    """Counts pixels of masks and labels; concludes with what the analysis makes of them."""

    setting: Setting
    name: ClassVar[str] = "counts"
    conclusion: ClassVar[str] = "units"

    def fold(self, batches: Iterable[Batch], before: Sequence[Any]) -> Counts:
        """Count the pixels of a shard's images."""
        setting, exchange = self.setting, self.setting.exchange
        cuts = [thresholds.values for thresholds, _ in before[0]]
        categories, count = categories_of(setting.data), len(setting.images)
        counts = tuple(
            LayerCounts.empty(setting.parts, setting.shuffles, layer.unit_count, categories, setting.count_type)
            for layer in setting.layers
        )
        size = setting.analysis.label_sides(setting.subject.input_size)
        labels = Labels(setting.data, size, exchange.reach)
        places = {image: place for place, image in enumerate(exchange.order)}
        for batch in batches:
            maps = setting.maps(batch.activations)
            grids = [Grid.between((each.shape[2], each.shape[3]), size) for each in maps]
            for row, image in enumerate(batch.images):
                place = places[image]
                own_and_others = [labels.of(owner) for owner in exchange.owners(place)]
                for layer_counts, values, cut, grid in zip(counts, maps, cuts, grids, strict=True):
                    count_image(*layer_counts.at(place, count), values[row], cut, own_and_others, grid)
        return counts

    def join(self, one: Counts, other: Counts) -> Counts:
        """Add up."""
        return tuple(a + b for a, b in zip(one, other, strict=True))

    def conclude(self, whole: Counts, before: Sequence[Any], last: LastLook) -> list[Any]:
        """Show what was counted; only images that are shown are computed again."""
        return self.setting.analysis.findings(self.setting, before[0], whole, last)

    def stored_bytes(self, images: int | None) -> int:
        """Return what a shard's counts take, which are as large of any number, or all tables, arrays and pictures."""
        setting = self.setting
        if images is not None:
            return setting.count_bytes(setting.layers)
        shown = sum(min(setting.analysis.best_units, layer.unit_count) for layer in setting.layers)
        pictures = shown * min(len(setting.images), setting.analysis.best_images)
        concepts, categories = len(setting.data.concepts), len(setting.data.categories)
        numbers = 8 * setting.units * (2 * concepts + categories + 6 + 2 * setting.shuffles)
        return numbers + _ROW_BYTES * setting.units + _PICTURE_BYTES * pictures

    def images_again(self) -> int:
        """Return the number of images that are shown, at most."""
        setting = self.setting
        return min(
            len(setting.images), len(setting.layers) * setting.analysis.best_units * setting.analysis.best_images
        )
