"""What the units' best concepts add up to: detectors for each layer, category and concept, and how many by chance."""

from __future__ import annotations

import math
import operator
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnxviz.analyses import presentation
from onnxviz.analyses.dissection.results import (
    NO_CONCEPT,
    UNCONFIRMED,
    ChanceRow,
    Concept,
    Side,
    UnitResult,
)
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Bars, Column, Curve, Finding, Histogram, Metric, Note, Series, Table
from onnxviz.core.wording import listed

METRICS = presentation.by_name(
    Metric("detectors", math.nan, "detectors",
           "Units that detect a concept: the IoU reaches the limit and is above the unit's chance level.",
           "integer", "higher"),
    Metric("unique_detectors", math.nan, "unique detectors",
           "Concepts that more units detect than by chance, or one better than by chance.", "integer", "higher"),
    Metric("confirmed_detectors", math.nan, "confirmed detectors",
           "Detectors of one concept on all images and on either half of them.", "integer", "higher"),
    Metric("detector_fraction", math.nan, "share of detectors", "Detectors among the units that were dissected.",
           "percent", "higher"),
    Metric("detectors_by_iou", math.nan, "units that reach the IoU",
           "Detectors by the paper's rule alone: the IoU reaches the limit, by chance or not.", "integer", "higher"),
    Metric("unique_detectors_by_iou", math.nan, "concepts reached",
           "Concepts that at least one unit reaches the limit for, by chance or not.", "integer", "higher"),
    Metric("best_iou", math.nan, "best IoU", "IoU of the best unit."),
    Metric("dead_units", math.nan, "dead units",
           "Units with the same activation at every position of every image.", "integer", "lower"),
    Metric("saturated_units", math.nan, "saturated units",
           "Units with no activation beyond their threshold, so that they have no mask.", "integer", "lower"),
)  # fmt: skip
_LONG_LIST = 40
_BEST_LAYERS = 3
"""So many layers have a sentence of their own."""
_BINS = 20

_LAYER: Callable[[ChanceRow], Hashable] = operator.attrgetter("layer")
_CONCEPT: Callable[[ChanceRow], Hashable] = operator.attrgetter("category", "concept")
_CATEGORY: Callable[[ChanceRow], Hashable] = operator.attrgetter("category")


