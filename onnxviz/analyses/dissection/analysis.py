"""Network dissection: which units detect which labelled concepts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import numpy as np
from pydantic import Field

from onnxviz.analyses import presentation
from onnxviz.analyses.base import LayerSelector, Subject
from onnxviz.analyses.dissection.counting import Overlap, ShuffledOverlap
from onnxviz.analyses.dissection.fit import Fit, LayerCounts
from onnxviz.analyses.dissection.formulas import Gain, SetCounts, gain_findings, gains
from onnxviz.analyses.dissection.naming import caveats, chance_rows, named_units, remarks, rivals
from onnxviz.analyses.dissection.passes import Counts, Excitations, FormulasPass, OverlapsPass, Sets, TopValuesPass
from onnxviz.analyses.dissection.pictures import PICTURE_SIDE, maps_of, masked, shown, tile_of
from onnxviz.analyses.dissection.presence import PeakSample
from onnxviz.analyses.dissection.results import ChanceRow, GroupResult, UnitResult, unit_columns
from onnxviz.analyses.dissection.sharding import Setting
from onnxviz.analyses.dissection.summary import METRICS, ByChance, Summary
from onnxviz.analyses.dissection.thresholds import BestImages, LargestValues, Thresholds
from onnxviz.analyses.sharding import LastLook, Pass, PassesOverImages
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Array, Caveat, Coverage, Finding, Table, Tile, TileGrid
from onnxviz.core.values import Layer, Preprocessing, Unit
from onnxviz.core.wording import listed
from onnxviz.data.image_choice import choose_images, find_source

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

Side = Annotated[int, Field(ge=1, le=2048)]


class Dissection(PassesOverImages):
    """Which labelled concepts the units detect.

    Each unit gets a threshold that a fixed share of all its activations exceeds (on the lower side: is below), over all
    positions of all images at the layer's own resolution. Its activation map is enlarged to the resolution of the
    labels, and cut at the threshold: the unit's mask. The mask is compared with the pixels of every labelled concept
    over the whole data set by intersection over union (IoU), in the images that have a label of the concept's category.
    A unit is named after the concept of highest IoU, of those that are in enough images. It is a detector of it if that
    IoU reaches the limit and is above the unit's chance level: the highest IoU that it has with any of these concepts
    when each image has the labels of another image, in several shuffles. The number of concepts with more detectors
    than in any shuffle is the number of unique detectors. A detector is confirmed if it is one of the same concept on
    either half of the images. Beside each number stands what is counted the same way in the shuffles. Images are
    stretched to the model's input, not cropped, so that no labelled pixel is lost. A unit without a concept may detect
    something that nobody labelled.
    """

    kind: Literal["dissection"] = "dissection"
    heading: ClassVar[str] = "Network dissection"
    version: ClassVar[int] = 8
    results: ClassVar[tuple[type, ...]] = (
        GroupResult, UnitResult, ChanceRow, LargestValues, BestImages, Thresholds, LayerCounts, Overlap,
        ShuffledOverlap, PeakSample, SetCounts, Gain,
    )  # fmt: skip
    cites: ClassVar[tuple[str, ...]] = (
        "Bau, Zhou, Khosla, Oliva and Torralba 2017, arXiv:1704.05796",
        "Mu and Andreas 2020, arXiv:2006.14032",
        "Bykov, Kopf, Nakajima, Kloft and Höhne 2023, arXiv:2311.13594",
    )
    reading: ClassVar[str] = (
        "The outlined bright part of each picture is where the unit's activation is beyond its threshold. If it covers "
        "the same thing in every picture of a row, the unit detects that thing."
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
    quantile: float = Field(
        0.005,
        gt=0,
        lt=1,
        description="The share of a unit's activations beyond its threshold: above it, or below with `side`.",
    )
    side: Literal["upper", "lower"] = Field(
        "upper",
        description="Which activations make a unit's mask: its greatest ones, or its least ones, which are strongly "
        "negative in layers that have negative activations.",
    )
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
    formula_length: int = Field(
        1,
        ge=1,
        le=3,
        description="Most concepts of a formula (and, or, and not) that is sought for each unit that is shown; 1 for "
        "none. It takes one more look at all images.",
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
    best_images: int = Field(
        4, ge=1, le=64, description="Images shown for each unit: those that excite it most, or least on the lower side."
    )

    def images_of(self, subject: Subject) -> tuple[str, ConceptSet, list[int]]:
        """Return the labelled images."""
        # One that could not be opened may be the one; asking for it ends here, because its fault is told.
        names = (*subject.data, *getattr(subject.data, "broken", ())) if self.data is None else (self.data,)
        for name in names:
            data = subject.data[name] if self.data is None else find_source(name, subject.data)
            if hasattr(data, "read_labels"):
                return name, cast("ConceptSet", data), choose_images(data, None, self.images or len(data))
        if self.data is None:
            raise AnalysisError(
                "the recipe has no data set with labelled concepts",
                remedy="add one under `data:`, for example scenes: {builtin: scenes} or street: {concepts: folder}",
            )
        raise AnalysisError(
            f"the images of {shorten(self.data)!r} have no labels for their pixels",
            remedy="name a data set with concepts: {concepts: folder} or {builtin: scenes}",
        )

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """Stretch images, so that no labelled pixel is lost."""
        return replace(own, fit="stretch")

    def layer_groups(self, subject: Subject) -> list[list[Layer]]:
        """Split the layers that have maps into groups."""
        chosen = subject.view.select(self.layers)
        layers = _with_maps(chosen)
        if not layers:
            why = "; ".join(f"{shorten(layer.name, 60)}: {layer.unplaced}" for layer in chosen[:3] if layer.unplaced)
            raise AnalysisError(
                f"none of the layers {self.layers!r} has units with maps, so nothing can be compared with labels"
                + (f": {why}" if why else ""),
                remedy="choose layers whose units have a height and a width, for example block_outputs",
            )
        return self._setting(layers, subject).groups()

    def passes(self, layers: Sequence[Layer], subject: Subject) -> tuple[Pass[Any], ...]:
        """Look at the images for thresholds, again for overlaps, and once more if formulas are asked for."""
        setting = self._setting(layers, subject)
        more = (FormulasPass(setting),) if self.formula_length > 1 else ()
        return TopValuesPass(setting), OverlapsPass(setting), *more

    def _setting(self, layers: Sequence[Layer], subject: Subject) -> Setting:
        return Setting(self, layers, subject, *self.images_of(subject)[1:])

    def findings(
        self, setting: Setting, excitations: Excitations, counts: Counts, sets: Sets, last: LastLook
    ) -> list[GroupResult | Finding]:
        """Return what was found of all layers, and pictures of it; `sets` is empty where no formulas are asked for."""
        data, names = setting.data, [layer.name for layer in setting.layers]
        thresholds = {name: each for name, (each, _) in zip(names, excitations, strict=True)}
        best = {name: each.images for name, (_, each) in zip(names, excitations, strict=True)}
        fits = dict(zip(names, setting.fits(counts), strict=True))
        first = fits[names[0]]
        units = {
            name: named_units(name, data.concepts, thresholds[name], fit, self.iou, self.side)
            for name, fit in fits.items()
        }
        best_units = {name: [found[unit] for unit in fits[name].best_units(self.best_units)]
                      for name, found in units.items()}  # fmt: skip
        gained = {
            gain.unit: gain
            for name, halves in zip(names, sets, strict=False)
            for gain in gains(
                [unit.unit for unit in best_units[name]], halves, first.counted, self.formula_length,
                lambda place: shorten(data.concepts[place].name, 40),
            )
        }  # fmt: skip
        by_chance = tuple(row for name, fit in fits.items() for row in chance_rows(name, data.concepts, fit, self.iou))
        results = tuple(unit for found in units.values() for unit in found)
        images = tuple(first.overlap.images.tolist())
        chosen = {unit.unit: best[name][unit.unit.index].tolist() for name in best_units for unit in best_units[name]}
        grids = self._grids(setting, best_units, chosen, fits, gained, last)
        return [
            GroupResult(results, by_chance, images, tuple(gained.values())),
            *(
                item
                for layer, grid in zip(setting.layers, grids, strict=True)
                for item in (grid, _numbers(layer, units[layer.name], fits[layer.name], data, self.iou))
            ),
            *caveats(data, setting.exchange, first, thresholds, self.quantile, self.iou),
        ]

    def _grids(
        self,
        setting: Setting,
        units: Mapping[str, Sequence[UnitResult]],
        chosen: Mapping[Unit, Sequence[int]],
        fits: Mapping[str, Fit],
        gained: Mapping[Unit, Gain],
        last: LastLook,
    ) -> Iterator[TileGrid]:
        """Yield the pictures of each layer's best units, on the images that are chosen for each."""
        data, names, lower = setting.data, [layer.name for layer in setting.layers], self.side == "lower"
        maps = maps_of(chosen, names, lambda image: setting.maps(last.activations(image)), last.context.progress)
        picture_of = functools.cache(functools.partial(shown, data, domain=last.context.model.domain))
        text = (
            f"The {self.best_units} units of highest IoU in each layer, each with the {self.best_images} images "
            f"{'of its least activations' if lower else 'that excite it most'}. Dimmed: where the unit's activation is "
            f"not {'below' if lower else 'above'} its threshold. By chance: the unit fits the labels of other images "
            "as well. Not confirmed: it is no detector of the same concept on either half of the images."
        )
        for name in names:
            tiles = []
            for unit in units[name]:
                captions = [data.names[image] for image in chosen[unit.unit]]
                pictures = tuple(
                    masked(unit, caption, picture_of(image), maps[unit.unit, image], self.side)
                    for image, caption in zip(chosen[unit.unit], captions, strict=True)
                )
                ious, gain = fits[name].ious[unit.unit.index], gained.get(unit.unit)
                tiles.append(tile_of(unit, ious, data, pictures, captions, self.side, gain))
            yield TileGrid("best_units", "Units that fit a concept best", tuple(tiles), text, PICTURE_SIDE)

    def remarks(self, subject: Subject) -> tuple[str, ...]:
        """Say where the last convolution stands, if it is taken for the end of the network and is not."""
        return presentation.layer_remarks(self.layers, subject)

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Count detectors over all layers, and show those that fit best first."""
        setting = self._setting((), subject)
        data = setting.data
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
        chance = ByChance([row for group in groups for row in group.by_chance], setting.shuffles)
        grids = [replace(item, tiles=tuple(sorted(item.tiles, key=_iou_of, reverse=True)))
                 for item in rest if isinstance(item, TileGrid)]  # fmt: skip
        rows = tuple(unit.row() for units in layers.values() for unit in units)
        return [
            *Summary(layers, chance, counted, data.categories, self.iou, self.least_images, self.side).findings(),
            *grids,
            Table("units", "Units", unit_columns(self.side), rows),
            *self._coverage(layers, images, subject),
            *gain_findings([gain for group in groups for gain in group.formulas], self.formula_length),
            *remarks(layers, subject.view, self.side),
            *rivals(layers),
            *(item for item in rest if not isinstance(item, TileGrid)),
        ]

    def label_sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width at which masks and labels are compared, for an input of a size."""
        if self.label_size is not None:
            return (self.label_size, self.label_size) if isinstance(self.label_size, int) else self.label_size
        if max(size) < 224:
            return size
        return max(1, round(112 * size[0] / max(size))), max(1, round(112 * size[1] / max(size)))

    def _coverage(
        self, layers: dict[str, list[UnitResult]], images: dict[tuple[str, str], int], subject: Subject
    ) -> list[Finding]:
        _, data, numbers = self.images_of(subject)
        chosen = subject.view.select(self.layers)
        left_out = [layer.name for layer in chosen if layer not in _with_maps(chosen)]
        with_maps = _with_maps(subject.view.layers)
        used = len(numbers)
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


def _with_maps(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers whose units have a height and a width, and more than one position."""
    return [layer for layer in layers if layer.has_map]


def _numbers(layer: Layer, units: Sequence[UnitResult], fit: Fit, data: ConceptSet, limit: float) -> Array:
    overlap, chance = fit.overlap, fit.chance
    return Array(
        f"numbers-{layer.position}",
        f"Thresholds and overlaps of {layer.name}",
        {
            "thresholds": np.array([unit.threshold for unit in units]),
            "iou": overlap.iou(),
            "interval": fit.intervals(),
            "confirmed": fit.confirmed(limit),
            "auc": fit.aucs,
            "auc_interval": fit.auc_intervals,
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
