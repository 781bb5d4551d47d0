"""What the units' best concepts add up to: detectors for each layer, category and concept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxviz.errors import shorten
from onnxviz.findings import Bars, Cell, Column, Curve, Finding, Histogram, Metric, Note, Series, Table
from onnxviz.values import Unit

UNIT_COLUMNS = (
    Column("unit", "unit"),
    Column("concept", description="The concept whose pixels the unit's mask fits best."),
    Column("category"),
    Column("IoU", "number", "Intersection over union of mask and concept, over the whole data set."),
    Column("detector", description="Whether the IoU reaches the limit."),
    Column("threshold", "number", "The unit's mask is where its activation is above."),
    Column("largest", "number", "The unit's greatest activation."),
    Column("remark", description="dead: the same activation everywhere. saturated: nothing lies above the threshold."),
)
NO_CONCEPT = "none"
_LONG_LIST = 40
_BINS = 20


@dataclass(frozen=True, slots=True)
class UnitResult:
    """A line of the units table: what one unit fits best."""

    unit: Unit
    concept: str
    category: str
    iou: float
    detector: bool
    threshold: float
    largest: float
    remark: str = ""

    def row(self) -> tuple[Cell, ...]:
        """Return the cells under `UNIT_COLUMNS`."""
        verdict = "yes" if self.detector else "no"
        values = (self.iou, verdict, self.threshold, self.largest, self.remark)
        return (self.unit, self.concept or NO_CONCEPT, self.category, *values)

    @classmethod
    def of(cls, row: Sequence[Cell]) -> UnitResult:
        """Undo `row`."""
        unit, concept, category, iou, verdict, threshold, largest, remark = row
        assert isinstance(unit, Unit)
        assert isinstance(iou, float | int)
        assert isinstance(threshold, float | int)
        assert isinstance(largest, float | int)
        name = "" if not category else str(concept)
        detects = verdict == "yes"
        return cls(unit, name, str(category), float(iou), detects, float(threshold), float(largest), str(remark))


def detectors_of(units: Iterable[UnitResult]) -> list[UnitResult]:
    """Return the units that are detectors."""
    return [unit for unit in units if unit.detector]


def unique_concepts(units: Iterable[UnitResult]) -> set[tuple[str, str]]:
    """Return the concepts, as (category, name), that have a detector: their number is that of unique detectors."""
    return {(unit.category, unit.concept) for unit in units if unit.detector}


def in_words(counts: Counter[str], most: int = 6) -> str:
    """Return "sky 12, tree 9 and 3 more" with the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{shorten(name, 40)} {count}" for name, count in ordered[:most]]
    return ", ".join(words) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def summarize(
    layers: dict[str, list[UnitResult]], concepts: Sequence[str], categories: Sequence[str], limit: float
) -> list[Finding]:
    """Return notes, metrics, tables and charts over all layers.

    Args:
        layers: the units of each layer, in the network's order.
        concepts: names of all concepts of the data set.
        categories: their categories, in the data set's order.
        limit: the IoU from which on a unit is a detector.
    """
    units = [unit for layer in layers.values() for unit in layer]
    found: list[Finding] = [*_notes(layers, len(concepts)), *_metrics(units), _layer_table(layers)]
    found += _by_category(units, categories)
    found.append(_by_concept(units))
    if len(layers) > 1:
        found.append(_by_depth(layers, categories))
    found += [_ranked(layers, limit), _spread(units, limit)]
    return found


def _notes(layers: dict[str, list[UnitResult]], concepts: int) -> Iterable[Note]:
    units = [unit for layer in layers.values() for unit in layer]
    if len(layers) > 1:
        yield Note(_sentence(f"{len(layers)} layers", units, concepts), id="all")
    best = sorted(layers, key=lambda name: -len(unique_concepts(layers[name])))[:3]
    for name in (name for name in layers if name in best):
        yield Note(_sentence(shorten(name), layers[name], concepts), id=f"layer {name}")


def _sentence(where: str, units: Sequence[UnitResult], concepts: int) -> str:
    detectors = detectors_of(units)
    if not detectors:
        best = max(units, key=lambda unit: unit.iou)
        return (
            f"{where}: none of {len(units)} units detects a concept; the best is unit {best.unit.index} of "
            f"{shorten(best.unit.layer)} with {shorten(best.concept or NO_CONCEPT)}, IoU {best.iou:.3f}."
        )
    unique = len(unique_concepts(units))
    verb = "unit detects" if len(detectors) == 1 else "units detect"
    counts = in_words(Counter(unit.concept for unit in detectors))
    return f"{where}: {len(detectors)} of {len(units)} {verb} {unique} of {concepts} concepts: {counts}."


