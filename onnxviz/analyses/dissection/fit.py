"""How well units fit concepts: on all images, in parts and halves of them, and by chance.

The images are cut into parts that follow each other in the order of the shuffles, as drawn or as in a film. A part of a
film is at least as long as its images are alike, so that parts are as good as independent. What the parts differ by
says how far an IoU of other such images may lie; and of two halves each is asked whether it gives a unit the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.chance import Chance
from onnxviz.analyses.dissection.counting import CountType, Overlap, ShuffledOverlap, iou
from onnxviz.analyses.dissection.presence import PeakSample

MOST_PARTS = 20
FEWEST_PARTS = 4
"""Of fewer parts an interval says nothing."""
_STUDENT = {3: 3.1824, 5: 2.5706, 7: 2.3646, 9: 2.2622, 11: 2.2010, 13: 2.1604, 15: 2.1314, 17: 2.1098, 19: 2.0930}
"""The 97.5 % quantiles of Student's distribution, by degrees of freedom: one less than there are parts."""


def part_count(images: int, distance: int) -> int:
    """Return into how many parts images are cut, an even number; those `distance` apart are no longer alike."""
    return max(2, min(MOST_PARTS, images // distance) // 2 * 2)


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """Pixel counts of one layer's units.

    Attributes:
        parts: of each part of the images, with their own labels.
        halves: of each half of them, with the labels of other images.
    """

    parts: tuple[Overlap, ...]
    halves: tuple[ShuffledOverlap, ...]

    @classmethod
    def empty(
        cls, parts: int, shuffles: int, units: int, categories: npt.NDArray[np.intp], kind: CountType
    ) -> LayerCounts:
        """Return zero counts."""
        return cls(
            tuple(Overlap.empty(units, categories, kind) for _ in range(parts)),
            tuple(ShuffledOverlap.empty(shuffles, units, categories, kind) for _ in range(2)),
        )

    def at(self, place: int, images: int) -> tuple[Overlap, ShuffledOverlap]:
        """Return the counts that the image at a place of the order belongs to."""
        return self.parts[place * len(self.parts) // images], self.halves[place * 2 // images]

    def __add__(self, other: LayerCounts) -> LayerCounts:
        """Add the counts of other images."""
        return LayerCounts(
            tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)),
            tuple(a + b for a, b in zip(self.halves, other.halves, strict=True)),
        )


@dataclass(frozen=True, eq=False)
class Fit:
    """How well a layer's units fit the concepts that count.

    Attributes:
        overlap: the counts of all images.
        chance: what units fit best by chance.
        halves: counts and chance of either half of the images.
        parts: counts of each part of them.
        counted: bool [concepts], those that are in enough images for a unit to be named after them.
        ious: float64 [units, concepts], 0 where a concept does not count.
        choices: int [units], the concept of highest IoU; of equal ones the first.
        aucs: float64 [units], how well a unit's peak tells images with its concept from others; NaN where unknown.
        auc_intervals: float64 [units, 2], between what they lie.
    """

    overlap: Overlap
    chance: Chance
    halves: tuple[tuple[Overlap, Chance], ...]
    parts: tuple[Overlap, ...]
    counted: npt.NDArray[np.bool_]
    ious: npt.NDArray[np.float64]
    choices: npt.NDArray[np.intp]
    aucs: npt.NDArray[np.float64]
    auc_intervals: npt.NDArray[np.float64]

    @classmethod
    def of(cls, counts: LayerCounts, sample: PeakSample, least_images: int, likeness: float = 1.0) -> Fit:
        """Compare units with the concepts that are in at least so many images.

        `likeness` is the number of images that stand for one independent one.
        """
        overlap = Overlap.whole(counts.parts)
        counted = overlap.images >= least_images
        middle = len(counts.parts) // 2
        halves = tuple(
            (Overlap.whole(parts), Chance.of(shuffled, overlap.categories, counted))
            for parts, shuffled in zip((counts.parts[:middle], counts.parts[middle:]), counts.halves, strict=True)
        )
        chance = Chance.of(counts.halves[0] + counts.halves[1], overlap.categories, counted)
        ious = np.where(counted, overlap.iou(), 0.0)
        choices = ious.argmax(axis=1)
        return cls(overlap, chance, halves, counts.parts, counted, ious, choices, *sample.aucs(choices, likeness))

    def best_units(self, most: int) -> list[int]:
        """Return so many units of highest IoU at most, of those that touch a concept, the highest first."""
        best = self.ious.max(axis=1, initial=0)
        return [unit for unit in np.argsort(-best, kind="stable").tolist() if best[unit] > 0][:most]

    def confirmed(self, limit: float) -> npt.NDArray[np.bool_]:
        """Return which units would be detectors of their concept, bool [units], on either half of the images.

        On each half it has to be the concept of highest IoU, and that has to reach the limit and to be above what any
        concept gives on that half in the shuffles: what is found on one half is confirmed by the other.
        """
        choices = self.choices
        found = np.ones(len(choices), bool)
        for overlap, chance in self.halves:
            ious = np.where(self.counted, overlap.iou(), 0.0)
            own = np.take_along_axis(ious, choices[:, None], axis=1)[:, 0]
            found &= (ious.argmax(axis=1) == choices) & (own >= limit) & (own > chance.level)
        return found

    def confirmed_by_chance(self, limit: float) -> npt.NDArray[np.bool_]:
        """Return the same for each shuffle, bool [shuffles, units], with the other shuffles as its chance level."""
        found = np.ones(self.chance.iou.shape, bool)
        for _, chance in self.halves:
            found &= (chance.concept == self.chance.concept) & (chance.iou >= limit) & chance.exceeding()
        return found

    def intervals(self) -> npt.NDArray[np.float64]:
        """Return between what each unit's IoU with its concept lies, float64 [units, 2]; NaN where that is unknown."""
        choices = self.choices
        units, categories = np.arange(len(choices)), self.overlap.categories[choices]
        both = np.stack([part.both[units, choices] for part in self.parts])
        either = np.stack([part.unit[units, categories] + part.concept[choices] for part in self.parts]) - both
        return ratio_intervals(both, either)


def ratio_intervals(part: npt.NDArray[np.integer], whole: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return the intervals of ratios of counts, float64 [ratios, 2], of a confidence of 95 %.

    The jackknife that leaves out one part of the images after the other (Kott 2001, J. Off. Stat. 17, 521), of the
    logarithm of the odds, which are as good as normally distributed where a ratio near 0 is not, with Student's
    quantile. Half a pixel is added on either side, so that 0 and 1 have odds.

    Args:
        part: integers [parts, ratios], what is counted of the whole.
        whole: the same shape.

    Returns:
        Lower and upper ends; NaN for fewer than `FEWEST_PARTS` parts.
    """
    parts = len(part)
    if parts < FEWEST_PARTS:
        return np.full((part.shape[1], 2), np.nan)
    inside, outside = np.asarray(part, np.int64), np.asarray(whole - part, np.int64)
    left_out = _log_odds(inside.sum(axis=0) - inside, outside.sum(axis=0) - outside)
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    reach = _STUDENT[parts - 1] * np.sqrt((parts - 1) / parts * spread)
    centre = _log_odds(inside.sum(axis=0), outside.sum(axis=0))
    low, high = (1 / (1 + np.exp(-end)) for end in (centre - reach, centre + reach))
    own = iou(inside.sum(axis=0), whole.sum(axis=0))  # half a pixel may have moved the ends past it
    return np.stack([np.minimum(low, own), np.maximum(high, own)], axis=1)


def _log_odds(inside: npt.NDArray[np.int64], outside: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.log(inside + 0.5) - np.log(outside + 0.5))
