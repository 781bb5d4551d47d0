"""Network dissection: which units detect which labelled concepts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from onnxviz.analyses import presentation
from onnxviz.analyses.base import Analysis, Job, JobContext, LayerSelector, Progress, Subject
from onnxviz.analyses.dissection.chance import Chance, Exchange, likeness
from onnxviz.analyses.dissection.counting import Grid, Labels, Overlap, ShuffledOverlap, categories_of, count_image
from onnxviz.analyses.dissection.naming import (
    caveats,
    chance_rows,
    named_units,
    remarks,
    rivals,
)
from onnxviz.analyses.dissection.passes import Activations, Passes
from onnxviz.analyses.dissection.pictures import PICTURE_SIDE, maps_of, masked, shown, tile_of
from onnxviz.analyses.dissection.sharding import Extent, counts_size, layer_groups, map_size
from onnxviz.analyses.dissection.summary import (
    METRICS,
    UNIT_COLUMNS,
    ByChance,
    ChanceRow,
    GroupResult,
    Summary,
    UnitResult,
)
from onnxviz.analyses.dissection.thresholds import BestImages, Thresholds, TopValues
from onnxviz.analyses.stream import measured, shard_bounds
from onnxviz.core import limits
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Array, Caveat, Coverage, Finding, Table, Tile, TileGrid
from onnxviz.core.values import Layer
from onnxviz.core.wording import listed
from onnxviz.data.image_choice import choose_images, find_source
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.model.maps import to_map

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

Side = Annotated[int, Field(ge=1, le=2048)]


class Dissection(Analysis):
    """Which labelled concepts the units detect.

    Each unit gets a threshold that a fixed share of all its activations exceeds, over all positions of all images at
    the layer's own resolution. Its activation map is enlarged to the resolution of the labels, and cut at the
    threshold: the unit's mask. The mask is compared with the pixels of every labelled concept over the whole data set
    by intersection over union (IoU), in the images that have a label of the concept's category. A unit is named
    after the concept of highest IoU, of those that are in enough images. It is a detector of it if that IoU reaches
    the limit and is above the unit's chance level: the highest IoU that it has with any of these concepts when each
    image has the labels of another image, in several shuffles. The number of concepts with more detectors than in any
    shuffle is the number of unique detectors. Beside each number stands what is counted the same way in the shuffles.
    Images are stretched to the model's input, not cropped, so that no labelled pixel is lost. A unit without a concept
    may detect something that nobody labelled.
    """

    kind: Literal["dissection"] = "dissection"
    heading: ClassVar[str] = "Network dissection"
    version: ClassVar[int] = 4
    results: ClassVar[tuple[type, ...]] = (GroupResult, UnitResult, ChanceRow)
    without_effect: ClassVar[frozenset[str]] = Analysis.without_effect | {"shard"}
    cites: ClassVar[tuple[str, ...]] = ("Bau, Zhou, Khosla, Oliva and Torralba 2017, arXiv:1704.05796",)
    reading: ClassVar[str] = (
        "The outlined bright part of each picture is where the unit is strongly active. If it covers the same thing "
        "in every picture of a row, the unit detects that thing."
    )
    example: ClassVar[str] = """\
