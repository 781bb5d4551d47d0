"""How well units fit the labels of other images: what a detector has to exceed.

The images are put in an order; in each shuffle an image has the labels of the one that stands some places behind it in
that order, the last ones those of the first. So each shuffle uses every image's labels once and none has its own. The
order is drawn from the run's seed and shuffle j goes j places, so that a shard of the order needs only the labels of
a few more images than it has.

Where neighbours are alike, as frames of a film are, such shuffles show too little chance: a unit that stays the same
for a while fits labels that do so for as long well or badly as a whole, which single images that are exchanged average
away. There the images stay in their order, and the steps are so long that likeness has ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.counting import ShuffledOverlap
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import fit_labels

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

_CELLS = (16, 16)
"""Rows and columns on which labels are compared."""
_LOOKED_AT = 32
"""Images that are compared with those behind them."""
_FEWEST = 8
"""Of fewer images nothing is said."""
_ERRORS = 4.0
"""Standard errors by which neighbours must agree more than others to be called alike."""
_LEAST = 0.1
"""Part of what others disagree on, on which neighbours must agree to be called alike."""
_LEFT = 0.25
"""Part of the neighbours' likeness that counts as none."""
_GROWTH = 1.4
_STRETCH = Preprocessing(fit="stretch")


@dataclass(frozen=True)
class Likeness:
    """How alike images are that follow each other.

    Attributes:
        near: share of the labelled places on which neighbours agree, on average.
        far: the same for images that are far apart.
        distance: from so many images apart on, hardly anything is left of the difference.
    """

    near: float
    far: float
    distance: int


def likeness(data: ConceptSet, images: Sequence[int]) -> Likeness | None:
    """Compare the labels of some images with those of the images behind them, and of some far apart.

    Returns:
        How alike neighbours are; None where they are no more so than others.
    """
    count = len(images)
    if count < _FEWEST:
        return None

    @cache
    def coarse(place: int) -> npt.NDArray[Any]:
        return fit_labels(data.read_labels(images[place]), _STRETCH, _CELLS)

    some = [place * count // min(_LOOKED_AT, count) for place in range(min(_LOOKED_AT, count))]

    def apart(distance: int) -> npt.NDArray[np.float64]:
        pairs = ((place, place + distance) for place in some if place + distance < count)
        return _agreements((coarse(first), coarse(second)) for first, second in pairs)

    quarter = count // 4
    pairs = ((first, second) for first in some for second in some if quarter <= second - first <= count - quarter)
    near, far = apart(1), _agreements((coarse(first), coarse(second)) for first, second in pairs)
    if len(near) < 2 or not len(far):
        return None
    more = near.mean() - far.mean()
    if more <= max(_ERRORS * near.std() / math.sqrt(len(near)), _LEAST * (1 - far.mean())):
        return None
    for distance in _distances(quarter):
        found = apart(distance)
        if len(found) and found.mean() - far.mean() < _LEFT * more:
            break
    return Likeness(float(near.mean()), float(far.mean()), distance)


def _distances(most: int) -> Iterator[int]:
    distance = 2
    while distance < most:
        yield distance
        distance = max(distance + 1, round(distance * _GROWTH))
    yield max(1, most)


def _agreements(pairs: Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> npt.NDArray[np.float64]:
    """Return for each pair of label arrays the share of places labelled in either that have the same label in both."""
    found = []
    for first, second in pairs:
        layers = min(len(first), len(second))
        one, other = first[:layers], second[:layers]
        labelled = (one > 0) | (other > 0)
        if labelled.any():
            found.append((one == other)[labelled].mean())
    return np.array(found)


@dataclass(frozen=True)
class Exchange:
    """Which image's labels each image is given in the shuffles.

    Attributes:
        order: the images in the order in which their labels are passed on.
        steps: for each shuffle, how many places behind an image the one stands whose labels it is given; ascending.
        alike: how alike neighbours are, where the order is theirs; None where it is drawn.
    """

    order: tuple[int, ...]
    steps: tuple[int, ...]
    alike: Likeness | None = None

    @classmethod
    def of(cls, images: Sequence[int], shuffles: int, seed: int, alike: Likeness | None = None) -> Exchange:
        """Choose order and steps, of fewer shuffles than images; drawn by the seed where neighbours are not alike."""
        count = len(images)
        if alike is None:
            order = np.random.default_rng([count, seed]).permutation(count)
            return cls(tuple(images[place] for place in order), tuple(range(1, shuffles + 1)))
        return cls(tuple(images), _far_steps(count, shuffles, alike.distance), alike)

    def owners(self, place: int) -> list[int]:
        """Return the image at a place of the order, then for each shuffle the one whose labels it is given."""
        return [self.order[(place + step) % len(self.order)] for step in (0, *self.steps)]

    @property
    def reach(self) -> int:
        """How many images' labels are needed at once, if each is to be read once."""
        return max(self.steps, default=0) + 1


def _far_steps(count: int, shuffles: int, distance: int) -> tuple[int, ...]:
    """Return different steps, as far apart as likeness reaches if there are images enough, and as far from the ends."""
    if (shuffles + 1) * distance <= count:
        return tuple(distance * number for number in range(1, shuffles + 1))
    end = max(1, min(distance, count // 4, (count - shuffles + 1) // 2))
    if shuffles < 2:
        return (count // 2,) * shuffles
    return tuple(end + number * (count - 2 * end) // (shuffles - 1) for number in range(shuffles))


@dataclass(frozen=True, eq=False)
class Chance:
    """What the units of a layer fit best with the labels of other images.

    Attributes:
        iou: float64 [shuffles, units], the highest IoU over the concepts that count.
        concept: int [shuffles, units], the concept that has it.
    """

    iou: npt.NDArray[np.float64]
    concept: npt.NDArray[np.intp]

    @classmethod
    def of(cls, shuffled: ShuffledOverlap, categories: npt.NDArray[np.intp], counted: npt.NDArray[np.bool_]) -> Chance:
        """Find the best concepts of those that count, whose categories are given."""
        shuffles, units = shuffled.both.shape[:2]
        iou, concept = np.zeros((shuffles, units)), np.zeros((shuffles, units), np.intp)
        for shuffle, ious in enumerate(shuffled.ious(categories)):
            ious[:, ~counted] = 0
            concept[shuffle] = ious.argmax(axis=1)
            iou[shuffle] = np.take_along_axis(ious, concept[shuffle][:, None], axis=1)[:, 0]
        return cls(iou, concept)

    @property
    def level(self) -> npt.NDArray[np.float64]:
        """float64 [units]: the highest IoU in any shuffle, infinite where there is none.

        A unit that has nothing to do with the labels exceeds it with a probability of about 1 / (shuffles + 1), as in
        a permutation test (Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9, 39). Each IoU is the highest of
        all concepts, so choosing the best concept is allowed for.
        """
        return self.iou.max(axis=0, initial=0) if len(self.iou) else np.full(self.iou.shape[1], np.inf)

    def exceeding(self) -> npt.NDArray[np.bool_]:
        """Return bool [shuffles, units]: where a shuffle would be above chance, if the others were its chance level."""
        if len(self.iou) < 2:
            return np.zeros(self.iou.shape, bool)
        best = (self.iou == self.iou.max(axis=0)) & (self.iou > 0)
        return np.asarray(best & (best.sum(axis=0) == 1))
