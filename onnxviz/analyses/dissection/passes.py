"""Two passes over the same images: activations are kept between them if they fit, and computed again if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.core import limits
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.memory import available_memory
from onnxviz.model.batches import choose_batch, run_batches, say

if TYPE_CHECKING:
    from onnxviz.model.model import Model

Activations = dict[str, npt.NDArray[np.float32]]
"""By layer name, float32 [images, units, height, width]."""

BATCH = 8
"""Most images in one forward pass: more gain nothing on a CPU."""
_KEPT_PART = 0.5
"""Part of the free memory that kept activations may take."""


class Passes:
    """The activations of some layers on some images, as often as wanted.

    `measure` gives the activations of images by their numbers. They are kept for another round (`keep`), if they fit.
    `model` says how often to halve batches, and is told of what had to be smaller; None if nobody is to be told.
    """

    def __init__(
        self,
        measure: Callable[[Sequence[int]], Activations],
        images: Sequence[int],
        *,
        keep: bool = True,
        model: Model | None = None,
    ) -> None:
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
        self._keep = keep and per_image * len(self._images) <= limits.KEPT_ACTIVATION_BYTES
        self._kept: list[Activations] = []
        self._batch = max(1, min(BATCH, limits.BATCH_ACTIVATION_BYTES // per_image))
        self._model = model
        named = ", ".join(shorten(name, 40) for name in list(self.shapes)[:2])
        self._what = f"The activations of {named}" + (f" and {len(first) - 2} more" if len(first) > 2 else "")
        if model is not None:
            # While a batch is copied there are two of it.
            self._batch = choose_batch(model, self._batch, lambda: 2 * per_image, self._what, free=available_memory)
        if self._keep and per_image * len(self._images) > _KEPT_PART * available_memory():
            self._stop_keeping()

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], Activations]]:
        """Yield the images in order, a batch at a time, with their activations; the same in every round."""
        known = len(self._kept)
        for number in range(known):
            yield self._images[number * self._batch : (number + 1) * self._batch], self._kept[number]
        for start, stop, values in run_batches(
            self._model,
            len(self._images),
            self._batch,
            lambda start, stop: self._measure(self._images[start:stop]),
            self._what,
            start=min(known * self._batch, len(self._images)),
            release=self._make_smaller,
        ):
            if self._keep:
                self._kept.append(values)
            yield self._images[start:stop], values

    def _make_smaller(self) -> None:
        """Do with less memory from now on: what is kept was kept in batches of one size."""
        if self._keep:
            self._stop_keeping()
        self._batch = max(1, self._batch // 2)

    def _stop_keeping(self) -> None:
        self._keep = False
        self._kept.clear()
        if self._model is not None:
            say(self._model, f"{self._what} were computed again for each round, because memory did not suffice to keep "
                "them.")  # fmt: skip

    def of(self, image: int) -> Activations:
        """Return the activations of one image, float32 [1, units, height, width]."""
        place = self._images.index(image)
        if place // self._batch < len(self._kept):
            row = place % self._batch
            return {name: values[row : row + 1] for name, values in self._kept[place // self._batch].items()}
        return self._measure((image,))
