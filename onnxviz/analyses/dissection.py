"""Network dissection: which units detect which labelled concepts."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from onnxviz import limits
from onnxviz.analyses.base import Analysis, Bench, Job, LayerSelector, Subject
from onnxviz.dissection import Activations, Grid, Overlap, Passes, Thresholds, TopValues, count_overlap, upsample
from onnxviz.dissection.pictures import show_at, show_mask, shown_size
from onnxviz.dissection.summary import NO_CONCEPT, UNIT_COLUMNS, UnitResult, summarize
from onnxviz.errors import AnalysisError, DataError, shorten
from onnxviz.findings import Array, Caveat, Coverage, Finding, Picture, Table, Tile, TileGrid, merge
from onnxviz.images import Pixels, fit_labels, load_batch
from onnxviz.values import Layer, Preprocessing, Unit

if TYPE_CHECKING:
    from onnxviz.concepts import ConceptSet

Side = Annotated[int, Field(ge=1, le=2048)]

_FEW_IMAGES = 10
_FEW_VALUES = 10
_SMALL_DATA = 100
_LAYERS_IN_A_JOB = 8
_PICTURE_SIDE = 240
_STRETCH = Preprocessing(fit="stretch")


class Dissection(Analysis):
    """Which labelled concepts the units detect.

    Each unit gets a threshold that a fixed share of all its activations exceeds, over all positions of all images at
    the layer's own resolution. Its activation map is enlarged to the resolution of the labels, and cut at the
    threshold: the unit's mask. The mask is compared with the pixels of every labelled concept over the whole data set
    by intersection over union (IoU), in the images that have a label of the concept's category. A unit is named
    after the concept of highest IoU and is a detector of it if that IoU reaches the limit; the number of
    different concepts that are detected is the number of unique detectors. Images are stretched to the model's input,
    not cropped, so that no labelled pixel is lost. A unit without a concept may detect something that nobody labelled.
    """

    kind: Literal["dissection"] = "dissection"
    heading: ClassVar[str] = "Network dissection"
    version: ClassVar[int] = 1
    cites: ClassVar[tuple[str, ...]] = ("Bau, Zhou, Khosla, Oliva and Torralba 2017, arXiv:1704.05796",)
    example: ClassVar[str] = """\
