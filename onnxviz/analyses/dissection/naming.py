"""Units named after the concepts that they fit best, with what a reader needs to judge the names."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.chance import Exchange
from onnxviz.analyses.dissection.counting import Overlap
from onnxviz.analyses.dissection.fit import FEWEST_PARTS, Fit
from onnxviz.analyses.dissection.results import BY_CHANCE, DETECTS, DETECTS_NOT, UNKNOWN, ChanceRow, Side, UnitResult
from onnxviz.analyses.dissection.thresholds import Thresholds
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Caveat
from onnxviz.core.shares import percent
from onnxviz.core.values import Unit
from onnxviz.core.wording import counted, listed
from onnxviz.data.concepts import Concept
from onnxviz.graph.features import before_bound

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet
    from onnxviz.graph.view import GraphView

_FEW_VALUES = 10
_LISTED = 12
_SMALL_DATA = 100
_DOUBTFUL_NAMES = frozenset(
    {"other", "others", "misc", "miscellaneous", "rest", "clutter", "stuff", "default", "empty"}
)
"""Names, in lower case, that may be a concept's and often are not."""
_SATURATED_LAYER = 0.1
"""From this share of saturated units on a layer is better dissected before its activation."""


def named_units(
    layer: str, concepts: Sequence[Concept], thresholds: Thresholds, fit: Fit, limit: float, side: Side
) -> list[UnitResult]:
    """Return what each unit of a layer fits best; of equal concepts the first.

    From the IoU `limit` on it may be a detector. Thresholds of the lower side are those of negated activations.
    """
    sign = 1 if side == "upper" else -1
    overlap, ious, level = fit.overlap, fit.ious, fit.chance.level
    covers, confirmed, intervals = overlap.precision(), fit.confirmed(limit), fit.intervals()
    results = []
    for index, choice in enumerate(fit.choices.tolist()):
        iou = float(ious[index, choice])
        named = iou > 0
        verdict = _verdict(iou, limit, level[index])
        auc = float(fit.aucs[index])
        # Concepts of one category are alternatives to each other; a colour says nothing against an object.
        rivals = np.where(overlap.categories == overlap.categories[choice], covers[index], 0.0)
        most = int(rivals.argmax()) if rivals.max() > rivals[choice] else choice
        results.append(
            UnitResult(
                Unit(layer, index),
                concepts[choice].name if named else "",
                concepts[choice].category if named else "",
                iou,
                _interval(intervals[index]) if named else (),
                verdict,
                bool(confirmed[index]) if verdict == DETECTS else None,
                float(level[index]) if len(fit.chance.iou) else None,
                auc if named and not math.isnan(auc) else None,
                _interval(fit.auc_intervals[index]) if named else (),
                float(covers[index, choice]) if named else None,
                concepts[most].name if named and most != choice else "",
                float(rivals[most]) if named and most != choice else None,
                sign * float(thresholds.values[index]) + 0.0,
                sign * float(thresholds.largest[index]) + 0.0,
                "dead" if thresholds.constant[index] else "saturated" if thresholds.saturated[index] else "",
            )
        )
    return results


def _interval(ends: npt.NDArray[np.float64]) -> tuple[float, float] | tuple[()]:
    return () if np.isnan(ends).any() else (float(ends[0]), float(ends[1]))


def _verdict(iou: float, limit: float, level: float) -> str:
    if iou < limit:
        return DETECTS_NOT
    if math.isinf(level):
        return UNKNOWN
    return DETECTS if iou > level else BY_CHANCE


def chance_rows(layer: str, concepts: Sequence[Concept], fit: Fit, limit: float) -> list[ChanceRow]:
    """Return what a layer's units would be named in each shuffle: a line for each concept that one of them reaches."""
    chance, exceeding, confirmed = fit.chance, fit.chance.exceeding(), fit.confirmed_by_chance(limit)
    rows = []
    for shuffle, (ious, choices) in enumerate(zip(chance.iou, chance.concept, strict=True)):
        reached = ious >= limit
        best = int(ious.argmax())
        for choice in sorted({*choices[reached].tolist(), int(choices[best])}):
            named = choices == choice
            detectors = named & reached & exceeding[shuffle]
            rows.append(
                ChanceRow(
                    layer,
                    shuffle,
                    concepts[choice].name,
                    concepts[choice].category,
                    int((named & reached).sum()),
                    int(detectors.sum()),
                    int((detectors & confirmed[shuffle]).sum()),
                    float(ious[named].max()),
                )
            )
    return rows


