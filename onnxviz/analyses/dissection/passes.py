"""The passes over the images: for thresholds and the images of highest peaks, for overlaps, perhaps for formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

import numpy as np

from onnxviz.analyses.dissection.counting import Grid, Labels, categories_of, count_image
from onnxviz.analyses.dissection.fit import LayerCounts
from onnxviz.analyses.dissection.formulas import SHUFFLES, LabelSets, SetCounts
from onnxviz.analyses.dissection.presence import PeakSample
from onnxviz.analyses.dissection.sharding import Setting
from onnxviz.analyses.dissection.thresholds import BestImages, LargestValues, Thresholds, kept_values
from onnxviz.analyses.sharding import LastLook, Pass
from onnxviz.analyses.stream import Batch
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.sampling import spread_evenly

_ROW_BYTES = 200
"""A line of the units table, as JSON."""
_PICTURE_BYTES = 12_000
"""A photograph with a mask, 240 pixels, as JPEG."""

Top: TypeAlias = tuple[tuple[LargestValues, BestImages], ...]
Excitations: TypeAlias = tuple[tuple[Thresholds, BestImages], ...]
Sets: TypeAlias = tuple[tuple[SetCounts, ...], ...]
"""Of the two halves of the images; of each layer."""
Counts: TypeAlias = tuple[tuple[LayerCounts, PeakSample], ...]


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
        """Count the pixels of a shard's images, and keep the peaks of those that are in the sample."""
        setting, exchange = self.setting, self.setting.exchange
        cuts = [thresholds.values for thresholds, _ in before[0]]
        categories, count = categories_of(setting.data), len(setting.images)
        counts = tuple(
            LayerCounts.empty(setting.parts, setting.shuffles, layer.unit_count, categories, setting.count_type)
            for layer in setting.layers
        )
        samples: list[list[PeakSample]] = [[] for _ in setting.layers]
        size = setting.analysis.label_sides(setting.subject.input_size)
        labels = Labels(setting.data, size, exchange.reach)
        places = {image: place for place, image in enumerate(exchange.order)}
        for batch in batches:
            maps = setting.maps(batch.activations)
            grids = [Grid.between((each.shape[2], each.shape[3]), size) for each in maps]
            has = np.zeros((len(batch.images), len(categories)), bool)
            for row, image in enumerate(batch.images):
                place = places[image]
                own_and_others = [labels.of(owner) for owner in exchange.owners(place)]
                has[row] = own_and_others[0].area > 0
                for layer_counts, values, cut, grid in zip(counts, maps, cuts, grids, strict=True):
                    count_image(*layer_counts.at(place, count), values[row], cut, own_and_others, grid)
            chosen = [row for row, image in enumerate(batch.images) if image in setting.sample]
            numbers = [batch.images[row] for row in chosen]
            for kept, values in zip(samples, maps, strict=True):
                kept.append(PeakSample.of(numbers, values[chosen], has[chosen]))
        return tuple((one, PeakSample.joined(kept)) for one, kept in zip(counts, samples, strict=True))

    def join(self, one: Counts, other: Counts) -> Counts:
        """Add up."""
        return tuple((a + c, PeakSample.joined([b, d])) for (a, b), (c, d) in zip(one, other, strict=True))

    def conclude(self, whole: Counts, before: Sequence[Any], last: LastLook) -> Any:
        """Show what was counted, or hand it on; only images that are shown are computed again."""
        if self.setting.analysis.formula_length > 1:
            return whole
        return self.setting.analysis.findings(self.setting, before[0], whole, (), last)

    def stored_bytes(self, images: int | None) -> int:
        """Return what a shard's counts take, which are as large of any number, or all tables, arrays and pictures."""
        setting = self.setting
        if images is not None:
            sampled = min(images, len(setting.sample))
            kept = sampled * (4 * setting.units + len(setting.layers) * (8 + len(setting.data.concepts)))
            return setting.count_bytes(setting.layers) + kept
        if setting.analysis.formula_length > 1:
            return self.stored_bytes(len(setting.images))
        return conclusion_bytes(setting)

    def images_again(self) -> int:
        """Return the number of images that are shown, at most."""
        return images_shown(self.setting) if self.setting.analysis.formula_length == 1 else 0


@dataclass(frozen=True)
class FormulasPass(Pass[Sets]):
    """Counts pixels by the set of their concepts for the units that are shown; concludes with all that was found."""

    setting: Setting
    name: ClassVar[str] = "sets of labels"
    conclusion: ClassVar[str] = "formulas"

    def fold(self, batches: Iterable[Batch], before: Sequence[Any]) -> Sets:
        """Count the pixels of a shard's images."""
        setting, exchange = self.setting, self.setting.exchange
        units = [fit.best_units(setting.analysis.best_units) for fit in setting.fits(before[1])]
        cuts = [thresholds.values[chosen] for (thresholds, _), chosen in zip(before[0], units, strict=True)]
        labellings = [0, *spread_evenly(range(1, setting.shuffles + 1), SHUFFLES)]
        size = setting.analysis.label_sides(setting.subject.input_size)
        labels = Labels(setting.data, size, 1)
        label_sets = lru_cache(exchange.reach)(lambda image: LabelSets.of(labels.of(image)))
        places = {image: place for place, image in enumerate(exchange.order)}
        found = [[SetCounts.empty(len(labellings), len(chosen)) for _ in range(2)] for chosen in units]
        for batch in batches:
            maps = setting.maps(batch.activations)
            grids = [Grid.between((each.shape[2], each.shape[3]), size) for each in maps]
            for row, image in enumerate(batch.images):
                owners = exchange.owners(places[image])
                sets = [label_sets(owners[labelling]) for labelling in labellings]
                half = places[image] * 2 // len(exchange.order)
                for halves, values, chosen, cut, grid in zip(found, maps, units, cuts, grids, strict=True):
                    own = SetCounts.of_image(values[row, chosen], cut, sets, grid)
                    halves[half] = SetCounts.joined([halves[half], own])
        return tuple(tuple(halves) for halves in found)

    def join(self, one: Sets, other: Sets) -> Sets:
        """Add up."""
        return tuple(
            tuple(SetCounts.joined(both) for both in zip(a, b, strict=True)) for a, b in zip(one, other, strict=True)
        )

    def conclude(self, whole: Sets, before: Sequence[Any], last: LastLook) -> list[Any]:
        """Show what was counted, with the formulas that follow."""
        return self.setting.analysis.findings(self.setting, before[0], before[1], whole, last)

    def stored_bytes(self, images: int | None) -> int:
        """Return about what all tables, arrays and pictures take; how many sets there are nobody knows before."""
        return conclusion_bytes(self.setting) if images is None else 0

    def images_again(self) -> int:
        """Return the number of images that are shown, at most."""
        return images_shown(self.setting)


def conclusion_bytes(setting: Setting) -> int:
    """Return the most that all tables, arrays and pictures of some layers take."""
    shown = sum(min(setting.analysis.best_units, layer.unit_count) for layer in setting.layers)
    pictures = shown * min(len(setting.images), setting.analysis.best_images)
    concepts, categories = len(setting.data.concepts), len(setting.data.categories)
    numbers = 8 * setting.units * (2 * concepts + categories + 9 + 2 * setting.shuffles)
    return numbers + _ROW_BYTES * setting.units + _PICTURE_BYTES * pictures


def images_shown(setting: Setting) -> int:
    """Return in how many images units are shown, at most."""
    shown = len(setting.layers) * setting.analysis.best_units * setting.analysis.best_images
    return min(len(setting.images), shown)
