"""What is found of units and in shuffles, as data, and the columns of the table of units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxviz.analyses.dissection.formulas import Gain
from onnxviz.core.findings import Cell, Column
from onnxviz.core.values import Unit

Side: TypeAlias = Literal["upper", "lower"]
Concept: TypeAlias = tuple[str, str]
"""A concept's category and name."""


NO_CONCEPT = "none"
DETECTS, BY_CHANCE, UNKNOWN, DETECTS_NOT = "yes", "by chance", "unknown", "no"
CONFIRMED, UNCONFIRMED = "confirmed", "not confirmed on the other half"
UNIT_COLUMNS = (
    Column("unit", "unit"),
    Column("concept", description="The concept whose pixels the unit's mask fits best."),
    Column("category"),
    Column("IoU", "number", "Intersection over union of mask and concept, over the whole data set."),
    Column("interval", description="Between what the IoU of other such images lies with a confidence of 95 %."),
    Column("detector", description="yes: the IoU reaches the limit and is above the chance level. by chance: it "
           "reaches the limit, but not more than with the labels of other images."),
    Column("halves", description="confirmed: the unit detects that concept on either half of the images. Else what is "
           "found on one half of them is not confirmed on the other."),
    Column("chance level", "number", "The highest IoU that the unit has with any concept when each image has the "
           "labels of another one."),
    Column("AUC", "number", "How well the unit's greatest activation in an image tells whether the concept is in it: "
           "the probability that it is higher in an image with the concept than in one without. 0.5 says nothing."),
    Column("AUC interval", description="Between what the AUC on other such images lies with a confidence of 95 %."),
    Column("precision", "percent", "Share of the unit's mask that lies on the concept."),
    Column("more of it on", description="The concept of the same category that covers most of the mask, where that "
           "is another one."),
    Column("share there", "percent", "Share of the unit's mask that lies on that other concept."),
    Column("threshold", "number", "The unit's mask is where its activation is above."),
    Column("largest", "number", "The unit's greatest activation."),
    Column("remark", description="dead: the same activation everywhere. saturated: nothing lies beyond the threshold."),
)  # fmt: skip
_LOWER_COLUMNS = {
    "AUC": Column("AUC", "number", "How well the unit's least activation in an image tells whether the concept is in "
                  "it: the probability that it is lower in an image with the concept than in one without. 0.5 says "
                  "nothing."),
    "threshold": Column("threshold", "number", "The unit's mask is where its activation is below."),
    "largest": Column("least", "number", "The unit's least activation."),
}  # fmt: skip


def unit_columns(side: Side) -> tuple[Column, ...]:
    """Return the columns of the units table, whose masks are made of the greatest or the least activations."""
    return tuple(_LOWER_COLUMNS.get(column.name, column) if side == "lower" else column for column in UNIT_COLUMNS)


@dataclass(frozen=True, slots=True)
class UnitResult:
    """A line of the units table, whose columns say what is in it: what one unit fits best.

    Without a concept its name and category are "", and so is the rival where none covers more of the mask; `verdict` is
    `DETECTS`, `BY_CHANCE`, `DETECTS_NOT`, or `UNKNOWN` where the chance level is. Intervals are empty where they are
    unknown, and `confirmed` is None of what is no detector.
    """

    unit: Unit
    concept: str
    category: str
    iou: float
    interval: tuple[float, float] | tuple[()]
    verdict: str
    confirmed: bool | None
    chance: float | None
    auc: float | None
    auc_interval: tuple[float, float] | tuple[()]
    precision: float | None
    rival: str
    rival_share: float | None
    threshold: float
    largest: float
    remark: str = ""

    @property
    def named(self) -> Concept:
        """The concept's category and name."""
        return self.category, self.concept

    @property
    def detector(self) -> bool:
        """Whether the IoU reaches the limit and is above chance."""
        return self.verdict == DETECTS

    @property
    def reaches(self) -> bool:
        """Whether the IoU reaches the limit: a detector by the paper's rule."""
        return self.verdict != DETECTS_NOT

    @property
    def halves(self) -> str:
        """Whether either half of the images confirms a detector, in words; "" of what is none."""
        return "" if self.confirmed is None else CONFIRMED if self.confirmed else UNCONFIRMED

    def row(self) -> tuple[Cell, ...]:
        """Return the cells under `UNIT_COLUMNS`."""
        name, interval = self.concept or NO_CONCEPT, interval_in_words(self.interval)
        fit = (self.iou, interval, self.verdict, self.halves, self.chance)
        others = (self.auc, interval_in_words(self.auc_interval), self.precision, self.rival, self.rival_share)
        return (self.unit, name, self.category, *fit, *others, self.threshold, self.largest, self.remark)


@dataclass(frozen=True, slots=True)
class ChanceRow:
    """What a layer's units are named in one shuffle.

    Attributes:
        layer: the layer's name.
        shuffle: the shuffle, from 0.
        concept: the concept.
        category: its category.
        reaching: units that fit it best and reach the limit.
        exceeding: those of them that are above what they reach in the other shuffles.
        confirmed: those of these that are so on either half of the images.
        best: the highest IoU of a unit that fits it best.
    """

    layer: str
    shuffle: int
    concept: str
    category: str
    reaching: int
    exceeding: int
    confirmed: int
    best: float


@dataclass(frozen=True)
class GroupResult:
    """What was found of a group of layers, on all images.

    Attributes:
        units: what each unit fits best, layer by layer.
        by_chance: what they are named in the shuffles.
        images: for each concept in how many images it is.
        formulas: of the units that are shown, where they are asked for.
    """

    units: tuple[UnitResult, ...]
    by_chance: tuple[ChanceRow, ...]
    images: tuple[int, ...]
    formulas: tuple[Gain, ...] = ()


def interval_in_words(interval: Sequence[float]) -> str:
    """Return "0.041 to 0.120", or nothing."""
    return " to ".join(f"{end:.3f}" for end in interval)
