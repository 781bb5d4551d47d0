"""Exemplars: the images that excite each unit most, and the part of them that it sees."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from onnxviz.analyses import presentation, storage
from onnxviz.analyses.base import LayerSelector, Subject
from onnxviz.analyses.exemplars.findings import (
    METRICS,
    LayerFound,
    about_left_out,
    about_refused,
    about_shown,
    about_ties,
    class_name,
    layer_findings,
    summary,
)
from onnxviz.analyses.exemplars.patches import CELL
from onnxviz.analyses.exemplars.peaks import LayerPeaks, Peaks
from onnxviz.analyses.exemplars.tiles import draw
from onnxviz.analyses.sharding import LastLook, Pass, ShardedAnalysis
from onnxviz.analyses.stream import Batch
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Caveat, Coverage, Finding
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.shares import percent
from onnxviz.core.values import Layer
from onnxviz.data.images import ImageSource
from onnxviz.graph.targets import unit_indices
from onnxviz.model.maps import to_map

_FEW = 10
"""Of fewer images than so many times those that are kept as the best, the best are hardly told from the rest."""
_SAMPLED = 1_000
"""Images whose peaks are all kept, spread evenly: quantiles of more would take memory without end."""
_UNIT_BYTES = 400
Share = Annotated[float, Field(gt=0, lt=1)]


class Exemplars(ShardedAnalysis[Any]):
    """Which images, and which part of them, excite each unit most, and which least.

    All images are looked at once. Of every unit the images of highest peak are kept, the peak being its greatest
    activation in an image, with the place; the part of the image that this place sees (its receptive field, computed
    from the graph) is the patch. The patches that excite a unit most suggest what it detects; they are the extreme, so
    beside them stand images at lower quantiles of the peaks and those that excite it least: a unit that is called after
    its nine best patches may respond to much else.
    """

    kind: Literal["exemplars"] = "exemplars"
    heading: ClassVar[str] = "Exemplars"
    results: ClassVar[tuple[type, ...]] = (LayerPeaks, Peaks, LayerFound)
    cites: ClassVar[tuple[str, ...]] = (
        "Zeiler and Fergus 2013, Visualizing and understanding convolutional networks, arXiv:1311.2901",
        "Borowski et al. 2021, Exemplary natural images explain CNN activations better, arXiv:2010.12606",
    )
    reading: ClassVar[str] = (
        "First the patches that excite the unit most, the strongest first; then the same images whole, with the patch "
        "framed in magenta, and dimmed where the unit is less than half as active as it ever is. Then images at lower "
        "quantiles of its peaks, and those that excite it least. What the first have in common and the last lack is "
        "what the unit may detect."
    )
    example: ClassVar[str] = """\