kind: dissection
layers: [block_outputs, "Conv[0]"]
data: scenes
quantile: 0.005
iou: 0.04
"""
    metric_names: ClassVar[Mapping[str, str]] = presentation.described(METRICS)

    layers: LayerSelector = Field(
        "block_outputs",
        description="Layers to dissect; their units must have maps, as tokens of a grid of patches have. "
        "`block_outputs` are what later blocks read; the units of single convolutions are `all_convs`.",
    )
    data: str | None = Field(
        None, description="A data set with labelled concepts; the recipe's first such set if not given."
    )
    quantile: float = Field(0.005, gt=0, lt=1, description="The share of a unit's activations above its threshold.")
    iou: float = Field(
        0.04, gt=0, le=1, description="A unit detects its best concept from this IoU on, if above chance."
    )
    least_images: int = Field(
        10, ge=1, description="A concept in fewer of the images that are used is left out: no unit is named after it."
    )
    shuffles: int = Field(
        20,
        ge=1,
        le=1000,
        description="How often the images get the labels of other images, to see what a unit fits by chance.",
    )
    label_size: Side | tuple[Side, Side] | None = Field(
        None,
        description="Side in pixels at which masks and labels are compared, or [height, width]; if not given 112 for "
        "an input of 224 pixels and more, else the input's size.",
    )
    images: int | None = Field(
        None, ge=1, description="Use at most this many images, spread evenly over the data set; all if not given."
    )
    best_units: int = Field(12, ge=0, le=10_000, description="Units of each layer that are shown in pictures.")
    best_images: int = Field(4, ge=1, le=64, description="Images shown for each unit: those that excite it most.")
    shard: int | None = Field(
        None,
        ge=1,
        description="Most images in one job: more are split into shards, which several workers can take at once, with "
        "the same result; if not given about 1,000, or more where a layer's maps are very large.",
    )

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Split the layers into groups whose activations fit in memory together, and many images into shards.

        With shards, a group takes two passes of jobs over the images: one for the largest activations of each shard,
        which a job merges into thresholds, and one for its counts, which a job adds up.
        """
        name, data = self._concepts(subject)
        layers = _with_maps(subject.view.select(self.layers))
        if not layers:
            chosen = subject.view.select(self.layers)
            why = "; ".join(f"{shorten(layer.name, 60)}: {layer.unplaced}" for layer in chosen[:3] if layer.unplaced)
            raise AnalysisError(
                f"none of the layers {self.layers!r} has units with maps, so nothing can be compared with labels"
                + (f": {why}" if why else ""),
                remedy="choose layers whose units have a height and a width, for example block_outputs",
            )
        images = len(self._images(data))
        map_sizes = {layer.name: map_size(subject.view, layer, subject.input_size) for layer in layers}
        count_bytes = {
            layer.name: counts_size(layer.unit_count, len(data.concepts), len(data.categories), self._shuffles(data))
            for layer in layers
        }
        groups = layer_groups(layers, images, self.quantile, map_sizes, count_bytes)
        for number, group in enumerate(groups):
            names = [layer.name for layer in group]
            extent = Extent(
                units=tuple(layer.unit_count for layer in group),
                positions=tuple(map_sizes[name] for name in names),
                images=images,
                quantile=self.quantile,
                concepts=len(data.concepts),
                categories=len(data.categories),
                best_images=self.best_images,
                shuffles=self._shuffles(data),
            )
            fits = extent.activation_bytes <= limits.KEPT_ACTIVATION_BYTES
            whole = Job(
                name=f"layers {number + 1}/{len(groups)}",
                parameters={"layers": names},
                layers=tuple(names),
                data=(name,),
                cost=float(images if fits else 2 * images),
                images=images,
                bytes=extent.result_bytes(self.best_units),
            )
            count = extent.shards(self.shard)
            if count == 1:
                yield whole
            else:
                yield from self._shard_jobs(whole, extent, count)

    def _shard_jobs(self, whole: Job, extent: Extent, count: int) -> Iterator[Job]:
        """Yield the jobs that do a whole group's job in shards."""

        def stage(kind: str, number: str, cost: float, images: int, size: int, **changes: Any) -> Job:
            parameters = {**whole.parameters, "stage": kind, **changes.pop("parameters")}
            name = f"{whole.name} {kind}{number}"
            return replace(whole, name=name, parameters=parameters, cost=cost, images=images, bytes=size, **changes)

        def shards(kind: str, size: Callable[[int], int], needs: tuple[str, ...] = ()) -> list[Job]:
            return [
                stage(
                    kind,
                    f" {number + 1}/{count}",
                    float(stop - start),
                    stop - start,
                    size(stop - start),
                    parameters={"images": [start, stop]},
                    needs=needs,
                    intermediate=True,
                )
                for number, (start, stop) in enumerate(shard_bounds(extent.images, count))
            ]

        parts = {"parameters": {"shards": count}}
        top_values = shards("top values", extent.top_bytes)
        needs = tuple(job.name for job in top_values)
        # No pass over images, but not quite nothing.
        thresholds = stage("thresholds", "", 1.0, 0, extent.merged_bytes, needs=needs, intermediate=True, **parts)
        counts = shards("counts", lambda _: extent.count_bytes, (thresholds.name,))
        needs = (thresholds.name, *(job.name for job in counts))
        shown = min(extent.images, len(extent.units) * self.best_units * self.best_images)
        yield from (*top_values, thresholds, *counts)
        yield stage("units", "", float(max(1, shown)), shown, whole.bytes, needs=needs, **parts)

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Dissect a group of layers, or do one stage of it on a shard: what `jobs` says."""
        _, data = self._concepts(context.subject)
        layers = tuple(context.subject.view.layer(str(name)) for name in cast("list[str]", job.parameters["layers"]))
        images = self._images(data)
        exchange = Exchange.of(images, self._shuffles(data), context.subject.seed, likeness(data, images))
        start, stop = job.parameters.get("images", (0, len(images)))
        model, order = context.model, exchange.order[start:stop]
        stages = {"": self._whole, "top values": self._top_values, "thresholds": self._merge,
                  "counts": self._counts, "units": self._join}  # fmt: skip
        with ReadAhead(data, order, replace(model.preprocessing, fit="stretch"), model.input_size) as read:
            work = _Work(job, context, layers, data, exchange, start, order, read)
            return stages[str(job.parameters.get("stage", ""))](work)

    def _whole(self, work: _Work) -> list[Any]:
        """Dissect a group of layers on all images: one pass for the thresholds, one for the counts, the pictures."""
        passes, steps = work.passes(keep=True), 2 * len(work.images)
        tops, best = self._take_tops(work, passes, steps)
        thresholds = {name: top.thresholds() for name, top in tops.items()}
        overlaps = self._count(work, passes, thresholds, len(work.images), steps)
        numbers = {name: images.images for name, images in best.items()}
        return self._findings(work, thresholds, numbers, overlaps, passes.of, None)

    def _top_values(self, work: _Work) -> list[Finding]:
        """Keep the largest activations and the best images of a shard."""
        tops, best = self._take_tops(work, work.passes(keep=False), len(work.images))
        return [
            work.array("top values", layer, {**tops[layer.name].arrays(), **best[layer.name].arrays()})
            for layer in work.layers
        ]

    def _merge(self, work: _Work) -> list[Finding]:
        """Make the thresholds of the whole data set, and find the images to show, from all shards."""
        findings: list[Finding] = []
        for layer in work.layers:
            first, *others = work.found("top values", layer)
            top, best = TopValues.of(first, self.quantile), BestImages.of(first, self.best_images)
            for part in others:
                top.merge(TopValues.of(part, self.quantile))
                best.merge(BestImages.of(part, self.best_images))
            arrays = {**top.thresholds().arrays(), "best_images": best.images}
            findings.append(work.array("thresholds", layer, arrays))
        return findings

    def _counts(self, work: _Work) -> list[Finding]:
        """Count the pixels of a shard."""
        thresholds = {layer.name: Thresholds.of(work.found("thresholds", layer)[0]) for layer in work.layers}
        overlaps = self._count(work, work.passes(keep=False), thresholds, 0, len(work.images))
        return [
            work.array("counts", layer, {**own.arrays(), **shuffled.arrays()})
            for layer in work.layers
            for own, shuffled in [overlaps[layer.name]]
        ]

    def _join(self, work: _Work) -> list[Any]:
        """Add up the counts of all shards, and show the best units; only the images shown are computed again."""
        merged = {layer.name: work.found("thresholds", layer)[0] for layer in work.layers}
        overlaps = {}
        for layer in work.layers:
            parts = work.found("counts", layer)
            own, shuffled = self._no_counts(work.data, layer.unit_count)
            for part in parts:
                own.merge(Overlap.of(part))
                shuffled.merge(ShuffledOverlap.of(part))
            overlaps[layer.name] = own, shuffled
        thresholds = {name: Thresholds.of(arrays) for name, arrays in merged.items()}
        best = {name: arrays["best_images"] for name, arrays in merged.items()}
        return self._findings(
            work, thresholds, best, overlaps, lambda image: work.measure((image,)), work.context.progress
        )

    def _findings(
        self,
        work: _Work,
        thresholds: Mapping[str, Thresholds],
        best: Mapping[str, npt.NDArray[np.int64]],
        overlaps: Mapping[str, tuple[Overlap, ShuffledOverlap]],
        measure: Callable[[int], Activations],
        progress: Progress | None,
    ) -> list[GroupResult | Finding]:
        """Return what was found of all layers, and pictures of it; `measure` gives one image's activations."""
        data = work.data
        first, _ = overlaps[work.layers[0].name]
        counted = first.images >= self.least_images  # which concepts a unit may be named after
        chances = {name: Chance.of(shuffled, own, counted) for name, (own, shuffled) in overlaps.items()}
        units = {
            name: named_units(name, data.concepts, thresholds[name], own, chances[name], counted, self.iou)
            for name, (own, _) in overlaps.items()
        }
        best_units = {
            name: sorted((unit for unit in found if unit.iou > 0), key=lambda unit: -unit.iou)[: self.best_units]
            for name, found in units.items()
        }
        chosen = {unit.unit: best[name][unit.unit.index].tolist() for name in best_units for unit in best_units[name]}
        maps = maps_of(chosen, measure, progress)
        picture_of = functools.cache(functools.partial(shown, data, domain=work.context.model.domain))
        by_chance = [
            row for name, chance in chances.items() for row in chance_rows(name, data.concepts, chance, self.iou)
        ]
        results = tuple(unit for found in units.values() for unit in found)
        findings: list[GroupResult | Finding] = [GroupResult(results, tuple(by_chance), tuple(first.images.tolist()))]
        shown_units = (
            f"The {self.best_units} units of highest IoU in each layer, each with the {self.best_images} images that "
            "excite it most. Dimmed: where the unit's activation is not above its threshold. By chance: the unit fits "
            "the labels of other images as well."
        )
        for layer in work.layers:
            name = layer.name
            own, _ = overlaps[name]
            ious = np.where(counted, own.iou(), 0.0)
            tiles = []
            for unit in best_units[name]:
                images = chosen[unit.unit]
                captions = [data.names[image] for image in images]
                pictures = tuple(
                    masked(unit, name, picture_of(image), maps[unit.unit, image])
                    for image, name in zip(images, captions, strict=True)
                )
                tiles.append(tile_of(unit, ious[unit.unit.index], data, pictures, captions))
            findings.append(
                TileGrid("best_units", "Units that fit a concept best", tuple(tiles), shown_units, PICTURE_SIDE)
            )
            findings.append(_numbers(layer, thresholds[name], own, chances[name], data))
        findings += caveats(data, work.exchange, first, counted, thresholds, self.quantile, self.iou)
        return findings

    def remarks(self, subject: Subject) -> tuple[str, ...]:
        """Say where the last convolution stands, if it is taken for the end of the network and is not."""
        return presentation.layer_remarks(self.layers, subject)

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Count detectors over all layers, and show those that fit best first."""
        _, data = self._concepts(subject)
        groups = [item for item in found if isinstance(item, GroupResult)]
        rest: list[Finding] = [item for item in found if not isinstance(item, GroupResult)]
        if not groups:
            return rest
        layers: dict[str, list[UnitResult]] = {}
        for unit in (unit for group in groups for unit in group.units):
            layers.setdefault(unit.unit.layer, []).append(unit)
        images = {(concept.category, concept.name): count
                  for concept, count in zip(data.concepts, groups[-1].images, strict=True)}  # fmt: skip
        counted = {key: count for key, count in images.items() if count >= self.least_images}
        chance = ByChance([row for group in groups for row in group.by_chance], self._shuffles(data))
        grids = [replace(item, tiles=tuple(sorted(item.tiles, key=_iou_of, reverse=True)))
                 for item in rest if isinstance(item, TileGrid)]  # fmt: skip
        rows = tuple(unit.row() for units in layers.values() for unit in units)
        return [
            *Summary(layers, chance, counted, data.categories, self.iou, self.least_images).findings(),
            *grids,
            Table("units", "Units", UNIT_COLUMNS, rows),
            *self._coverage(layers, images, subject),
            *remarks(layers, subject.view),
            *rivals(layers),
            *(item for item in rest if not isinstance(item, TileGrid)),
        ]

    def _concepts(self, subject: Subject) -> tuple[str, ConceptSet]:
        """Return the concept set's name and the set."""
        if self.data is None:
            # One that could not be opened may be the one; asking for it ends here, because its fault is told.
            for name in (*subject.data, *getattr(subject.data, "broken", ())):
                if hasattr(data := subject.data[name], "read_labels"):
                    return name, cast("ConceptSet", data)
            raise AnalysisError(
                "the recipe has no data set with labelled concepts",
                remedy="add one under `data:`, for example scenes: {builtin: scenes} or street: {concepts: folder}",
            )
        data = find_source(self.data, subject.data)
        if not hasattr(data, "read_labels"):
            raise AnalysisError(
                f"the images of {shorten(self.data)!r} have no labels for their pixels",
                remedy="name a data set with concepts: {concepts: folder} or {builtin: scenes}",
            )
        return self.data, cast("ConceptSet", data)

    def _images(self, data: ConceptSet) -> list[int]:
        return choose_images(data, None, self.images or len(data))

    def _label_size(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.label_size is not None:
            return (self.label_size, self.label_size) if isinstance(self.label_size, int) else self.label_size
        if max(size) < 224:
            return size
        return max(1, round(112 * size[0] / max(size))), max(1, round(112 * size[1] / max(size)))

    def _take_tops(self, work: _Work, passes: Passes, steps: int) -> tuple[dict[str, TopValues], dict[str, BestImages]]:
        """Return what is kept of the job's images for each layer; `steps` are those of the whole job."""
        images = len(self._images(work.data))
        tops = {
            name: TopValues(units, images * height * width, self.quantile)
            for name, (units, height, width) in passes.shapes.items()
        }
        best = {name: BestImages(shape[0], self.best_images) for name, shape in passes.shapes.items()}
        done = 0
        for batch, activations in passes:
            for name, values in activations.items():
                try:
                    tops[name].add(values)
                except AnalysisError as fault:
                    raise AnalysisError(fault.what, where=shorten(name), remedy=fault.remedy) from fault
                best[name].add(values, batch)
            done += len(batch)
            work.context.progress(done, steps, "thresholds")
        return tops, best

    def _count(
        self, work: _Work, passes: Passes, thresholds: Mapping[str, Thresholds], done: int, steps: int
    ) -> dict[str, tuple[Overlap, ShuffledOverlap]]:
        """Return each layer's pixel counts in the job's images; `done` of the job's `steps` are done before."""
        size = self._label_size(work.context.model.input_size)
        labels = Labels(work.data, size, work.exchange.reach)
        overlaps = {name: self._no_counts(work.data, shape[0]) for name, shape in passes.shapes.items()}
        grids = {name: Grid.between(shape[1:], size) for name, shape in passes.shapes.items()}
        place = work.start
        for batch, activations in passes:
            for row in range(len(batch)):
                own_and_others = [labels.of(image) for image in work.exchange.owners(place + row)]
                for name, values in activations.items():
                    count_image(*overlaps[name], values[row], thresholds[name].values, own_and_others, grids[name])
            place += len(batch)
            done += len(batch)
            work.context.progress(done, steps, "overlaps")
        return overlaps

    def _no_counts(self, data: ConceptSet, units: int) -> tuple[Overlap, ShuffledOverlap]:
        categories = categories_of(data)
        return Overlap.empty(units, categories), ShuffledOverlap.empty(self._shuffles(data), units, categories)

    def _shuffles(self, data: ConceptSet) -> int:
        """Return the number of shuffles: of few images there are fewer in which none has its own labels."""
        return min(self.shuffles, len(self._images(data)) - 1)

    def _coverage(
        self, layers: dict[str, list[UnitResult]], images: dict[tuple[str, str], int], subject: Subject
    ) -> list[Finding]:
        _, data = self._concepts(subject)
        chosen = subject.view.select(self.layers)
        left_out = [layer.name for layer in chosen if layer not in _with_maps(chosen)]
        with_maps = _with_maps(subject.view.layers)
        used = len(self._images(data))
        there = max(int(getattr(data, "found", 0)), len(data))
        reason = f"images: {self.images}" if used < len(data) else "the data set's own limit, or unusable files"
        occurring, enough = (sum(count >= least for count in images.values()) for least in (1, self.least_images))
        counted = (
            f"{occurring} occur in the images used, and those in at least {self.least_images} count (`least_images`)"
        )
        all_units = sum(layer.unit_count for layer in with_maps)
        findings: list[Finding] = [
            Coverage("layers", len(layers), len(with_maps), "chosen by `layers`", "layers"),
            Coverage("units", sum(map(len, layers.values())), all_units, "those of the chosen layers", "units"),
            Coverage("images", used, there, reason if used < there else "", "images"),
            Coverage("concepts", enough, len(data.concepts), counted, "concepts"),
        ]
        if left_out:
            names = listed([shorten(name) for name in left_out], 12)
            text = (
                f"{len(left_out)} of the chosen layers have no maps to compare with labels and were left out: {names}."
            )
            findings.append(Caveat(text, "left_out", "limit"))
        return [*findings, *presentation.about_layers(self.layers, _with_maps(chosen), subject)]


@dataclass(frozen=True)
class _Work:
    """A job with its layers, its data, all images in the order of the exchange, and those of them that it takes."""

    job: Job
    context: JobContext
    layers: tuple[Layer, ...]
    data: ConceptSet
    exchange: Exchange
    start: int
    images: tuple[int, ...]
    read: ReadAhead

    def measure(self, batch: Sequence[int]) -> Activations:
        """Return the maps of some images, numbered as in the data set."""
        values = measured(self.context.model, self.read(batch), [layer.name for layer in self.layers])
        return {layer.name: np.ascontiguousarray(to_map(layer, values[layer.name])) for layer in self.layers}

    def passes(self, *, keep: bool) -> Passes:
        """Return the activations of all images of the job."""
        return Passes(self.measure, self.images, keep=keep, model=self.context.model)

    def array(self, kind: str, layer: Layer, arrays: Mapping[str, npt.NDArray[Any]]) -> Array:
        """Return a layer's numbers as a finding for the jobs that need this one."""
        return Array(f"{kind}-{layer.position}", f"{kind} of {layer.name}", dict(arrays))

    def found(self, kind: str, layer: Layer) -> list[Mapping[str, npt.NDArray[Any]]]:
        """Return what the needed jobs of one stage found for a layer; none of them may be missing."""
        wanted = 1 if kind == "thresholds" else self.job.parameters["shards"]
        parts = [
            finding.arrays
            for name in self.job.needs
            for finding in self.context.found[name]
            if isinstance(finding, Array) and finding.id == f"{kind}-{layer.position}"
        ]
        if len(parts) != wanted:
            raise ValueError(f"{self.job.name}: {len(parts)} parts {kind!r} of {layer.name!r} were found of {wanted}")
        return parts


def _with_maps(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers whose units have a height and a width, and more than one position."""
    return [layer for layer in layers if layer.has_map]


def _numbers(layer: Layer, thresholds: Thresholds, overlap: Overlap, chance: Chance, data: ConceptSet) -> Array:
    return Array(
        f"numbers-{layer.position}",
        f"Thresholds and overlaps of {layer.name}",
        {
            "thresholds": thresholds.values,
            "iou": overlap.iou(),
            "intersection": overlap.both,
            "unit_pixels": overlap.unit,
            "concept_pixels": overlap.concept,
            "concept_images": overlap.images,
            "concepts": np.array([concept.name for concept in data.concepts]),
            "categories": np.array([concept.category for concept in data.concepts]),
            "chance_iou": chance.iou,
            "chance_concept": chance.concept,
        },
    )


def _iou_of(tile: Tile) -> float:
    return float(cast("float", dict(tile.facts)["IoU"]))
