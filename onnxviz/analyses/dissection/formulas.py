"""Formulas of concepts that a unit fits better than any concept alone: and, or, and not.

After Mu and Andreas 2020 (arXiv:2006.14032). Pixels that carry the same concepts are alike for every formula, so it is
enough to count them by the set of their concepts; the IoU of any formula follows from these counts, without the images.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.counting import Grid, PixelLabels, mask_pixels, round_down
from onnxviz.core.findings import Column, Finding, Note, Table
from onnxviz.core.values import Unit
from onnxviz.core.wording import counted as counted_units

Sets: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Unsigned integers [sets, label layers]: a set's concepts, counted from 1 and in order, and 0 for none."""

BEAM = 5
SHUFFLES = 5
"""Shuffles that show what formulas gain by chance."""
AND, OR, AND_NOT = "and", "or", "and not"


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The concepts that an image's pixels carry.

    Attributes:
        sets: those that occur, in order.
        place: int32 [pixels], which of them each pixel has.
        pixels: int64 [sets], how many pixels have it.
    """

    sets: Sets
    place: npt.NDArray[np.int32]
    pixels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, labels: PixelLabels) -> LabelSets:
        """Find the sets of an image's labels."""
        sets, place = np.unique(np.sort(labels.columns, axis=0).T, axis=0, return_inverse=True)
        place = place.reshape(-1)
        return cls(sets, np.asarray(place, np.int32), np.bincount(place, minlength=len(sets)))


@dataclass(frozen=True, eq=False)
class SetCounts:
    """Pixels by the set of their concepts, for some units of a layer.

    Attributes:
        sets: those that occur, in order.
        pixels: int64 [sets], pixels of all images.
        inside: int64 [1 + shuffles, units, sets], those inside each unit's mask, with the images' own labels and with
            those of each shuffle.
    """

    sets: Sets
    pixels: npt.NDArray[np.int64]
    inside: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, labellings: int, units: int) -> SetCounts:
        """Return the counts of no images."""
        return cls(np.zeros((0, 0), np.uint8), np.zeros(0, np.int64), np.zeros((labellings, units, 0), np.int64))

    @classmethod
    def joined(cls, parts: Sequence[SetCounts]) -> SetCounts:
        """Add the counts of different images; in any order with the same result."""
        layers = max(part.sets.shape[1] for part in parts)  # images may differ in it; zeros stand first
        padded = [np.pad(part.sets, ((0, 0), (layers - part.sets.shape[1], 0))) for part in parts]
        sets, place = np.unique(np.concatenate(padded), axis=0, return_inverse=True)
        pixels = np.zeros(len(sets), np.int64)
        inside = np.zeros((*parts[0].inside.shape[:2], len(sets)), np.int64)
        start = 0
        for part in parts:
            own = place.reshape(-1)[start : start + len(part.sets)]
            pixels[own] += part.pixels  # no set occurs twice in a part
            inside[:, :, own] += part.inside
            start += len(part.sets)
        return cls(sets, pixels, inside)

    @classmethod
    def of_image(
        cls,
        activations: npt.NDArray[np.float32],
        thresholds: npt.NDArray[np.float64],
        labels: Sequence[LabelSets],
        grid: Grid,
    ) -> SetCounts:
        """Count one image.

        Args:
            activations: float32 [units, h, w].
            thresholds: float64 [units].
            labels: the image's own, then for each shuffle another image's.
            grid: from (h, w) to the labels' size.
        """
        units = len(activations)
        counts = [np.zeros((units, len(each.sets)), np.int64) for each in labels]
        for _, unit, pixel in mask_pixels(activations[None], round_down(thresholds), grid):
            for count, each in zip(counts, labels, strict=True):
                places = unit * len(each.sets) + each.place[pixel]
                count += np.bincount(places, minlength=count.size).reshape(count.shape)
        parts = []
        for labelling, (each, count) in enumerate(zip(labels, counts, strict=True)):
            inside = np.zeros((len(labels), units, len(each.sets)), np.int64)
            inside[labelling] = count
            parts.append(cls(each.sets, each.pixels if labelling == 0 else 0 * each.pixels, inside))
        return cls.joined(parts)


@dataclass(frozen=True)
class Formula:
    """Concepts joined from left to right, and the IoU of a unit with what they stand for.

    Attributes:
        concepts: their places among all concepts.
        operators: between them: `AND`, `OR`, `AND_NOT`.
        iou: over all images, whether they have labels of the concepts' categories or not.
    """

    concepts: tuple[int, ...]
    operators: tuple[str, ...]
    iou: float

    def words(self, name: Callable[[int], str]) -> str:
        """Return "(car or bus) and not road"."""
        said = name(self.concepts[0])
        for place, (operator, concept) in enumerate(zip(self.operators, self.concepts[1:], strict=True)):
            said = f"{f'({said})' if place else said} {operator} {name(concept)}"
        return said