kind: exemplars
data: photos
layers: [block_outputs, "Conv[0]"]
shown: 12
"""
    metric_names: ClassVar[Mapping[str, str]] = presentation.described(METRICS)

    layers: LayerSelector = Field("block_outputs", description="The layers to look at; units without a map, too.")
    value: Literal["activation", "convolution"] = Field(
        "activation",
        description="What a convolution stands for: what leaves the normalisation and activation behind it, or its own "
        "output. Other layers are taken as they are.",
    )
    units: int | str | list[int | str] = Field(
        "all", description='Which units of each layer: "all", numbers, ranges such as "0-15".'
    )
    patches: int = Field(9, ge=1, le=100, description="Images of highest peak that are kept of each unit.")
    shown: int | Literal["all"] = Field(
        12, description="Units of each layer that are shown in pictures, spread evenly over those that are ever active."
    )
    quantiles: tuple[Share, ...] = Field(
        (0.99, 0.95, 0.75, 0.5), description="Quantiles of a unit's peaks at which an image each is shown."
    )
    beside: Literal["deconvnet", "guided_backpropagation"] | None = Field(
        None,
        description="What of each patch excites the unit, carried back to the pixels: the deconvnet of Zeiler and "
        "Fergus, or guided backpropagation. Both show much of the image itself (Nie et al. 2018). The network has to "
        "convert.",
    )
    least: int = Field(4, ge=0, le=100, description="Images that excite a unit least.")

    @field_validator("shown")
    @classmethod
    def _require_none_or_more(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("write a number of units from 0 on, or all")
        return value

    def images_of(self, subject: Subject) -> tuple[str, ImageSource, list[int]]:
        """Return the chosen images in the order of their numbers."""
        source, chosen = self.chosen_images(subject)
        return self.data, source, sorted(chosen)

    def layers_of(self, subject: Subject) -> list[Layer]:
        """Return the layers that have units."""
        used, left_out = self._selected(subject)
        if not used:
            why = "; ".join(f"{shorten(layer.name, 60)}: {layer.unplaced}" for layer in left_out[:3] if layer.unplaced)
            raise AnalysisError(
                "none of the layers has units with a map, or a number for each image" + (f": {why}" if why else ""),
                where="layers",
                remedy="choose others, for example block_outputs",
            )
        return used

    def _selected(self, subject: Subject) -> tuple[list[Layer], list[Layer]]:
        """Return the layers with units that have a map or a single number, and the others."""
        used: dict[str, Layer] = {}
        left_out: list[Layer] = []
        for layer in subject.view.select(self.layers):
            own = layer.operator in ("Conv", "ConvTranspose") and self.value == "activation"
            shown = subject.view.layer(f"{layer.name}:act") if own else layer
            if shown.unit_count and (shown.has_map or all(size == 1 for size in shown.spatial_shape)):
                used.setdefault(shown.value, shown)
            else:
                left_out.append(layer)
        return list(used.values()), left_out

    def passes(self, layers: Sequence[Layer], subject: Subject) -> Sequence[Pass[Any]]:
        """Look at all images once, and show what was found."""
        return [PeaksPass(self, tuple(layers), subject)]

    def units_of(self, layer: Layer) -> list[int]:
        """Return the units of a layer that are asked for.

        Raises:
            SelectionError: if there is no such unit.
        """
        return list(unit_indices(self.units, layer))

    def jobs(self, subject: Subject) -> Iterable[Any]:
        """Plan the pass; units that do not exist are refused at once."""
        for layer in self.layers_of(subject):
            self.units_of(layer)
        return super().jobs(subject)

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Say what was found of all layers, then show the units."""
        layers = [one for one in found if isinstance(one, LayerFound)]
        rest = [one for one in found if not isinstance(one, LayerFound)]
        selected = subject.view.select(self.layers)
        used = self.layers_of(subject)
        return [
            *summary(layers),
            *super().present(rest, subject),
            Coverage("layers", len(used), len(subject.view.layers), "chosen by `layers`", "coverage.layers"),
            *about_left_out(self._selected(subject)[1]),
            *about_shown(layers, self.shown),
            *about_ties(layers),
            *self._sampled(subject),
            *presentation.about_layers(self.layers, selected, subject),
            *presentation.doubtful_preprocessing(subject, "units respond to something else than they should."),
        ]

    def _sampled(self, subject: Subject) -> Iterable[Finding]:
        _, _, images = self.images_of(subject)
        if self.patches * _FEW > len(images):
            best, count = min(self.patches, len(images)), len(images)
            yield Caveat(
                f"The {best} images that excite a unit most are {percent(best / count)} of the {count} images: what "
                "they have in common may be what all have in common, and images at quantiles near each other may be "
                "the same. More images say more.", "few_images", "limit",
            )  # fmt: skip
        if len(images) > _SAMPLED:
            yield Caveat(
                f"Quantiles of peaks are those of {_SAMPLED:,} images, spread evenly over the {len(images):,}; the "
                "highest and the lowest are those of all.", "sampled", "limit",
            )  # fmt: skip


