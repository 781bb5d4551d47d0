"""Images of a data set with their activations, batch by batch, once or as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.base import JobContext, Progress
from onnxviz.core import limits
from onnxviz.core.errors import shorten
from onnxviz.core.memory import available_memory
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import ImageSource
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.model.batches import choose_batch, filled, micro_batch, run_batches, say

if TYPE_CHECKING:
    from onnxviz.model.model import Model

Values = npt.NDArray[np.float32]
Activations = Mapping[str, Values]
"""By layer name, float32 [images, units, *spatial]."""

BATCH = 8
"""Most images in a batch: more gain nothing on a CPU."""
_KEPT_PART = 0.5
"""Part of the free memory that kept activations may take."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images on their way through a model.

    Attributes:
        images: their indices in the data set.
        activations: by layer name, float32 [N, units, *spatial].
        read: gives their pixels.
    """

    images: tuple[int, ...]
    activations: Activations
    read: Callable[[], Values]

    @cached_property
    def pixels(self) -> Values:
        """RGB in 0..1 as the model sees them, float32 [N, 3, h, w]."""
        return self.read()


class Rounds:
    """Images with their activations, batch by batch, in as many rounds as wanted; each round gives the same.

    Activations are kept for the next round if they are few, and computed again if not, so that memory does not grow
    with the number of images. `read` gives pixels of images by their indices, `measure` activations of pixels; `model`
    says how often to halve batches of `together` images, and is told of what had to be smaller.
    """

    def __init__(
        self,
        read: Callable[[Sequence[int]], Values],
        measure: Callable[[Values], Activations],
        images: Sequence[int],
        *,
        keep: bool,
        model: Model | None = None,
        together: int = BATCH,
    ) -> None:
        self._read, self._measure, self.images, self._model = read, measure, tuple(images), model
        self._keep, self._kept = keep, list[Batch]()
        self._together, self._known, self._what = together, False, ""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the images in order."""
        self._look_at_sizes()
        yield from tuple(self._kept)
        for _, _, batch in run_batches(
            self._model,
            len(self.images),
            self._together,
            lambda start, stop: self._batch(self.images[start:stop]),
            self._what,
            start=sum(len(batch.images) for batch in self._kept),
            release=self._make_smaller,
        ):
            if self._keep:
                self._kept.append(replace(batch, read=partial(self._read, batch.images)))
            yield batch

    def of(self, image: int) -> Activations:
        """Return the activations of one image, float32 [1, units, *spatial]."""
        for batch in self._kept:
            if image in batch.images:
                row = batch.images.index(image)
                return {name: values[row : row + 1] for name, values in batch.activations.items()}
        return self._measure(self._read((image,)))

    def _batch(self, images: tuple[int, ...]) -> Batch:
        pixels = self._read(images)
        return Batch(images, self._measure(pixels), lambda: pixels)

    def _look_at_sizes(self) -> None:
        """Choose the size of batches, and whether they are kept, by the first image."""
        if self._known or not self.images:
            return
        first = self.of(self.images[0])
        per_image = max(1, sum(values.nbytes for values in first.values()))
        named = ", ".join(shorten(name, 40) for name in list(first)[:2])
        self._what = f"The activations of {named}" + (f" and {len(first) - 2} more" if len(first) > 2 else "")
        self._together = max(1, min(self._together, limits.BATCH_ACTIVATION_BYTES // per_image))
        if self._model is not None:
            # While a batch is copied there are two of it.
            usual, each = self._together, 2 * per_image
            self._together = choose_batch(self._model, usual, lambda: each, self._what, free=available_memory)
        self._keep = self._keep and per_image * len(self.images) <= limits.KEPT_ACTIVATION_BYTES
        if self._keep and per_image * len(self.images) > _KEPT_PART * available_memory():
            self._stop_keeping()
        self._known = True

    def _make_smaller(self) -> None:
        """Do with less memory from now on."""
        if self._keep:
            self._stop_keeping()
        self._together = max(1, self._together // 2)

    def _stop_keeping(self) -> None:
        self._keep = False
        self._kept.clear()
        if self._model is not None:
            say(self._model, f"{self._what} were computed again for each round, because memory did not suffice to keep "
                "them.")  # fmt: skip


@contextmanager
def rounds(
    context: JobContext,
    source: ImageSource,
    images: Sequence[int],
    layers: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    converted: bool = False,
    keep: bool = False,
) -> Iterator[Rounds]:
    """Open rounds over images with their activations at some layers; those that come next are decoded meanwhile.

    Each image is what it would be in any other batch: that of ONNX Runtime to the last bit, that of the converted
    network, which is used instead where `converted`, but for rounding. `size` (height and width in pixels) and
    `preprocessing` are the model's own if None. Without `keep`, for a single round, a batch lives until the next one is
    asked for.

    Raises:
        DataError: if an image cannot be read or does not fit.
        MemoryLimitError: if memory does not suffice, even for one image at a time.
    """
    model, shape = context.model, size or context.model.input_size
    if keep:
        together = model.view.batch or BATCH
    else:  # as many as one pass takes, so that nothing has to be copied
        together = micro_batch(model.view, model.input_size, shape, [model.view.layer(name) for name in layers])
    with ReadAhead(source, images, preprocessing or model.preprocessing, shape) as read:
        yield Rounds(
            read,
            lambda pixels: measured(model, pixels, layers, converted=converted, kept=keep),
            images,
            keep=keep,
            model=model,
            together=together,
        )


def told(batches: Iterable[Batch], progress: Progress, done: int, total: int, note: str) -> Iterator[Batch]:
    """Yield batches; progress is told of each that is done, after the caller has come back for the next one."""
    for batch in batches:
        yield batch
        done += len(batch.images)
        progress(done, total, note)


def measured(
    model: Model, images: Values, layers: Sequence[str], *, converted: bool = False, kept: bool = True
) -> Activations:
    """Return activations on RGB images [N, 3, h, w] in 0..1, by ONNX Runtime or on its device by the converted network.

    A model that takes so many images at a time gets the last one again. `kept`: the result outlives the next call.
    """
    padded = filled(images, model.view.batch)
    if not converted:
        found = model.measure(padded, layers, kept=kept)
        return {name: values[: len(images)] for name, values in found.items()}
    tensors = model.activations(padded, layers)
    return {name: values[: len(images)].float().cpu().numpy() for name, values in tensors.items()}
