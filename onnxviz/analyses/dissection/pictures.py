"""Units shown: their masks on the photographs that excite them most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.counting import Grid, upsample
from onnxviz.analyses.dissection.formulas import Gain
from onnxviz.analyses.dissection.results import BY_CHANCE, NO_CONCEPT, UNCONFIRMED, Side, UnitResult, interval_in_words
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Cell, Picture, Tile
from onnxviz.core.shares import percent
from onnxviz.core.values import Preprocessing, Unit
from onnxviz.data.domains import Domain
from onnxviz.data.images import Pixels, fit_image
from onnxviz.optimize.color import to_pixels

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

Map = npt.NDArray[np.float32]

PICTURE_SIDE = 240
"""Longer side of a picture in pixels."""
OUTLINE = (255, 221, 0)
_DIMMED = 0.62
"""Dark enough for the mask to stand out, light enough for the scene to be recognised."""
_STRETCH = Preprocessing(fit="stretch")


def show_mask(pixels: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Dim an image, uint8 [H, W, 3], outside a mask, bool [H, W], and draw the mask's outline.

    The yellow outline lies just inside the mask with a black line around it, to stand out from light and dark pictures.
    """
    grey = pixels.mean(axis=2, keepdims=True)
    outside = (0.75 * grey + 0.25 * pixels) * _DIMMED
    shown = np.where(mask[:, :, None], pixels, outside).round().astype(np.uint8)
    shown[_grown(mask) & ~mask] = (0, 0, 0)
    shown[mask & _grown(~mask)] = OUTLINE
    return shown


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask with its four-neighbours added."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def maps_of(
    chosen: Mapping[Unit, Sequence[int]],
    layers: Sequence[str],
    measure: Callable[[int], Sequence[Map]],
    progress: Callable[[int, int, str], None],
) -> dict[tuple[Unit, int], Map]:
    """Return the maps of some units on some images, float32 [height, width]; `measure` gives each image's, by layer."""
    units_on: dict[int, list[Unit]] = {}
    for unit, images in chosen.items():
        for image in images:
            units_on.setdefault(image, []).append(unit)
    maps = {}
    for done, (image, units) in enumerate(units_on.items()):
        activations = measure(image)
        for unit in units:
            maps[unit, image] = activations[layers.index(unit.layer)][0, unit.index].copy()
        progress(done + 1, len(units_on), "pictures")
    return maps


def shown(data: ConceptSet, image: int, domain: Domain) -> Pixels:
    """Return an image as it is shown, uint8 [H, W, 3] in its own proportions."""
    pixels = domain.sample(data, image)
    if not domain.photographic:
        pixels = to_pixels(domain.show(pixels.transpose(2, 0, 1)[None]))[0]
    scale = PICTURE_SIDE / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    return np.round(fit_image(pixels, _STRETCH, size) * 255).astype(np.uint8)


def masked(unit: UnitResult, name: str, pixels: Pixels, activation: Map, side: Side) -> Picture:
    """Return an image with a unit's mask, upsampled to the picture's resolution; of the lower side a negated map's."""
    size = (pixels.shape[0], pixels.shape[1])
    values = upsample(activation, Grid.between((activation.shape[0], activation.shape[1]), size))
    alt = f"{name}: dimmed outside the mask of unit {unit.unit.index} of {unit.unit.layer}"
    # A plain Python number would be rounded to 32 bits before it is compared.
    mask = values > np.float64(unit.threshold if side == "upper" else -unit.threshold)
    return Picture(show_mask(pixels, mask), alt=alt, format="jpeg")


def tile_of(
    unit: UnitResult,
    ious: npt.NDArray[np.float64],
    data: ConceptSet,
    pictures: tuple[Picture, ...],
    captions: Sequence[str],
    side: Side,
    gain: Gain | None,
) -> Tile:
    """Return a unit's pictures with what it fits best and next best; `ious` are 0 where a concept does not count."""
    others = [place for place in np.argsort(-ious, kind="stable").tolist()[1:4] if ious[place] > 0]
    also = ", ".join(f"{shorten(data.concepts[place].name, 40)} {ious[place]:.3f}" for place in others)
    facts: list[tuple[str, Cell]] = [
        ("concept", unit.concept),
        ("category", unit.category),
        ("IoU", unit.iou),
        *([("interval", interval_in_words(unit.interval))] if unit.interval else []),
        ("detector", unit.verdict),
        *([("halves", unit.halves)] if unit.halves else []),
        ("chance level", "unknown" if unit.chance is None else unit.chance),
    ]
    if unit.auc is not None:
        facts.append(("AUC", f"{unit.auc:.3f} ({interval_in_words(unit.auc_interval)})"))
    if unit.precision is not None:
        facts.append(("on the concept", f"{percent(unit.precision)} of the mask"))
    if unit.rival and unit.rival_share is not None:
        facts.append(("more of it on", f"{shorten(unit.rival, 40)} ({percent(unit.rival_share)})"))
    facts += [
        ("next best", also or NO_CONCEPT),
        *([("formula", gain.told)] if gain is not None else []),
        ("threshold", unit.threshold),
        ("largest activation" if side == "upper" else "least activation", unit.largest),
    ]
    marked = " by chance" if unit.verdict == BY_CHANCE else f", {UNCONFIRMED}" if unit.confirmed is False else ""
    return Tile(
        title=f"{unit.concept}{marked} ({shorten(unit.unit.layer)}:{unit.unit.index})",
        unit=unit.unit,
        pictures=pictures,
        facts=tuple(facts),
        captions=tuple(captions),
    )
