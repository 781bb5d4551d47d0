"""A unit's exemplars in pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.exemplars import patches
from onnxviz.analyses.exemplars.findings import class_name, class_words
from onnxviz.analyses.exemplars.patches import Box, Pixels, centred, scaled, shown_box, together
from onnxviz.analyses.exemplars.peaks import LayerPeaks
from onnxviz.analyses.exemplars.rectified import coloured, rectified
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Cell, Picture, Tile
from onnxviz.core.shares import percent
from onnxviz.core.values import Layer, Unit
from onnxviz.core.wording import counted, listed
from onnxviz.data.images import ImageSource, load_batch
from onnxviz.model.maps import to_map

if TYPE_CHECKING:
    from onnxviz.analyses.exemplars.analysis import Exemplars
    from onnxviz.analyses.sharding import LastLook
    from onnxviz.graph.receptive_field import ReceptiveField

_KEPT_BYTES = 256 << 20
"""What images that are kept for other units may take."""


@dataclass(frozen=True)
class _Shown:
    """The images of one unit, by number: of highest peak with their places, at quantiles, and of lowest peak."""

    unit: int
    best: Sequence[tuple[int, int]]
    at_quantiles: Sequence[int]
    least: Sequence[int]

    @property
    def images(self) -> list[int]:
        """All of them, each once."""
        return list(dict.fromkeys((*(image for image, _ in self.best), *self.at_quantiles, *self.least)))


def draw(
    settings: Exemplars,
    layers: Sequence[Layer],
    found: Sequence[LayerPeaks],
    chosen: Sequence[Sequence[int]],
    source: ImageSource,
    last: LastLook,
) -> tuple[list[list[Tile]], dict[str, str]]:
    """Return for each layer a tile for each of the chosen units, and why layers have nothing carried back to pixels."""
    model = last.context.model
    size = model.input_size
    keep = max(16, _KEPT_BYTES // (3 * size[0] * size[1]))

    @functools.lru_cache(maxsize=keep)
    def photograph(image: int) -> Pixels:
        batch = load_batch(source, [image], model.preprocessing, size)
        seen = model.domain.show(batch)[0]
        return np.ascontiguousarray((seen.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))

    shown = [
        [_shown(peaks, unit, settings.quantiles) for unit in units] for peaks, units in zip(found, chosen, strict=True)
    ]
    maps = _maps(layers, shown, last)
    tiles: list[list[Tile]] = []
    refused: dict[str, str] = {}
    for place, (layer, peaks, units) in enumerate(zip(layers, found, shown, strict=True)):
        field = model.view.receptive_field(layer, size) if layer.has_map and layer.grid is None else None
        own = {key[1:]: heat for key, heat in maps.items() if key[0] == place}
        make = _Tiles(settings, layer, peaks, field, photograph, own, source)
        tiles.append([make.tile(each, _beside(settings, layer, each, source, last, refused)) for each in units])
    return tiles, refused


def _beside(
    settings: Exemplars, layer: Layer, one: _Shown, source: ImageSource, last: LastLook, refused: dict[str, str]
) -> list[npt.NDArray[np.float32]]:
    """Return what of a unit's images excites it, if that is asked for; a layer of which it cannot be said is noted."""
    if settings.beside is None or layer.name in refused:
        return []
    if layer.grid is not None:
        refused[layer.name] = "their positions are tokens, which see the whole image"
        return []
    try:
        return rectified(settings.beside, last.context.model, source, layer, one.unit, one.best)
    except AnalysisError as fault:
        refused[layer.name] = fault.what
        return []


def _shown(peaks: LayerPeaks, unit: int, quantiles: Sequence[float]) -> _Shown:
    best = peaks.highest
    images, places = best.images[unit].tolist(), best.places[unit].tolist()
    at = [int(peaks.nearest_to_quantile(share)[1][unit]) for share in quantiles]
    return _Shown(unit, list(zip(images, places, strict=True)), at, peaks.lowest.images[unit].tolist())


