"""Units named after the concepts that they fit best, with what a reader needs to judge the name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.chance import Chance
from onnxviz.analyses.dissection.counting import Overlap
from onnxviz.analyses.dissection.summary import BY_CHANCE, DETECTS, DETECTS_NOT, UNKNOWN, ChanceRow, UnitResult
from onnxviz.analyses.dissection.thresholds import Thresholds
from onnxviz.core.values import Unit
from onnxviz.data.concepts import Concept


def counted_concepts(overlap: Overlap, least_images: int) -> npt.NDArray[np.bool_]:
    """Return bool [concepts]: which are in so many images that a unit may be named after them."""
    return np.asarray(overlap.images >= max(1, least_images))


def named_units(
    layer: str,
    concepts: Sequence[Concept],
    thresholds: Thresholds,
    overlap: Overlap,
    chance: Chance,
    counted: npt.NDArray[np.bool_],
    limit: float,
) -> list[UnitResult]:
    """Return what each unit of a layer fits best; of equal concepts the first.

    Args:
        layer: the layer's name.
        concepts: those of the data set.
        thresholds: those of the layer's units.
        overlap: the layer's counts.
        chance: what the units fit best with other images' labels.
        counted: bool [concepts], those that a unit may be named after.
        limit: the IoU from which on a unit may be a detector.
    """
    ious = np.where(counted, overlap.iou(), 0.0)
    covers = overlap.precision()
    level = chance.level
    results = []
    for index, choice in enumerate(ious.argmax(axis=1).tolist()):
        iou = float(ious[index, choice])
        named = iou > 0
        # Concepts of one category are alternatives to each other; a colour says nothing against an object.
        rivals = np.where(overlap.categories == overlap.categories[choice], covers[index], 0.0)
        most = int(rivals.argmax()) if rivals.max() > rivals[choice] else choice
        results.append(
            UnitResult(
                Unit(layer, index),
                concepts[choice].name if named else "",
                concepts[choice].category if named else "",
                iou,
                _verdict(iou, limit, level[index]),
                float(level[index]) if len(chance.iou) else None,
                float(covers[index, choice]) if named else None,
                concepts[most].name if named and most != choice else "",
                float(rivals[most]) if named and most != choice else None,
                float(thresholds.values[index]),
                float(thresholds.largest[index]),
                "dead" if thresholds.constant[index] else "saturated" if thresholds.saturated[index] else "",
            )
        )
    return results


def _verdict(iou: float, limit: float, level: float) -> str:
    if iou < limit:
        return DETECTS_NOT
    if math.isinf(level):
        return UNKNOWN
    return DETECTS if iou > level else BY_CHANCE


def chance_rows(layer: str, concepts: Sequence[Concept], chance: Chance, limit: float) -> list[ChanceRow]:
    """Return what a layer's units would be named in each shuffle: a line for each concept that one of them reaches."""
    exceeding = chance.exceeding()
    rows = []
    for shuffle, (ious, choices) in enumerate(zip(chance.iou, chance.concept, strict=True)):
        reached = ious >= limit
        best = int(ious.argmax())
        for choice in sorted({*choices[reached].tolist(), int(choices[best])}):
            named = choices == choice
            rows.append(
                ChanceRow(
                    layer,
                    shuffle,
                    concepts[choice].name,
                    concepts[choice].category,
                    int((named & reached).sum()),
                    int((named & reached & exceeding[shuffle]).sum()),
                    float(ious[named].max()),
                )
            )
    return rows
