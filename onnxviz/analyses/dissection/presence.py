"""Units as detectors of a concept's presence in an image, without regard to where it is.

After INVERT (Bykov et al. 2023, arXiv:2311.13594): the area under the ROC curve (AUC) is the probability that a unit is
more active in an image with the concept than in one without. An image's activation is the unit's greatest of all
positions: a concept need not be large, and a mean over positions says more of what surrounds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from onnxviz.core.shares import LEVEL

Floats = npt.NDArray[np.float64]

MOST_IMAGES = 4_000
"""Images whose peaks are kept: of half of them with a concept an AUC is known to 0.02."""
FEWEST_IMAGES = 5
"""With fewer images that have a concept, or fewer that lack it, nothing is said."""
_HALVINGS = 50


@dataclass(frozen=True, eq=False)
class PeakSample:
    """What is kept of some of the images, of one layer.

    Attributes:
        images: int64 [images], their numbers, ascending.
        peaks: float32 [images, units], each unit's greatest activation.
        has: bool [images, concepts], whether the image has a pixel of the concept.
    """

    images: npt.NDArray[np.int64]
    peaks: npt.NDArray[np.float32]
    has: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, images: Sequence[int], maps: npt.NDArray[np.float32], has: npt.NDArray[np.bool_]) -> PeakSample:
        """Take the peaks of maps, float32 [images, units, rows, columns]."""
        return cls(np.array(images, np.int64), maps.max(axis=(2, 3)), has)

    @classmethod
    def joined(cls, parts: Sequence[PeakSample]) -> PeakSample:
        """Join what is kept of different images; in any order with the same result."""
        images = np.concatenate([part.images for part in parts])
        order = np.argsort(images)
        peaks, has = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("peaks", "has"))
        # 0.0 and -0.0 are equal, but stored apart.
        return cls(images[order], peaks + np.float32(0), has)

    def aucs(self, choices: npt.NDArray[np.intp], likeness: float = 1.0) -> tuple[Floats, Floats]:
        """Return the AUC of each unit for a concept, float64 [units], and its intervals, [units, 2].

        Args:
            choices: each unit's concept.
            likeness: so many images stand for one independent one.

        Returns:
            NaN where fewer than `FEWEST_IMAGES` images have the concept or lack it.
        """
        has = self.has[:, choices]
        positive = has.sum(axis=0)
        negative = len(has) - positive
        known = np.minimum(positive, negative) >= FEWEST_IMAGES
        values = np.array([
            area_under_curve(self.peaks[with_it, unit], self.peaks[~with_it, unit]) if known[unit] else np.nan
            for unit, with_it in enumerate(has.T)
        ])  # fmt: skip
        independent = (np.maximum(1.0, count / likeness) for count in (positive, negative))
        return values, auc_intervals(values, *independent)


def area_under_curve(positive: npt.NDArray[np.float32], negative: npt.NDArray[np.float32]) -> float:
    """Return the share of pairs in which the positive number is greater, where equal ones count half."""
    ordered = np.sort(negative)
    pairs = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(pairs.sum()) / (2 * len(positive) * len(negative))


def auc_intervals(values: Floats, positive: Floats, negative: Floats) -> Floats:
    """Return between what areas under the curve lie with a confidence of 95 %, float64 [areas, 2].

    Newcombe 2006, Stat. Med. 25, 559, method 5: all areas θ that are within z standard errors of the one that was
    found, with the variance that Hanley and McNeil give θ; it says something also where the area is 0 or 1.

    Args:
        values: the areas that were found.
        positive: of how many positive examples each.
        negative: of how many negative ones.
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    more = (positive + negative) / 2 - 1

    def end(limit: float) -> Floats:
        near, far = values.copy(), np.full(len(values), limit)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            shape = 1 + more * ((1 - middle) / (2 - middle) + middle / (1 + middle))
            variance = middle * (1 - middle) * shape / (positive * negative)
            inside = np.abs(middle - values) <= z * np.sqrt(variance)
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        return near

    return np.stack([end(0.0), end(1.0)], axis=1)