class ByChance:
    """How many of anything there are in each shuffle, some of which may have no row."""

    def __init__(self, rows: Iterable[ChanceRow], shuffles: int) -> None:
        self._by_shuffle: list[list[ChanceRow]] = [[] for _ in range(shuffles)]
        for row in rows:
            self._by_shuffle[row.shuffle].append(row)

    def span(self, count: Callable[[list[ChanceRow]], float]) -> tuple[float, float] | tuple[()]:
        """Return the least and the most of what a function makes of a shuffle's rows; nothing without shuffles."""
        found = [count(rows) for rows in self._by_shuffle]
        return (float(min(found)), float(max(found))) if found else ()

    def grouped(self, key: Callable[[ChanceRow], Hashable]) -> Mapping[Hashable, ByChance]:
        """Return the same of the rows of each key apart; of a key that no row has, of none."""
        shuffles = len(self._by_shuffle)
        rows: dict[Hashable, list[ChanceRow]] = {}
        for row in (row for rows in self._by_shuffle for row in rows):
            rows.setdefault(key(row), []).append(row)
        apart = {name: ByChance(found, shuffles) for name, found in rows.items()}
        return defaultdict(lambda: ByChance((), shuffles), apart)

    @property
    def reaching(self) -> tuple[float, float] | tuple[()]:
        """Units that reach the limit."""
        return self.span(lambda rows: sum(row.reaching for row in rows))

    @property
    def detectors(self) -> tuple[float, float] | tuple[()]:
        """Units that reach the limit and are above what they reach in the other shuffles."""
        return self.span(lambda rows: sum(row.exceeding for row in rows))

    @property
    def confirmed(self) -> tuple[float, float] | tuple[()]:
        """Those of them that are so on either half of the images."""
        return self.span(lambda rows: sum(row.confirmed for row in rows))

    @property
    def unique_reached(self) -> tuple[float, float] | tuple[()]:
        """Concepts for which a unit reaches the limit."""
        return self.span(lambda rows: len({(row.category, row.concept) for row in rows if row.reaching}))

    @property
    def unique_detectors(self) -> tuple[float, float] | tuple[()]:
        """Concepts that would be detected in a shuffle, if the others were the chance level (`detected`)."""
        counts, ious = self._detectors_of_concepts, self._ious_of_concepts
        found = [0] * len(counts)
        for concept in {concept for count in counts for concept in count}:
            leading = (_highest([count[concept] for count in counts]), _highest([best[concept] for best in ious]))
            for shuffle in {place for place in leading if place is not None}:
                found[shuffle] += counts[shuffle][concept] > 0
        return (float(min(found)), float(max(found))) if found else ()

    @cached_property
    def _detectors_of_concepts(self) -> list[Counter[Concept]]:
        """For each shuffle the number of detectors of each concept."""
        counts: list[Counter[Concept]] = [Counter() for _ in self._by_shuffle]
        for count, rows in zip(counts, self._by_shuffle, strict=True):
            for row in rows:
                count[row.category, row.concept] += row.exceeding
        return counts

    @cached_property
    def _ious_of_concepts(self) -> list[defaultdict[Concept, float]]:
        """For each shuffle the highest IoU of a unit that fits a concept best."""
        ious: list[defaultdict[Concept, float]] = [defaultdict(float) for _ in self._by_shuffle]
        for found, rows in zip(ious, self._by_shuffle, strict=True):
            for row in rows:
                found[row.category, row.concept] = max(found[row.category, row.concept], row.best)
        return ious

    def highest(self, concept: Concept) -> float:
        """Return the highest IoU that a unit has with a concept in a shuffle."""
        return max((found[concept] for found in self._ious_of_concepts), default=0.0)

    def most(self, concept: Concept) -> int:
        """Return the most detectors that a concept has in a shuffle."""
        return max((count[concept] for count in self._detectors_of_concepts), default=0)

    @property
    def best(self) -> tuple[float, float] | tuple[()]:
        """The highest IoU."""
        return self.span(lambda rows: max((row.best for row in rows), default=0.0))


def _highest(values: Sequence[float]) -> int | None:
    """Return the place of the value that is above all others, or None where several are equally high, or all are 0."""
    top = max(values, default=0)
    places = [place for place, value in enumerate(values) if value == top]
    return places[0] if top > 0 and len(places) == 1 else None


def detectors_of(units: Iterable[UnitResult]) -> list[UnitResult]:
    """Return the units that are detectors."""
    return [unit for unit in units if unit.detector]


def detected(units: Iterable[UnitResult], chance: ByChance) -> set[Concept]:
    """Return the concepts with more detectors, or a better one, than in any shuffle: the unique detectors.

    Of many units some exceed their own chance level by chance, and those that are alike do so together. So there have
    to be more of them than any shuffle has, or one has to fit the concept better than any unit does in any shuffle
    (the largest statistic of all units: Nichols and Holmes 2002, Hum. Brain Mapp. 15, 1).
    """
    found: dict[Concept, list[float]] = {}
    for unit in detectors_of(units):
        found.setdefault(unit.named, []).append(unit.iou)
    return {
        concept
        for concept, ious in found.items()
        if len(ious) > chance.most(concept) or max(ious) > chance.highest(concept)
    }