def _maps(
    layers: Sequence[Layer], shown: Sequence[Sequence[_Shown]], last: LastLook
) -> dict[tuple[int, int, int], npt.NDArray[np.float32]]:
    """Return by layer, unit and image the unit's map; each image is computed once."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, units in enumerate(shown):
        if layers[place].has_map:
            for one in units:
                for image in one.images:
                    wanted.setdefault(image, []).append((place, one.unit))
    found = {}
    for done, (image, asked) in enumerate(sorted(wanted.items())):
        values = last.activations(image)
        maps = {place: to_map(layers[place], values[layers[place].name]) for place in {place for place, _ in asked}}
        for place, unit in asked:
            found[place, unit, image] = np.array(maps[place][0, unit])
        last.context.progress(done + 1, len(wanted), "pictures")
    return found


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Makes the tiles of a layer's units."""

    settings: Exemplars
    layer: Layer
    peaks: LayerPeaks
    field: ReceptiveField | None
    photograph: Callable[[int], Pixels]
    maps: dict[tuple[int, int], npt.NDArray[np.float32]]
    source: ImageSource

    def tile(self, one: _Shown, beside: Sequence[npt.NDArray[np.float32]]) -> Tile:
        """Return a unit's exemplars; `beside` is what of each image excites the unit."""
        unit = Unit(self.layer.name, one.unit)
        title = f"{shorten(self.layer.name)}:{one.unit}"
        pictures: list[tuple[str, Picture]] = []

        def add(caption: str, cells: list[Pixels]) -> None:
            if cells:
                alt = f"{title}: {caption}"
                pictures.append((caption, Picture(together(cells), alt=alt, format="jpeg")))

        if self.field is not None:
            add("patches", [self._within(self.photograph(image), place) for image, place in one.best])
        if beside and self.settings.beside:
            boxes = [self._box(place) for _, place in one.best]
            seen = [
                each if box is None else patches.patch(each, box, 0) for each, box in zip(beside, boxes, strict=True)
            ]
            add(self.settings.beside.replace("_", " "), [centred(scaled(coloured(each))) for each in seen])
        add("in their images", [self._whole(one.unit, image, place) for image, place in one.best])
        shares = ", ".join(f"{share:g}" for share in self.settings.quantiles)
        add(f"at quantiles {shares}", [self._whole(one.unit, image) for image in one.at_quantiles])
        add("least", [self._whole(one.unit, image) for image in one.least])
        captions, made = zip(*pictures, strict=True)
        return Tile(title, unit, made, self._facts(one), captions=captions)

    def _box(self, place: int) -> Box | None:
        if self.field is None:
            return None
        row, column = divmod(place, self.peaks.shape[1])
        size = self.photograph_size
        return shown_box(self.field.box((row, column)), size)

    @property
    def photograph_size(self) -> tuple[int, int]:
        """Height and width of the images as the network sees them."""
        shape = self.photograph(int(self.peaks.sample[0])).shape
        return shape[0], shape[1]

    def _within(self, pixels: Pixels, place: int) -> Pixels:
        """Return what the place sees of a picture, or all of it where that is unknown."""
        box = self._box(place)
        return centred(scaled(pixels if box is None else patches.patch(pixels, box)))

    def _whole(self, unit: int, image: int, place: int | None = None) -> Pixels:
        highest = float(self.peaks.highest.values[unit, 0])
        box = None if place is None else self._box(place)
        return patches.whole(self.photograph(image), self.maps.get((unit, image)), highest, box)

    def _facts(self, one: _Shown) -> tuple[tuple[str, Cell], ...]:
        best, peaks = self.peaks.highest, self.peaks
        values = best.values[one.unit]
        facts: list[tuple[str, Cell]] = [("highest", float(values[0]))]
        facts += [(_place(len(values)), float(values[-1]))] if len(values) > 1 else []
        share = int(peaks.active[one.unit]) / peaks.images
        facts.append(("above 0 in", f"{percent(share)} of {counted(peaks.images, 'image')}"))
        if (alike := int(peaks.as_high[one.unit])) > len(values):
            facts.append(("highest reached in", f"{alike:,} of {counted(len(peaks.sample), 'image')}"))
        at = [float(peaks.nearest_to_quantile(share)[0][one.unit]) for share in self.settings.quantiles]
        if at:
            facts.append(("peaks at the quantiles", listed((f"{value:.3g}" for value in at), 8)))
        if words := class_words([class_name(self.source, image) for image, _ in one.best]):
            facts.append(("classes", words))
        return tuple(facts)


def _place(number: int) -> str:
    """Return "2nd highest", "9th highest"."""
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')} highest"