def caveats(
    data: ConceptSet,
    exchange: Exchange,
    fit: Fit,
    thresholds: Mapping[str, Thresholds],
    quantile: float,
    iou: float,
) -> Iterator[Caveat]:
    """Say for which concepts and layers there is too little data, and which concepts the settings do not suit.

    `fit` is any layer's.
    """
    images, overlap, counted = len(exchange.order), fit.overlap, fit.counted
    if images < _SMALL_DATA:
        yield Caveat(
            f"The data set has {images} images, fewer than {_SMALL_DATA}: thresholds and IoUs of another sample "
            "may differ much.",
            id="small",
        )
    if images < 2:
        yield Caveat(
            "There is no other image whose labels could be taken, so the chance level is unknown and no unit is called "
            "a detector.",
            id="no_chance",
            level="wrong",
        )
    if exchange.steps and (alike := exchange.alike) is not None:
        yield Caveat(
            "Images that follow each other are alike, as frames of a film are: their labels agree on "
            f"{percent(alike.near)} of the places, those of images far apart on {percent(alike.far)}. So the shuffles "
            f"keep the order and give each image the labels of one that is {exchange.steps[0]} to {exchange.steps[-1]} "
            "places behind it: single images that are exchanged would show too little chance. The data set stands for "
            "fewer independent images than it has: intervals come from what the IoU is without one of "
            f"{len(fit.parts)} pieces after the other.",
            id="alike",
        )
    if images > 1 and len(fit.parts) < FEWEST_PARTS:
        yield Caveat(
            f"The images make only {len(fit.parts)} independent pieces, too few to say how far an IoU of other images "
            "may lie, so no interval is given.",
            id="no_interval",
        )
    rare = [
        f"{shorten(concept.name, 40)} ({count})"
        for concept, count, enough in zip(data.concepts, overlap.images.tolist(), counted.tolist(), strict=True)
        if count and not enough
    ]
    absent = int((overlap.images == 0).sum())
    if rare:
        yield Caveat(
            f"{len(rare)} of {len(data.concepts)} concepts are in too few of the images and left out, so that no unit "
            f"is named after them (`least_images`; number of images in brackets): {listed(rare, _LISTED)}."
            + (f" {absent} are in none." if absent else ""),
            id="rare",
            level="limit",
        )
    doubtful = [
        shorten(concept.name, 40)
        for concept, enough in zip(data.concepts, counted.tolist(), strict=True)
        if enough and (concept.name.casefold() in _DOUBTFUL_NAMES or concept.name.isdecimal())
    ]
    if doubtful:
        yield Caveat(
            f"{listed(doubtful, _LISTED)} {'counts as a concept' if len(doubtful) == 1 else 'count as concepts'}, "
            "though such names often stand for what nobody labelled; if so, name it void in the class list.",
            id="doubtful",
        )
    yield from _reach(data, overlap, counted, quantile, iou)
    for name, values in thresholds.items():
        if (above := values.positions * quantile) < _FEW_VALUES:
            yield Caveat(
                f"Only {above:.2g} activations of each unit of {shorten(name)} lie beyond its threshold, because "
                f"there are {values.positions} positions in all; give more images.",
                id=f"positions {name}",
            )