def _metrics(units: Sequence[UnitResult]) -> list[Metric]:
    detectors = detectors_of(units)
    dead = sum(unit.remark == "dead" for unit in units)
    return [
        Metric("detectors", float(len(detectors)), "detectors", "Units that detect a concept.", "integer", "higher"),
        Metric(
            "unique_detectors",
            float(len(unique_concepts(units))),
            "unique detectors",
            "Concepts that at least one unit detects.",
            "integer",
            "higher",
        ),
        Metric(
            "detector_fraction",
            len(detectors) / max(1, len(units)),
            "share of detectors",
            "Detectors among the units that were dissected.",
            "percent",
            "higher",
        ),
        Metric("best_iou", max((u.iou for u in units), default=0.0), "best IoU", "IoU of the best unit."),
        Metric(
            "dead_units",
            float(dead),
            "dead units",
            "Units with the same activation at every position of every image.",
            "integer",
            "lower",
        ),
    ]


def _layer_table(layers: dict[str, list[UnitResult]]) -> Table:
    rows = []
    for name, units in layers.items():
        detectors = detectors_of(units)
        rows.append((
            name,
            len(units),
            len(detectors),
            len(detectors) / max(1, len(units)),
            len(unique_concepts(units)),
            max((unit.iou for unit in units), default=0.0),
            sum(unit.remark == "dead" for unit in units),
            in_words(Counter(unit.concept for unit in detectors)) or NO_CONCEPT,
        ))  # fmt: skip
    columns = (
        Column("layer"),
        Column("units", "integer"),
        Column("detectors", "integer"),
        Column("share", "percent", "Detectors among the layer's units."),
        Column("unique detectors", "integer", "Concepts that at least one unit of the layer detects."),
        Column("best IoU", "number"),
        Column("dead", "integer", "Units with the same activation everywhere."),
        Column("concepts", description="Number of detectors of each concept, most frequent first."),
    )
    return Table("layers", "Detectors in each layer", columns, tuple(rows))


def _by_category(units: Sequence[UnitResult], categories: Sequence[str]) -> list[Finding]:
    if len(categories) < 2:
        return []
    detectors = Counter(unit.category for unit in detectors_of(units))
    unique = Counter(category for category, _ in unique_concepts(units))
    return [
        Bars(
            "detectors_by_category",
            "Detectors of each category",
            tuple(categories),
            tuple(float(detectors[category]) for category in categories),
            "units",
            "Units whose best concept is of that category and reaches the limit, in all layers.",
        ),
        Bars(
            "unique_by_category",
            "Unique detectors of each category",
            tuple(categories),
            tuple(float(unique[category]) for category in categories),
            "concepts",
            "Concepts of that category that at least one unit detects.",
        ),
    ]


def _by_concept(units: Sequence[UnitResult]) -> Bars:
    counts = Counter(unit.concept for unit in detectors_of(units))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:_LONG_LIST]
    rest = f" The {_LONG_LIST} most frequent of {len(ordered)} are shown." if len(ordered) > _LONG_LIST else ""
    return Bars(
        "detectors_by_concept",
        "Detectors of each concept",
        tuple(name for name, _ in shown),
        tuple(float(count) for _, count in shown),
        "units",
        f"Several units may detect one concept; concepts without a detector are left out.{rest}",
    )


def _by_depth(layers: dict[str, list[UnitResult]], categories: Sequence[str]) -> Curve:
    depth = tuple(float(index + 1) for index in range(len(layers)))
    series = []
    for category in categories:
        counts = [sum(kind == category for kind, _ in unique_concepts(units)) for units in layers.values()]
        series.append(Series(category, depth, tuple(float(count) for count in counts)))
    return Curve(
        "by_depth",
        "Unique detectors from the first to the last layer",
        tuple(series),
        "layer, in the network's order",
        "concepts with a detector",
        "Layers in the order of the table above. Low layers tend to detect colours and textures, high ones parts and "
        "objects.",
    )


def _ranked(layers: dict[str, list[UnitResult]], limit: float) -> Curve:
    series = []
    for name, units in layers.items():
        ious = sorted((unit.iou for unit in units), reverse=True)
        share = tuple((index + 1) / len(ious) for index in range(len(ious)))
        series.append(Series(name, share, tuple(ious)))
    return Curve(
        "iou_by_rank",
        "Best IoU of the units, best unit first",
        tuple(series),
        "share of the layer's units",
        "IoU with the best concept",
        f"A unit is a detector from {limit:g} on.",
    )


def _spread(units: Sequence[UnitResult], limit: float) -> Histogram:
    """Return how the IoUs are spread, with an edge exactly at the limit so that no bar mixes both sides."""
    top = max([unit.iou for unit in units] + [2 * limit])
    width = limit / max(1, round(limit / (top / _BINS)))
    edges = [0.0]
    while edges[-1] <= top:
        edges.append(len(edges) * width)
    counts = Counter(min(int(unit.iou / width + 1e-9), len(edges) - 2) for unit in units)
    return Histogram(
        "iou",
        "IoU of all units with their best concept",
        tuple(edges),
        tuple(float(counts[index]) for index in range(len(edges) - 1)),
        "IoU with the best concept",
        "units",
        f"A unit is a detector from {limit:g} on.",
    )