@dataclass(frozen=True, eq=False)
class _Candidate:
    formula: Formula
    inside: float
    pixels: float
    where: npt.NDArray[np.bool_]


class Search:
    """The search for formulas over the sets of a data set's labels.

    A beam: of the formulas of each length the best few are joined with every concept by every operator, and the best
    few of these and of the shorter ones are kept. What is never tried are formulas whose first part is not among them.
    """

    def __init__(self, counts: SetCounts, counted: npt.NDArray[np.bool_]) -> None:
        """Prepare for formulas of the concepts that count, bool [concepts]."""
        self._counts = counts
        self._counted = counted
        self._pixels = counts.pixels.astype(np.float64)

    def best(self, labelling: int, unit: int, length: int, width: int = BEAM) -> tuple[Formula, Formula] | None:
        """Return the best concept and the best formula of up to `length` concepts; None where no concept is touched.

        Of formulas that are equally good the shorter one is best.
        """
        inside = self._counts.inside[labelling, unit].astype(np.float64)
        everywhere = np.ones(len(inside), bool)
        alone = self._sums(inside, everywhere)
        nothing = _Candidate(Formula((), (), 0.0), 0.0, 0.0, ~everywhere)
        beam = self._kept(self._joined(nothing, OR, *alone, inside.sum(), width), width)
        if not beam:
            return None
        single = beam[0].formula
        for _ in range(length - 1):
            found = list(beam)
            for each in beam:
                both, carried = self._sums(inside, each.where)
                for operator, part, pixels in (
                    (AND, both, carried),
                    (OR, each.inside + alone[0] - both, each.pixels + alone[1] - carried),
                    (AND_NOT, each.inside - both, each.pixels - carried),
                ):
                    found += self._joined(each, operator, part, pixels, inside.sum(), width)
            beam = self._kept(found, width)
        return single, beam[0].formula

    def iou(self, formula: Formula, labelling: int, unit: int) -> float:
        """Return the IoU of a unit with any formula."""
        where = np.zeros(len(self._counts.sets), bool)
        for operator, concept in zip((OR, *formula.operators), formula.concepts, strict=True):
            where = self._applied(where, operator, concept)
        inside = self._counts.inside[labelling, unit]
        both = int(inside[where].sum())
        return both / max(1, int(inside.sum()) + int(self._counts.pixels[where].sum()) - both)

    def _applied(self, first: npt.NDArray[np.bool_], operator: str, concept: int) -> npt.NDArray[np.bool_]:
        carries = (self._counts.sets == concept + 1).any(axis=1)
        return np.asarray({AND: first & carries, OR: first | carries, AND_NOT: first & ~carries}[operator])

    def _sums(
        self, inside: npt.NDArray[np.float64], where: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return pixels of the mask, and of all images, that carry each concept, of those of some sets."""
        found = np.zeros((2, len(self._counted) + 1))
        for layer in self._counts.sets.T:
            for sums, weights in zip(found, (inside, self._pixels), strict=True):
                sums += np.bincount(layer, weights * where, minlength=len(sums))
        return found[0, 1:], found[1, 1:]

    def _joined(
        self,
        first: _Candidate,
        operator: str,
        inside: npt.NDArray[np.float64],
        pixels: npt.NDArray[np.float64],
        mask: float,
        width: int,
    ) -> list[_Candidate]:
        """Return the best formulas that a formula makes with one more concept; numbers are those of each of them."""
        ious = inside / np.maximum(1.0, mask + pixels - inside)
        ious[~self._counted] = 0
        joined = []
        # Some of them say the same as others: twice as many leave enough.
        for concept in np.argsort(-ious, kind="stable")[: 2 * width].tolist():
            if ious[concept] > 0:
                where = self._applied(first.where, operator, concept)
                operators = (*first.formula.operators, operator) if first.formula.concepts else ()
                formula = Formula((*first.formula.concepts, concept), operators, float(ious[concept]))
                joined.append(_Candidate(formula, float(inside[concept]), float(pixels[concept]), where))
        return joined

    @staticmethod
    def _kept(found: Sequence[_Candidate], width: int) -> list[_Candidate]:
        """Return the best, of those that mean the same pixels the shortest."""
        kept: dict[bytes, _Candidate] = {}
        for each in sorted(found, key=lambda each: (-each.formula.iou, len(each.formula.concepts))):
            if len(kept) < width:
                kept.setdefault(each.where.tobytes(), each)
        return list(kept.values())


@dataclass(frozen=True, slots=True)
class Gain:
    """What a formula adds to a unit's best concept.

    Attributes:
        unit: the unit.
        concept: the concept, in words.
        iou: the IoU with it, over all images.
        formula: the formula, in words; the concept again where none is better.
        formula_iou: the IoU with that.
        by_chance: for each shuffle by how much its best formula's IoU is above its best concept's.
        on_other_half: by how much on one half of the images the IoU with the formula that is found on the other is
            above the IoU with the concept that is; the mean of both halves.
        other_by_chance: the same for each shuffle.
    """

    unit: Unit
    concept: str
    iou: float
    formula: str
    formula_iou: float
    by_chance: tuple[float, ...]
    on_other_half: float
    other_by_chance: tuple[float, ...]

    @property
    def gain(self) -> float:
        """By how much the IoU with the formula is above that with the concept."""
        return self.formula_iou - self.iou

    @property
    def told(self) -> str:
        """The formula with its IoU, and whether to believe it."""
        if self.formula == self.concept:
            return "none fits better"
        return f"{self.formula}: {self.formula_iou:.3f}{'' if self.above_chance else ', not above chance'}"

    @property
    def above_chance(self) -> bool:
        """Whether on the other half it adds more than in any shuffle."""
        return bool(self.other_by_chance) and self.on_other_half > max(0.0, *self.other_by_chance)


def gains(
    units: Sequence[Unit],
    halves: Sequence[SetCounts],
    counted: npt.NDArray[np.bool_],
    length: int,
    name: Callable[[int], str],
) -> list[Gain]:
    """Return what formulas of up to `length` concepts add for each unit whose mask touches a concept.

    `halves` are the counts of either half of the images, `counted`, bool [concepts], the concepts to make formulas of.
    """
    counts = SetCounts.joined(halves)
    search, on_halves = Search(counts, counted), [Search(half, counted) for half in halves]
    results = []
    for place, unit in enumerate(units):
        found = [search.best(labelling, place, length) for labelling in range(len(counts.inside))]
        if found[0] is None:
            continue
        concept, formula = found[0]
        by_chance = tuple(0.0 if pair is None else pair[1].iou - pair[0].iou for pair in found[1:])
        others = [_on_other_half(on_halves, labelling, place, length) for labelling in range(len(counts.inside))]
        words = (concept.words(name), concept.iou, formula.words(name), formula.iou)
        results.append(Gain(unit, *words, by_chance, others[0], tuple(others[1:])))
    return results


def _on_other_half(halves: Sequence[Search], labelling: int, unit: int, length: int) -> float:
    added = 0.0
    for one, other in (halves, halves[::-1]):
        if (found := one.best(labelling, unit, length)) is not None:
            concept, formula = (other.iou(each, labelling, unit) for each in found)
            added += formula - concept
    return added / 2


def gain_findings(found: Sequence[Gain], length: int) -> Iterator[Finding]:
    """Say what formulas add for all units that are shown, beside what they add by chance."""
    if not found:
        return
    added, other = (statistics.median(getattr(gain, name) for gain in found) for name in ("gain", "on_other_half"))
    chance, chance_of_other = ([share for gain in found for share in getattr(gain, name)]
                               for name in ("by_chance", "other_by_chance"))  # fmt: skip
    units = counted_units(len(found), "unit")
    said = f"Formulas of up to {length} concepts add {_number(added)} to the IoU of the {units} that are shown (median)"
    if chance:
        said += (
            f", and {_number(statistics.median(chance))} with the labels of other images. Found on one half of the "
            f"images they add {_number(other)} on the other, by chance {_number(statistics.median(chance_of_other))}; "
            f"to {sum(gain.above_chance for gain in found)} of {units} more than in any shuffle"
        )
    yield Note(f"{said}.", id="formulas")
    columns = (
        Column("unit", "unit"),
        Column("concept", description="The concept that the unit fits best, of all images."),
        Column("IoU", "number", "The IoU with it over all images, whether they have labels of its category or not."),
        Column("formula", description=f"The best formula of up to {length} concepts that a beam search finds."),
        Column("IoU of the formula", "number", "Over all images."),
        Column("gain", "number", "By how much that is above the concept's IoU."),
        Column("by chance", description="The same with the labels of other images: least and most of the shuffles."),
        Column("on the other half", "number", "What a formula that is found on one half of the images adds on the "
               "other to the IoU with the concept found there."),
        Column("by chance there", description="The same with the labels of other images."),
        Column("above chance", description="Whether it adds more on the other half than in any shuffle."),
    )  # fmt: skip
    rows = tuple(
        (gain.unit, gain.concept, gain.iou, gain.formula, gain.formula_iou, gain.gain, _span(gain.by_chance),
         gain.on_other_half, _span(gain.other_by_chance),
         "yes" if gain.above_chance else "no" if gain.other_by_chance else "unknown")
        for gain in sorted(found, key=lambda gain: -gain.formula_iou)
    )  # fmt: skip
    yield Table("formulas", "Formulas of concepts", columns, rows)


def _span(added: Sequence[float]) -> str:
    return f"{_number(min(added))} to {_number(max(added))}" if added else ""


def _number(added: float) -> str:
    return f"{round(added, 3) + 0.0:.3f}".replace("-", "−")  # what is rounded to nothing has no sign
