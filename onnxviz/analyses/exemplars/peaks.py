"""For every unit the images that excite it most and least, found in one stream of images, which may be split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import AnalysisError

Reals = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Peaks:
    """For every unit some images of highest peak: its greatest activation in the image, and where that is.

    Attributes:
        count: most images that are kept.
        values: float32 [units, count or fewer], the highest first.
        images: int64 [units, count or fewer], their numbers; of equal peaks the lowest first.
        places: int64 [units, count or fewer], the first position of the peak, counted row by row.
    """

    count: int
    values: Reals
    images: Integers
    places: Integers

    @classmethod
    def empty(cls, units: int, count: int) -> Peaks:
        """Return the peaks of no images."""
        nothing = np.zeros((units, 0), np.int64)
        return cls(count, np.zeros((units, 0), np.float32), nothing, nothing)

    def join(self, other: Peaks) -> Peaks:
        """Keep the highest of both; in any order the result is that of one pass over all."""
        values = np.concatenate([self.values, other.values], axis=1)
        images = np.concatenate([self.images, other.images], axis=1)
        order = np.lexsort((images, -values), axis=1)[:, : self.count]
        places = np.concatenate([self.places, other.places], axis=1)
        return Peaks(self.count, *(np.take_along_axis(each, order, axis=1) for each in (values, images, places)))

    def with_images(self, maps: Reals, peaks: Reals, images: Sequence[int]) -> Peaks:
        """Keep the highest of these and of other images, whose numbers are higher than those that are kept.

        So an image enters with a higher peak only, and most units of most batches are not touched.

        Args:
            maps: float32 [images, units, positions].
            peaks: their maxima, [images, units].
            images: their numbers, ascending.
        """
        if not self.count:
            return self
        full = self.values.shape[1] == self.count
        floor = self.values[:, -1] if full else np.full(len(self.values), -np.inf, np.float32)
        enters = peaks > floor
        units = np.flatnonzero(enters.any(axis=0))
        if not full:
            units = np.arange(len(self.values))
        if not len(units):
            return self
        rows, columns = np.nonzero(enters[:, units])
        places = np.zeros((len(images), len(units)), np.int64)
        places[rows, columns] = maps[rows, units[columns]].argmax(axis=1)
        new = np.where(enters[:, units], peaks[:, units], -np.inf).T if full else peaks[:, units].T
        own = Peaks(self.count, self.values[units], self.images[units], self.places[units])
        numbers = np.broadcast_to(np.array(images, np.int64), new.shape)
        best = own.join(Peaks(self.count, np.ascontiguousarray(new), numbers, places.T))
        if len(units) == len(self.values):
            return best
        parts = [(self.values, best.values), (self.images, best.images), (self.places, best.places)]
        changed = [np.array(before) for before, _ in parts]
        for whole, (_, part) in zip(changed, parts, strict=True):
            whole[units] = part
        return Peaks(self.count, *changed)


@dataclass(frozen=True, eq=False)
class LayerPeaks:
    """What is kept of one layer's activations.

    Attributes:
        highest: the images that excite each unit most.
        lowest: those that excite it least: the peaks of the negated peaks, whose places mean nothing.
        active: int64 [units], in how many images each is above zero anywhere.
        images: of how many images.
        sample: int64 [images of the sample], their numbers, ascending.
        sampled: float32 [images of the sample, units], their peaks.
        shape: rows and columns of the maps; (1, 1) of single numbers.
    """

    highest: Peaks
    lowest: Peaks
    active: Integers
    images: int
    sample: Integers
    sampled: Reals
    shape: tuple[int, int]

    @classmethod
    def empty(cls, units: int, most: int, least: int) -> LayerPeaks:
        """Return what is kept of no images."""
        return cls(
            Peaks.empty(units, most), Peaks.empty(units, least), np.zeros(units, np.int64), 0,
            np.zeros(0, np.int64), np.zeros((0, units), np.float32), (0, 0),
        )  # fmt: skip

    def with_images(self, maps: Reals, images: Sequence[int], sample: frozenset[int]) -> LayerPeaks:
        """Return what is kept with more images, whose numbers are higher than those before.

        Args:
            maps: float32 [images, units, rows, columns].
            images: their numbers, ascending.
            sample: images whose peaks are all kept.

        Raises:
            AnalysisError: if an activation is not finite, or maps have another size than those before.
        """
        count, units, height, width = maps.shape
        flat = maps.reshape(count, units, height * width)
        peaks = flat.max(axis=2)
        if not np.isfinite(peaks).all():
            unit = int(np.flatnonzero(~np.isfinite(peaks).all(axis=0))[0])
            raise AnalysisError(
                f"unit {unit} has activations that are infinite or not a number",
                remedy="check the model's preprocessing, or leave the layer out",
            )
        chosen = [place for place, image in enumerate(images) if image in sample]
        return LayerPeaks(
            self.highest.with_images(flat, peaks, images),
            self.lowest.with_images(-peaks[:, :, None], -peaks, images),
            self.active + (peaks > 0).sum(axis=0),
            self.images + count,
            np.concatenate([self.sample, np.array([images[place] for place in chosen], np.int64)]),
            np.concatenate([self.sampled, peaks[chosen]]),
            (height, width),
        )

    def join(self, other: LayerPeaks) -> LayerPeaks:
        """Join what is kept of different images; in any order the result is that of one pass over all."""
        sample = np.concatenate([self.sample, other.sample])
        order = np.argsort(sample)
        return LayerPeaks(
            self.highest.join(other.highest),
            self.lowest.join(other.lowest),
            self.active + other.active,
            self.images + other.images,
            sample[order],
            np.concatenate([self.sampled, other.sampled])[order],
            max(self.shape, other.shape),
        )

    def nearest_to_quantile(self, share: float) -> tuple[Reals, Integers]:
        """Return for each unit the peak of a sampled image at a quantile, and which image that is.

        It is the image whose peak has the rank nearest to the quantile (of n the (n - 1) * share-th from below); of
        equal peaks that of the lowest number comes first.
        """
        order = np.argsort(self.sampled, axis=0, kind="stable")
        chosen = order[round((len(order) - 1) * share)]
        return self.sampled[chosen, np.arange(self.sampled.shape[1])], self.sample[chosen]

    @cached_property
    def as_high(self) -> Integers:
        """In how many sampled images each unit reaches its highest peak of all, int64 [units]."""
        return np.asarray((self.sampled == self.highest.values[:, 0]).sum(axis=0))

    @property
    def never_active(self) -> npt.NDArray[np.bool_]:
        """Which units are above zero in no image."""
        return np.asarray(self.active == 0)
