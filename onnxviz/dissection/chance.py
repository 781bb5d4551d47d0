"""How well units fit the labels of other images: what a detector has to exceed.

The images are put in an order drawn from the run's seed; in shuffle j each image has the labels of the one that stands
j places behind it in that order, the last ones those of the first. So each shuffle uses every image's labels once, none
has its own, and a shard of the order needs only the labels of a few more images than it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.dissection.counting import Overlap, ShuffledOverlap


def shuffled_order(images: Sequence[int], seed: int) -> tuple[int, ...]:
    """Return the images in the order in which their labels are passed on; the same for the same seed."""
    order = np.random.default_rng([len(images), seed]).permutation(len(images))
    return tuple(images[place] for place in order)


def label_owners(order: Sequence[int], place: int, shuffles: int) -> list[int]:
    """Return the image at a place of the order, then for each shuffle the one whose labels it is given."""
    return [order[(place + step) % len(order)] for step in range(shuffles + 1)]


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
    def of(cls, shuffled: ShuffledOverlap, overlap: Overlap, counted: npt.NDArray[np.bool_]) -> Chance:
        """Find the best concepts.

        Args:
            shuffled: the counts with other images' labels, of all images.
            overlap: the counts with the images' own labels.
            counted: which concepts count.
        """
        shuffles, units = shuffled.both.shape[:2]
        iou, concept = np.zeros((shuffles, units)), np.zeros((shuffles, units), np.intp)
        for shuffle, ious in enumerate(shuffled.ious(overlap)):
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