kind: dissection
layers: [all_convs, "*concat*"]
data: scenes
quantile: 0.005
iou: 0.04
"""

    layers: LayerSelector = Field("all_convs", description="Layers to dissect; their units must have maps.")
    data: str | None = Field(
        None, description="A data set with labelled concepts; the recipe's first such set if not given."
    )
    quantile: float = Field(0.005, gt=0, lt=1, description="The share of a unit's activations above its threshold.")
    iou: float = Field(0.04, gt=0, le=1, description="From this IoU on a unit is a detector of its best concept.")
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

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Split the layers into groups whose activations fit in memory together."""
        name, data = self._concepts(subject)
        layers = _with_maps(subject.view.select(self.layers))
        if not layers:
            raise AnalysisError(
                f"none of the layers {self.layers!r} has units with maps, so nothing can be compared with labels",
                remedy="choose layers whose units have a height and a width, for example all_convs",
            )
        images = len(self._images(data))
        groups = list(_groups(layers, images))
        for number, (group, fits) in enumerate(groups):
            yield Job(
                name=f"layers {number + 1}/{len(groups)}",
                parameters={"layers": [layer.name for layer in group]},
                layers=tuple(layer.name for layer in group),
                data=(name,),
                cost=float(images if fits else 2 * images),
                images=images,
            )

    def run(self, job: Job, bench: Bench) -> list[Finding]:
        """Dissect a group of layers: one pass for the thresholds, one for the counts, then the pictures."""
        _, data = self._concepts(bench.subject)
        names = [str(name) for name in cast("list[str]", job.parameters["layers"])]
        images = self._images(data)
        model = bench.model
        preprocessing = replace(model.preprocessing, fit="stretch")

        def measure(batch: Sequence[int]) -> Activations:
            measured = model.measure(load_batch(data, batch, preprocessing, model.input_size), names)
            return {name: measured[name] for name in names}

        passes = Passes(measure, images)
        thresholds, peaks = self._thresholds(passes, images, bench)
        overlaps = self._overlaps(passes, images, thresholds, data, bench)
        picture_of = functools.cache(functools.partial(_shown, data))
        findings: list[Finding] = []
        for name in names:
            layer = bench.subject.view.layer(name)
            units = self._units(name, thresholds[name], overlaps[name], data)
            findings.append(Table("units", "Units", UNIT_COLUMNS, tuple(unit.row() for unit in units)))
            chosen = sorted((unit for unit in units if unit.iou > 0), key=lambda unit: -unit.iou)[: self.best_units]
            ious = overlaps[name].iou()
            tiles = []
            for unit in chosen:
                order = np.argsort(-peaks[name][:, unit.unit.index], kind="stable")[: self.best_images]
                best = [images[place] for place in order.tolist()]
                masked = tuple(_masked(unit, image, data.names[image], picture_of(image), passes) for image in best)
                tiles.append(_tile(unit, ious[unit.unit.index], data, masked, [data.names[image] for image in best]))
            findings.append(self._grid(tuple(tiles)))
            findings.append(_numbers(layer, thresholds[name], overlaps[name], data))
        findings += self._caveats(overlaps[names[0]], data, thresholds)
        return findings

    def combine(self, parts: Sequence[list[Finding]], subject: Subject) -> list[Finding]:
        """Join the layers, and count detectors over all of them."""
        _, data = self._concepts(subject)
        joined = merge(parts)
        layers: dict[str, list[UnitResult]] = {}
        rest: list[Finding] = []
        for finding in joined:
            if isinstance(finding, Table) and finding.id == "units":
                units = finding
                for row in finding.rows:
                    result = UnitResult.of(row)
                    layers.setdefault(result.unit.layer, []).append(result)
            elif isinstance(finding, TileGrid):
                rest.append(replace(finding, tiles=tuple(sorted(finding.tiles, key=_iou_of, reverse=True))))
            else:
                rest.append(finding)
        if not layers:
            return joined
        concepts = [concept.name for concept in data.concepts]
        summary = summarize(layers, concepts, data.categories, self.iou)
        grids = [finding for finding in rest if isinstance(finding, TileGrid)]
        others = [finding for finding in rest if not isinstance(finding, TileGrid)]
        return [*summary, *grids, units, *self._coverage(layers, subject), *_remarks(layers), *others]

    def _concepts(self, subject: Subject) -> tuple[str, ConceptSet]:
        """Return the concept set's name and the set."""
        if self.data is None:
            for name, data in subject.data.items():
                if hasattr(data, "read_labels"):
                    return name, cast("ConceptSet", data)
            raise AnalysisError(
                "the recipe has no data set with labelled concepts",
                remedy="add one under `data:`, for example scenes: {builtin: scenes} or street: {concepts: folder}",
            )
        try:
            data = subject.data[self.data]
        except KeyError as fault:
            raise AnalysisError(f"no data set is called {shorten(self.data)!r}") from fault
        if not hasattr(data, "read_labels"):
            raise AnalysisError(
                f"the images of {shorten(self.data)!r} have no labels for their pixels",
                remedy="name a data set with concepts: {concepts: folder} or {builtin: scenes}",
            )
        return self.data, cast("ConceptSet", data)

    def _images(self, data: ConceptSet) -> list[int]:
        count = len(data)
        if self.images is None or self.images >= count:
            return list(range(count))
        return [index * count // self.images for index in range(self.images)]

    def _label_size(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.label_size is not None:
            return (self.label_size, self.label_size) if isinstance(self.label_size, int) else self.label_size
        if max(size) < 224:
            return size
        return max(1, round(112 * size[0] / max(size))), max(1, round(112 * size[1] / max(size)))

    def _thresholds(
        self, passes: Passes, images: Sequence[int], bench: Bench
    ) -> tuple[dict[str, Thresholds], dict[str, npt.NDArray[np.float32]]]:
        """Return each layer's thresholds, and its units' greatest activation in each image [images, units]."""
        tops = {
            name: TopValues(units, len(images) * height * width, self.quantile)
            for name, (units, height, width) in passes.shapes.items()
        }
        peaks: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in tops}
        done = 0
        for batch, activations in passes:
            for name, values in activations.items():
                try:
                    tops[name].add(values)
                except AnalysisError as fault:
                    raise AnalysisError(fault.what, where=shorten(name), remedy=fault.remedy) from fault
                peaks[name].append(values.max(axis=(2, 3)))
            done += len(batch)
            bench.progress(done, 2 * len(images), "thresholds")
        return {name: top.thresholds() for name, top in tops.items()}, {
            name: np.concatenate(parts) for name, parts in peaks.items()
        }

    def _overlaps(
        self,
        passes: Passes,
        images: Sequence[int],
        thresholds: dict[str, Thresholds],
        data: ConceptSet,
        bench: Bench,
    ) -> dict[str, Overlap]:
        """Return each layer's pixel counts."""
        size = self._label_size(bench.model.input_size)
        kinds = {category: number for number, category in enumerate(data.categories)}
        categories = np.array([kinds[concept.category] for concept in data.concepts], np.intp)
        numbers = _numbers_of(data)
        overlaps = {name: Overlap.empty(shape[0], categories) for name, shape in passes.shapes.items()}
        grids = {name: Grid.between(shape[1:], size) for name, shape in passes.shapes.items()}
        done = len(images)
        for batch, activations in passes:
            labels = [_labels(data, image, numbers, size) for image in batch]
            for place in range(len(batch)):
                for name, values in activations.items():
                    part = values[place : place + 1]
                    count_overlap(overlaps[name], part, thresholds[name].values, labels[place], grids[name])
            done += len(batch)
            bench.progress(done, 2 * len(images), "overlaps")
        return overlaps

    def _units(self, layer: str, thresholds: Thresholds, overlap: Overlap, data: ConceptSet) -> list[UnitResult]:
        """Return what each unit of a layer fits best; of equal concepts the first."""
        ious = overlap.iou()
        best = ious.argmax(axis=1)
        results = []
        for index, choice in enumerate(best):
            iou = float(ious[index, choice])
            concept = data.concepts[choice] if iou > 0 else None
            remark = "dead" if thresholds.constant[index] else "saturated" if thresholds.saturated[index] else ""
            results.append(
                UnitResult(
                    Unit(layer, index),
                    concept.name if concept else "",
                    concept.category if concept else "",
                    iou,
                    iou >= self.iou,
                    float(thresholds.values[index]),
                    float(thresholds.largest[index]),
                    remark,
                )
            )
        return results

    def _grid(self, tiles: tuple[Tile, ...]) -> TileGrid:
        return TileGrid(
            "best_units",
            "Units that fit a concept best",
            tiles,
            f"The {self.best_units} units of highest IoU in each layer, each with the {self.best_images} images that "
            "excite it most. Dimmed: where the unit's activation is not above its threshold.",
            tile_size=_PICTURE_SIDE,
        )

    def _caveats(self, overlap: Overlap, data: ConceptSet, thresholds: dict[str, Thresholds]) -> Iterator[Caveat]:
        images = len(self._images(data))
        if images < _SMALL_DATA:
            yield Caveat(
                f"The data set has {images} images, fewer than {_SMALL_DATA}: thresholds and IoUs of another sample "
                "may differ much.",
                id="small",
            )
        rare = [
            f"{shorten(concept.name, 40)} ({count})"
            for concept, count in zip(data.concepts, overlap.images.tolist(), strict=True)
            if count < _FEW_IMAGES
        ]
        if rare:
            yield Caveat(
                f"Concepts in fewer than {_FEW_IMAGES} images, on which little can be said: {_listed(rare)}.",
                id="rare",
            )
        yield from self._reach(overlap, data)
        for name, values in thresholds.items():
            if (above := values.positions * self.quantile) < _FEW_VALUES:
                yield Caveat(
                    f"{shorten(name)}: only {above:.2g} activations of each unit lie above its threshold, because "
                    f"there are {values.positions} positions in all; give more images.",
                    id=f"positions {name}",
                )

    def _reach(self, overlap: Overlap, data: ConceptSet) -> Iterator[Caveat]:
        """Name the concepts that a mask of the usual area cannot reach, and those that it reaches by chance.

        A mask of area q inside a concept of area s > q has IoU q / s; at random positions it has q s / (q + s - q s).
        """
        shares = (overlap.concept / np.maximum(1, overlap.pixels[overlap.categories])).tolist()
        named = [
            (f"{shorten(concept.name, 40)} ({share:.0%})", share)
            for concept, share in zip(data.concepts, shares, strict=True)
        ]
        large = [name for name, share in named if share * self.iou > self.quantile]
        if large:
            yield Caveat(
                f"A mask covers about {self.quantile:.1%} of all pixels, so a concept that covers more than "
                f"{self.quantile / self.iou:.1%} of its images can hardly reach an IoU of {self.iou:g}: "
                f"{_listed(large)}. Raise `quantile` and `iou` together to look for detectors of them.",
                id="large",
            )
        q = self.quantile
        chance = [name for name, share in named if share > 0 and q * share >= self.iou * (q + share - q * share)]
        if chance:
            yield Caveat(
                f"A mask at random positions would reach an IoU of {self.iou:g} with {_listed(chance)}: `iou` is too "
                "low for this `quantile`, and what is called a detector of them may be chance.",
                id="chance",
            )

    def _coverage(self, layers: dict[str, list[UnitResult]], subject: Subject) -> list[Finding]:
        _, data = self._concepts(subject)
        chosen = subject.view.select(self.layers)
        left_out = [layer.name for layer in chosen if layer not in _with_maps(chosen)]
        with_maps = _with_maps(subject.view.layers)
        used = len(self._images(data))
        there = max(int(getattr(data, "found", 0)), len(data))
        reason = f"images: {self.images}" if used < len(data) else "the data set's own limit, or unusable files"
        findings: list[Finding] = [
            Coverage("layers", len(layers), len(with_maps), "chosen by `layers`", id="layers"),
            Coverage(
                "units",
                sum(len(units) for units in layers.values()),
                sum(layer.unit_count for layer in with_maps),
                "those of the chosen layers",
                id="units",
            ),
            Coverage("images", used, there, reason if used < there else "", id="images"),
        ]
        if left_out:
            names = _listed([shorten(name) for name in left_out])
            findings.append(
                Caveat(
                    f"{len(left_out)} of the chosen layers have no maps to compare with labels and were left out: "
                    f"{names}.",
                    id="left_out",
                )
            )
        return findings


def _with_maps(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers whose units have a height and a width, and more than one position."""
    return [layer for layer in layers if layer.has_map]


def _groups(layers: Sequence[Layer], images: int) -> Iterator[tuple[list[Layer], bool]]:
    """Yield layers that one job takes together, and whether their activations can be kept between its passes."""
    group: list[Layer] = []
    total = 0
    for layer in layers:
        height, width = layer.spatial_shape
        size = 4 * images * layer.unit_count * (height or 1) * (width or 1)
        if group and (total + size > limits.KEPT_ACTIVATION_BYTES or len(group) == _LAYERS_IN_A_JOB):
            yield group, total <= limits.KEPT_ACTIVATION_BYTES
            group, total = [], 0
        group.append(layer)
        total += size
    if group:
        yield group, total <= limits.KEPT_ACTIVATION_BYTES


def _numbers_of(data: ConceptSet) -> npt.NDArray[np.int32]:
    """Return for each label value the column of its concept, counted from 1; 0 for none, -1 for an unknown value."""
    numbers = np.full(max(concept.index for concept in data.concepts) + 1, -1, np.int32)
    numbers[0] = 0
    for column, concept in enumerate(data.concepts):
        numbers[concept.index] = column + 1
    return numbers


def _labels(
    data: ConceptSet, image: int, numbers: npt.NDArray[np.int32], size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """Return an image's labels as columns, int32 [1, layers, h, w]."""
    labels = fit_labels(data.read_labels(image), _STRETCH, size)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(numbers) or numbers[labels].min(initial=0) < 0:
        raise DataError(
            "holds a label that is none of the data set's concepts", where=f"{data.name}: {shorten(data.names[image])}"
        )
    return np.asarray(numbers[labels][None], np.int32)


def _shown(data: ConceptSet, image: int) -> Pixels:
    """Return an image as it is shown."""
    pixels = data.read(image)
    return show_at(pixels, shown_size(pixels, _PICTURE_SIDE))


def _masked(unit: UnitResult, image: int, name: str, pixels: Pixels, passes: Passes) -> Picture:
    """Return an image with a unit's mask, upsampled to the picture's resolution."""
    activation = passes.of(image)[unit.unit.layer][0, unit.unit.index]
    size = (pixels.shape[0], pixels.shape[1])
    values = upsample(activation, Grid.between((activation.shape[0], activation.shape[1]), size))
    alt = f"{name}: dimmed outside the mask of unit {unit.unit.index} of {unit.unit.layer}"
    # A plain Python number would be rounded to 32 bits before it is compared.
    mask = values > np.float64(unit.threshold)
    return Picture(show_mask(pixels, mask), alt=alt, format="jpeg")


def _tile(
    unit: UnitResult,
    ious: npt.NDArray[np.float64],
    data: ConceptSet,
    pictures: tuple[Picture, ...],
    captions: Sequence[str],
) -> Tile:
    """Return a unit's pictures with what it fits best and next best."""
    others = [place for place in np.argsort(-ious, kind="stable").tolist()[1:4] if ious[place] > 0]
    also = ", ".join(f"{shorten(data.concepts[place].name, 40)} {ious[place]:.3f}" for place in others)
    return Tile(
        title=f"{unit.concept} ({shorten(unit.unit.layer)}:{unit.unit.index})",
        unit=unit.unit,
        pictures=pictures,
        facts=(
            ("concept", unit.concept),
            ("category", unit.category),
            ("IoU", unit.iou),
            ("detector", "yes" if unit.detector else "no"),
            ("next best", also or NO_CONCEPT),
            ("threshold", unit.threshold),
            ("largest activation", unit.largest),
        ),
        captions=tuple(captions),
    )


def _numbers(layer: Layer, thresholds: Thresholds, overlap: Overlap, data: ConceptSet) -> Array:
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
        },
    )


def _remarks(layers: dict[str, list[UnitResult]]) -> Iterator[Caveat]:
    """Say which units could not have a mask."""
    for remark, reason in (
        ("dead", "have the same activation at every position of every image and cannot be detectors"),
        ("saturated", "lie nowhere above their threshold, because it is their greatest activation: they reach that too "
         "often, or there are too few positions"),
    ):  # fmt: skip
        counts = {name: sum(unit.remark == remark for unit in units) for name, units in layers.items()}
        listed = [f"{shorten(name)} {count}" for name, count in counts.items() if count]
        if listed:
            yield Caveat(f"{sum(counts.values())} units {reason}: {_listed(listed)}.", id=remark)


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Return names in one line, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _iou_of(tile: Tile) -> float:
    return float(cast("float", dict(tile.facts)["IoU"]))
