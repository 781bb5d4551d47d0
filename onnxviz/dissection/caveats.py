"""What a reader must know before believing a dissection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.dissection.counting import Overlap
from onnxviz.dissection.summary import UnitResult
from onnxviz.dissection.thresholds import Thresholds
from onnxviz.errors import shorten
from onnxviz.findings import Caveat

if TYPE_CHECKING:
    from onnxviz.concepts import ConceptSet

_FEW_IMAGES = 10
_FEW_VALUES = 10
_SMALL_DATA = 100


def caveats(
    data: ConceptSet, images: int, overlap: Overlap, thresholds: Mapping[str, Thresholds], quantile: float, iou: float
) -> Iterator[Caveat]:
    """Say for which concepts and layers there is too little data, and which concepts the settings do not suit.

    Args:
        data: the concepts.
        images: number of images that were used.
        overlap: the counts of any layer.
        thresholds: those of each layer.
        quantile: the share of positions above a threshold.
        iou: from this IoU on a unit is a detector.
    """
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
            f"Concepts in fewer than {_FEW_IMAGES} images, on which little can be said: {listed(rare)}.",
            id="rare",
        )
    yield from _reach(data, overlap, quantile, iou)
    for name, values in thresholds.items():
        if (above := values.positions * quantile) < _FEW_VALUES:
            yield Caveat(
                f"{shorten(name)}: only {above:.2g} activations of each unit lie above its threshold, because "
                f"there are {values.positions} positions in all; give more images.",
                id=f"positions {name}",
            )


def _reach(data: ConceptSet, overlap: Overlap, quantile: float, iou: float) -> Iterator[Caveat]:
    """Name the concepts that a mask of the usual area cannot reach, and those that it reaches by chance.

    A mask of area q inside a concept of area s > q has IoU q / s; at random positions it has q s / (q + s - q s).
    """
    shares = (overlap.concept / np.maximum(1, overlap.pixels[overlap.categories])).tolist()
    named = [
        (f"{shorten(concept.name, 40)} ({share:.0%})", share)
        for concept, share in zip(data.concepts, shares, strict=True)
    ]
    large = [name for name, share in named if share * iou > quantile]
    if large:
        yield Caveat(
            f"A mask covers about {quantile:.1%} of all pixels, so a concept that covers more than "
            f"{quantile / iou:.1%} of its images can hardly reach an IoU of {iou:g}: "
            f"{listed(large)}. Raise `quantile` and `iou` together to look for detectors of them.",
            id="large",
        )
    chance = [
        name for name, share in named if share > 0 and quantile * share >= iou * (quantile + share - quantile * share)
    ]
    if chance:
        yield Caveat(
            f"A mask at random positions would reach an IoU of {iou:g} with {listed(chance)}: `iou` is too "
            "low for this `quantile`, and what is called a detector of them may be chance.",
            id="chance",
        )


def remarks(layers: Mapping[str, Sequence[UnitResult]]) -> Iterator[Caveat]:
    """Say which units could not have a mask."""
    for remark, reason in (
        ("dead", "have the same activation at every position of every image and cannot be detectors"),
        ("saturated", "lie nowhere above their threshold, because it is their greatest activation: they reach that too "
         "often, or there are too few positions"),
    ):  # fmt: skip
        counts = {name: sum(unit.remark == remark for unit in units) for name, units in layers.items()}
        concerned = [f"{shorten(name)} {count}" for name, count in counts.items() if count]
        if concerned:
            yield Caveat(f"{sum(counts.values())} units {reason}: {listed(concerned)}.", id=remark)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names in one line, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