@dataclass(frozen=True)
class PeaksPass(Pass[Any]):
    """Keeps the images of highest and lowest peaks of every unit; concludes with pictures."""

    analysis: Exemplars
    layers: tuple[Layer, ...]
    subject: Subject
    name: ClassVar[str] = "peaks"
    conclusion: ClassVar[str] = "exemplars"

    @cached_property
    def _sample(self) -> frozenset[int]:
        return frozenset(spread_evenly(self.analysis.images_of(self.subject)[2], _SAMPLED))

    def fold(self, batches: Iterable[Batch], before: Sequence[Any]) -> tuple[LayerPeaks, ...]:  # noqa: ARG002
        """Keep the highest and lowest peaks of a shard's images."""
        settings = self.analysis
        kept = [LayerPeaks.empty(layer.unit_count, settings.patches, settings.least) for layer in self.layers]
        for batch in batches:
            for place, layer in enumerate(self.layers):
                maps = maps_of(layer, batch.activations[layer.name])
                try:
                    kept[place] = kept[place].with_images(maps, batch.images, self._sample)
                except AnalysisError as fault:
                    raise AnalysisError(fault.what, where=shorten(layer.name), remedy=fault.remedy) from fault
        return tuple(kept)

    def join(self, one: Any, other: Any) -> tuple[LayerPeaks, ...]:
        """Keep the highest and lowest of both."""
        return tuple(first.join(second) for first, second in zip(one, other, strict=True))

    def conclude(self, whole: Any, before: Sequence[Any], last: LastLook) -> list[Any]:  # noqa: ARG002
        """Show some units of each layer, and say what is known of all."""
        _, source, _ = self.analysis.images_of(self.subject)
        found: list[Any] = []
        class_of = functools.cache(functools.partial(class_name, source))
        chosen = [self._shown(layer, peaks) for layer, peaks in zip(self.layers, whole, strict=True)]
        drawn, refused = draw(self.analysis, self.layers, whole, chosen, source, last)
        found += about_refused(self.analysis.beside or "", refused)
        for layer, peaks, units, tiles in zip(self.layers, whole, chosen, drawn, strict=True):
            found += layer_findings(layer, peaks, self.analysis.units_of(layer), units, tiles, source, class_of)
        return found

    def _shown(self, layer: Layer, peaks: LayerPeaks) -> list[int]:
        """Return the units that are shown."""
        living = [unit for unit in self.analysis.units_of(layer) if not peaks.never_active[unit]]
        most = self.analysis.shown
        return living if most == "all" else spread_evenly(living, most)

    @property
    def _shown_units(self) -> int:
        """Units of all layers that are shown, at most."""
        most = self.analysis.shown
        return sum(layer.unit_count if most == "all" else min(most, layer.unit_count) for layer in self.layers)

    def stored_bytes(self, images: int | None) -> int:
        """Return what a shard keeps, or all tables, arrays and pictures."""
        settings = self.analysis
        units = sum(layer.unit_count for layer in self.layers)
        kept = 20 * (settings.patches + settings.least)
        if images is not None:
            return units * (kept + 8 + 4 * min(images, _SAMPLED))
        cells = (3 if settings.beside else 2) * settings.patches + len(settings.quantiles) + settings.least
        return units * (kept + _UNIT_BYTES) + self._shown_units * cells * storage.jpeg(CELL, CELL)

    def images_again(self) -> int:
        """Return the number of images that are shown, at most."""
        settings = self.analysis
        count = settings.patches + len(settings.quantiles) + settings.least
        return min(len(self.analysis.images_of(self.subject)[2]), self._shown_units * count)


def maps_of(layer: Layer, values: np.ndarray) -> np.ndarray:
    """Return activations as maps [images, units, rows, columns]; one position of single numbers."""
    if layer.has_map:
        return np.ascontiguousarray(to_map(layer, values))
    return values.reshape(*values.shape[:2], 1, -1)