def in_words(counts: Counter[str], most: int = 6) -> str:
    """Return "sky 12, tree 9 and 3 more" with the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return listed([f"{shorten(name, 40)} {count}" for name, count in ordered], most)


def span_in_words(span: Sequence[float], nothing: str = "unknown") -> str:
    """Return "17 to 36", "0", or what stands for nothing."""
    if not span:
        return nothing
    low, high = span
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


@dataclass(frozen=True)
class Summary:
    """What is said over all layers, in the network's order; `concept_images` says in how many images a concept is."""

    layers: Mapping[str, Sequence[UnitResult]]
    chance: ByChance
    concept_images: Mapping[tuple[str, str], int]
    categories: Sequence[str]
    limit: float
    least_images: int
    side: Side = "upper"

    @property
    def units(self) -> list[UnitResult]:
        """The units of all layers."""
        return [unit for layer in self.layers.values() for unit in layer]

    def findings(self) -> list[Finding]:
        """Return notes, metrics, tables and charts over all layers."""
        several = len(self.layers) > 1
        return [
            *self._notes(),
            *self._metrics(),
            self._layer_table(),
            self._concept_table(),
            *self._by_category(),
            self._by_concept(),
            *([_by_depth(self.layers, self.chance.grouped(_LAYER), self.categories)] if several else []),
            _ranked(self.layers, self.limit),
            _spread(self.units, self.limit),
        ]

    def _notes(self) -> Iterable[Note]:
        if len(self.layers) > 1:
            yield Note(self._sentence(f"{len(self.layers)} layers", self.units, self.chance), id="all")
        chance = self.chance.grouped(_LAYER)
        best = sorted(self.layers, key=lambda name: -len(detected(self.layers[name], chance[name])))[:_BEST_LAYERS]
        about = (
            f"the {_BEST_LAYERS} layers that detect most concepts" if len(self.layers) > _BEST_LAYERS else "each layer"
        )
        for name in (name for name in self.layers if name in best):
            said = self._sentence(shorten(name), self.layers[name], chance[name], explained=len(self.layers) > 1)
            yield Note(said, f"layer {name}", about)

    def _sentence(self, where: str, units: Sequence[UnitResult], chance: ByChance, *, explained: bool = False) -> str:
        where += ", by their lowest activations" if self.side == "lower" else ""
        detectors = detectors_of(units)
        reaching = sum(unit.reaches for unit in units)
        total, concepts = len(units), len(self.concept_images)
        if not concepts:
            return f"{where}: no unit could be named, because no concept is in at least {self.least_images} images."
        if not reaching:
            best = max(units, key=lambda unit: unit.iou)
            return (
                f"{where}: none of {total} units detects a concept; the best is unit {best.unit.index} of "
                f"{shorten(best.unit.layer)} with {shorten(best.concept or NO_CONCEPT)}, IoU {best.iou:.3f}."
            )
        rule = (
            f"{reaching} of {total} units reach an IoU of {self.limit:g} with their best concept, "
            f"{span_in_words(chance.reaching, 'an unknown number')} with the labels of other images"
        )
        if not detectors:
            judged = "the chance level is unknown" if not chance.reaching else "none is above its chance level"
            return f"{where}: no unit detects a concept: {rule}, and {judged}."
        certain = detected(units, chance)
        told = in_words(Counter(unit.concept for unit in detectors if unit.named in certain)) or NO_CONCEPT
        rest = in_words(Counter(unit.concept for unit in detectors if unit.named not in certain))
        more = f"; not told from chance: {rest}" if rest else ""
        verb = "units detects" if len(detectors) == 1 else "units detect"
        level = f"by chance {span_in_words(chance.detectors)}"
        if chance.detectors and len(detectors) <= chance.detectors[1]:
            level = f"which is no more than chance gives ({span_in_words(chance.detectors)})"
        return (
            f"{where}: {len(detectors)} of {total} {verb} {len(certain)} of the {concepts} concepts that are in at "
            f"least {self.least_images} images, {level}: {told}{more}."
            + f" {self._confirmation(detectors, chance, explained=explained)}"
            + (f" ({rule[0].upper()}{rule[1:]}.)" if reaching > len(detectors) else "")
        )

    @staticmethod
    def _confirmation(detectors: Sequence[UnitResult], chance: ByChance, *, explained: bool) -> str:
        """Return the sentence on how many detectors either half of the images confirms."""
        found, confirmed = len(detectors), sum(bool(unit.confirmed) for unit in detectors)
        by_chance = f"by chance {span_in_words(chance.confirmed)}"
        rest = f"; {found - confirmed} {'is' if found - confirmed == 1 else 'are'} {UNCONFIRMED}"
        if found == 1:
            said = "confirmed: it detects that concept on either half" if confirmed else UNCONFIRMED
            return f"It is {said} of the images ({by_chance})."
        if explained:
            return f"{confirmed} of the {found} are confirmed ({by_chance})."
        return (
            f"{confirmed} of the {found} are confirmed, which means that they detect the same concept on either half "
            f"of the images ({by_chance}){rest if confirmed < found else ''}."
        )

    def _metrics(self) -> Iterator[Metric]:
        units, chance = self.units, self.chance
        detectors, total, concepts = detectors_of(units), len(units), len(self.concept_images)
        reaching = [unit for unit in units if unit.reaches]
        share = [bound / max(1, total) for bound in chance.detectors]
        for name, value, of, span in (
            ("detectors", len(detectors), total, chance.detectors),
            ("unique_detectors", len(detected(units, chance)), concepts, chance.unique_detectors),
            ("confirmed_detectors", sum(bool(unit.confirmed) for unit in units), total, chance.confirmed),
            ("detector_fraction", len(detectors) / max(1, total), total, (share[0], share[1]) if share else ()),
            ("detectors_by_iou", len(reaching), total, chance.reaching),
            ("unique_detectors_by_iou", len({unit.named for unit in reaching}), concepts, chance.unique_reached),
            ("best_iou", max((unit.iou for unit in units), default=0.0), 0, chance.best),
            ("dead_units", sum(unit.remark == "dead" for unit in units), total, ()),
            ("saturated_units", sum(unit.remark == "saturated" for unit in units), total, ()),
        ):
            yield replace(METRICS[name], value=float(value), total=of, chance=span)

    def _layer_table(self) -> Table:
        rows = []
        by_chance = self.chance.grouped(_LAYER)
        for name, units in self.layers.items():
            detectors = detectors_of(units)
            chance = by_chance[name]
            rows.append((
                name,
                len(units),
                len(detectors),
                len(detectors) / max(1, len(units)),
                span_in_words(chance.detectors),
                sum(bool(unit.confirmed) for unit in units),
                span_in_words(chance.confirmed),
                len(detected(units, chance)),
                sum(unit.reaches for unit in units),
                span_in_words(chance.reaching),
                max((unit.iou for unit in units), default=0.0),
                sum(unit.remark == "dead" for unit in units),
                sum(unit.remark == "saturated" for unit in units),
                in_words(Counter(unit.concept for unit in detectors)) or NO_CONCEPT,
            ))  # fmt: skip
        columns = (
            Column("layer"),
            Column("units", "integer"),
            Column("detectors", "integer", "Units whose IoU reaches the limit and is above their chance level."),
            Column("share", "percent", "Detectors among the layer's units."),
            Column("by chance", description="Detectors, counted the same way, with the labels of other images."),
            Column("confirmed", "integer", "Detectors that detect their concept on either half of the images."),
            Column("confirmed by chance", description="The same with the labels of other images."),
            Column("unique detectors", "integer", "Concepts that more units of the layer detect than by chance."),
            Column("reach the IoU", "integer", "Units whose IoU reaches the limit, by chance or not."),
            Column("reach it by chance", description="The same with the labels of other images."),
            Column("best IoU", "number"),
            Column("dead", "integer", "Units with the same activation everywhere."),
            Column("saturated", "integer", "Units with no activation beyond their threshold: they have no mask."),
            Column("concepts", description="Number of detectors of each concept, most frequent first."),
        )
        return Table("layers", "Detectors in each layer", columns, tuple(rows))

    def _concept_table(self) -> Table:
        columns = (
            Column("concept"),
            Column("category"),
            Column("images", "integer", "Images that have a pixel of the concept."),
            Column("detectors", "integer", "Units named after it whose IoU reaches the limit and is above chance."),
            Column("by chance", description="Detectors, counted the same way, with the labels of other images."),
            Column("confirmed", "integer", "Detectors that detect it on either half of the images."),
            Column("above chance", description="Whether there are more detectors than in any shuffle."),
            Column("reach the IoU", "integer", "Units named after it whose IoU reaches the limit, by chance or not."),
            Column("reach it by chance", description="The same with the labels of other images."),
            Column("best IoU", "number", "The highest IoU of a unit that is named after it."),
            Column("precision", "percent", "Median over the detectors: the share of their masks on the concept."),
        )
        named: dict[tuple[str, str], list[UnitResult]] = {}
        for unit in self.units:
            named.setdefault(unit.named, []).append(unit)
        rows = []
        by_chance = self.chance.grouped(_CONCEPT)
        for key, images in self.concept_images.items():
            units = named.get(key, [])
            chance = by_chance[key]
            precisions = [unit.precision for unit in detectors_of(units) if unit.precision is not None]
            rows.append((
                key[1],
                key[0],
                images,
                len(precisions),
                span_in_words(chance.detectors),
                sum(bool(unit.confirmed) for unit in units),
                "yes" if len(precisions) > chance.most(key) else "no",
                sum(unit.reaches for unit in units),
                span_in_words(chance.reaching),
                max((unit.iou for unit in units), default=None),
                statistics.median(precisions) if precisions else None,
            ))  # fmt: skip
        rows.sort(key=lambda row: -row[3])
        text = "Concepts that are in fewer images are left out: no unit is named after them."
        return Table("concepts", f"Concepts in at least {self.least_images} images", columns, tuple(rows), text)

    def _by_category(self) -> Iterator[Bars]:
        if len(self.categories) < 2:
            return
        detectors = Counter(unit.category for unit in detectors_of(self.units))
        unique = Counter(category for category, _ in detected(self.units, self.chance))
        by_chance = self.chance.grouped(_CATEGORY)
        chance = [by_chance[category] for category in self.categories]
        for key, what, counts, unit, spans, text in (
            ("detectors", "Detectors", detectors, "units", [part.detectors for part in chance],
             "Units that detect a concept of that category, in all layers."),
            ("unique", "Unique detectors", unique, "concepts", [part.unique_detectors for part in chance],
             "Concepts of that category that more units detect than by chance."),
        ):  # fmt: skip
            numbers = tuple(float(counts[category]) for category in self.categories)
            known = tuple(span for span in spans if span)
            yield Bars(
                f"{key}_by_category", f"{what} of each category", tuple(self.categories), numbers, unit, text, known
            )

    def _by_concept(self) -> Bars:
        counts = Counter(unit.named for unit in detectors_of(self.units))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        shown = ordered[:_LONG_LIST]
        rest = f" The {_LONG_LIST} most frequent of {len(ordered)} are shown." if len(ordered) > _LONG_LIST else ""
        chance = self.chance.grouped(_CONCEPT)
        spans = [chance[key].detectors for key, _ in shown]
        alike = Counter(name for (_, name), _ in ordered)
        return Bars(
            "detectors_by_concept",
            "Detectors of each concept",
            tuple(name if alike[name] == 1 else f"{name} ({category})" for (category, name), _ in shown),
            tuple(float(count) for _, count in shown),
            "units",
            f"Several units may detect one concept; concepts without a detector are left out.{rest}",
            tuple(span for span in spans if span),
        )


def _by_depth(
    layers: Mapping[str, Sequence[UnitResult]], chance: Mapping[Hashable, ByChance], categories: Sequence[str]
) -> Curve:
    found = [detected(units, chance[name]) for name, units in layers.items()]
    depth = tuple(float(index + 1) for index in range(len(layers)))
    series = []
    for category in categories:
        counts = [sum(kind == category for kind, _ in concepts) for concepts in found]
        series.append(Series(category, depth, tuple(float(count) for count in counts)))
    return Curve(
        "by_depth",
        "Unique detectors from the first to the last layer",
        tuple(series),
        "layer, in the network's order",
        "concepts that more units detect than by chance",
        "Layers in the order of the table above. Low layers tend to detect colours and textures, high ones parts and "
        "objects.",
    )


def _ranked(layers: Mapping[str, Sequence[UnitResult]], limit: float) -> Curve:
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
        f"A unit may be a detector from {limit:g} on.",
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
        f"A unit may be a detector from {limit:g} on.",
    )