def _reach(
    data: ConceptSet, overlap: Overlap, counted: npt.NDArray[np.bool_], quantile: float, iou: float
) -> Iterator[Caveat]:
    """Name the concepts that a mask of the usual area cannot reach, and those that it reaches by chance.

    A mask of area q inside a concept of area s > q has IoU q / s; at random positions it has q s / (q + s - q s).
    """
    shares = (overlap.concept / np.maximum(1, overlap.pixels[overlap.categories])).tolist()
    named = [
        (f"{shorten(concept.name, 40)} ({percent(share)})", share)
        for concept, share, enough in zip(data.concepts, shares, counted.tolist(), strict=True)
        if enough
    ]
    large = [name for name, share in named if share * iou > quantile]
    if large:
        yield Caveat(
            f"A mask covers about {percent(quantile, 1)} of all pixels, so a concept that covers more than "
            f"{percent(quantile / iou, 1)} of its images can hardly reach an IoU of {iou:g}: "
            f"{listed(large, _LISTED)}. Raise `quantile` and `iou` together to look for detectors of them.",
            id="large",
            level="limit",
        )
    chance = [
        name for name, share in named if share > 0 and quantile * share >= iou * (quantile + share - quantile * share)
    ]
    if chance:
        yield Caveat(
            f"A mask at random positions would reach an IoU of {iou:g} with {listed(chance, _LISTED)}: `iou` is too "
            "low for this `quantile`, and only the chance level tells detectors of them from others.",
            id="chance",
        )


def remarks(layers: Mapping[str, Sequence[UnitResult]], view: GraphView, side: Side) -> Iterator[Caveat]:
    """Say which units could not have a mask, and which layer to take in place of one with many saturated ones."""
    above, greatest, bound = ("above", "greatest", "ceiling") if side == "upper" else ("below", "least", "floor")
    for remark, of_one, of_several in (
        ("dead", "has the same activation at every position of every image and cannot be a detector",
         "have the same activation at every position of every image and cannot be detectors"),
        ("saturated", f"lies nowhere {above} its threshold, because that is its {greatest} activation: it is reached "
         "too often, or there are too few positions",
         f"lie nowhere {above} their threshold, because it is their {greatest} activation: they reach that too often, "
         "or there are too few positions"),
    ):  # fmt: skip
        counts = {name: sum(unit.remark == remark for unit in units) for name, units in layers.items()}
        concerned = [f"{shorten(name)} {count} of {len(layers[name])}" for name, count in counts.items() if count]
        if concerned:
            total = sum(counts.values())
            reason = of_one if total == 1 else of_several
            yield Caveat(f"{counted(total, 'unit')} {reason}: {listed(concerned, _LISTED)}.", id=remark)
        if remark == "saturated":
            ceilings = [name for name, count in counts.items() if count > _SATURATED_LAYER * len(layers[name])]
            instead = {name: before_bound(view, view.layer(name), side) for name in ceilings}
            offers = [
                f"{shorten(layer.name, 200)!r} in place of {shorten(name)!r}"
                for name, layer in instead.items()
                if layer is not None and layer.has_map
            ]
            if offers:
                yield Caveat(
                    f"An activation with a {bound} hides which of these positions are the strongest; what enters it "
                    f"does not. In `layers`, name {listed(offers, 4)}.",
                    id="ceiling",
                )


def rivals(layers: Mapping[str, Sequence[UnitResult]]) -> Iterator[Caveat]:
    """Say which concepts have detectors whose masks lie more on another concept of the same category."""
    named: dict[tuple[str, str], list[UnitResult]] = {}
    for unit in (unit for units in layers.values() for unit in units if unit.detector):
        named.setdefault(unit.named, []).append(unit)
    told = []
    for (_, concept), units in sorted(named.items(), key=lambda item: -len(item[1])):
        astray = [unit for unit in units if unit.rival]
        if not astray:
            continue
        (rival, _), *_ = Counter(unit.rival for unit in astray).most_common(1)
        alike = [unit for unit in astray if unit.rival == rival]
        own = statistics.fmean(unit.precision or 0.0 for unit in alike)
        other = statistics.fmean(unit.rival_share or 0.0 for unit in alike)
        told.append(
            f"{shorten(concept, 40)}, {len(alike)} of {len(units)}: {percent(own)} of the mask on it, "
            f"{percent(other)} on {shorten(rival, 40)}"
        )
    if told:
        yield Caveat(
            "Detectors are named after the concept that their mask fits best, which need not be the one that it lies "
            f"on. Of these another one covers more of the mask: {listed(told, _LISTED, '; ')}.",
            id="rivals",
            level="limit",
        )
