"""Two passes over the same images: activations are kept between them if they fit, and computed again if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxviz import limits
from onnxviz.errors import AnalysisError

Activations = dict[str, npt.NDArray[np.float32]]
"""By layer name, float32 [images, units, height, width]."""

BATCH = 8
"""Most images in one forward pass: more gain nothing on a CPU."""


class Passes:
    """The activations of some layers on some images, as often as wanted.

    Args:
        measure: gives the activations of some images, numbered as the caller likes.
        images: the images' numbers.
    """

    def __init__(self, measure: Callable[[Sequence[int]], Activations], images: Sequence[int]) -> None:
        self._measure = measure
        self._images = tuple(images)
        first = measure(self._images[:1])
        self.shapes = {name: values.shape[1:] for name, values in first.items()}
        for name, shape in self.shapes.items():
            if len(shape) != 3:
                raise AnalysisError(
                    f"the activations of {name!r} are no maps (shape {shape})",
                    remedy="choose layers whose units have a height and a width",
                )
        per_image = max(1, sum(values.nbytes for values in first.values()))
        self._keep = per_image * len(self._images) <= limits.KEPT_ACTIVATION_BYTES
        self._batch = max(1, min(BATCH, limits.BATCH_ACTIVATION_BYTES // per_image))
        self._kept: list[Activations] = []

    @property
    def rounds(self) -> int:
        """Forward passes that two rounds over the images take: 1 if activations are kept, else 2."""
        return 1 if self._keep else 2

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], Activations]]:
        """Yield the images in order, a batch at a time, with their activations; the same in every round."""
        for number, start in enumerate(range(0, len(self._images), self._batch)):
            batch = self._images[start : start + self._batch]
            if number < len(self._kept):
                yield batch, self._kept[number]
                continue
            values = self._measure(batch)
            if self._keep:
                self._kept.append(values)
            yield batch, values

    def of(self, image: int) -> Activations:
        """Return the activations of one image, float32 [1, units, height, width]."""
        place = self._images.index(image)
        if place // self._batch < len(self._kept):
            row = place % self._batch
            return {name: values[row : row + 1] for name, values in self._kept[place // self._batch].items()}
        return self._measure((image,))
