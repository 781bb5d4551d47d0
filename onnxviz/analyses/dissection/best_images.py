"""The images that excite each unit most, from a stream of images or from shards of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class BestImages:
    """Keeps for every unit the images of highest peak: its greatest activation in the image.

    Args:
        units: number of units.
        count: number of images to keep for each.
    """

    def __init__(self, units: int, count: int) -> None:
        self._count = count
        self._peaks = np.empty((units, 0), np.float32)
        self._images = np.empty((units, 0), np.int64)

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """The images' numbers, [units, count or fewer]: highest peak first, of equal ones the lowest number."""
        return self._images

    def add(self, activations: npt.NDArray[np.float32], images: Sequence[int]) -> None:
        """Take the activations of some images.

        Args:
            activations: float32 [images, units, height, width].
            images: the images' numbers.
        """
        peaks = activations.max(axis=(2, 3)).T
        self._take(peaks, np.broadcast_to(np.array(images, np.int64), peaks.shape))

    def merge(self, other: BestImages) -> None:
        """Take what another has kept of other images; in any order the result is that of one pass over all.

        Raises:
            ValueError: if it keeps another number of images, or has other units.
        """
        if self._count != other._count or len(self._peaks) != len(other._peaks):
            raise ValueError(
                f"{other._count} images of {len(other._peaks)} units do not go with {self._count} of {len(self._peaks)}"
            )
        self._take(other._peaks, other._images)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what is kept as arrays, for storing it."""
        return {"peaks": self._peaks, "peak_images": self._images}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], count: int) -> BestImages:
        """Undo `arrays`; `count` as it was given.

        Raises:
            ValueError: if the arrays do not fit each other or the count.
        """
        made = cls(len(arrays["peaks"]), count)
        made._peaks, made._images = arrays["peaks"], arrays["peak_images"]
        if made._peaks.shape != made._images.shape or made._peaks.ndim != 2 or made._peaks.shape[1] > count:
            raise ValueError(f"{made._images.shape} images for {made._peaks.shape} peaks, of at most {count}")
        return made

    def _take(self, peaks: npt.NDArray[np.float32], images: npt.NDArray[np.int64]) -> None:
        peaks = np.concatenate([self._peaks, peaks], axis=1)
        images = np.concatenate([self._images, images], axis=1)
        order = np.lexsort((images, -peaks), axis=1)[:, : self._count]
        self._peaks = np.take_along_axis(peaks, order, axis=1)
        self._images = np.take_along_axis(images, order, axis=1)
