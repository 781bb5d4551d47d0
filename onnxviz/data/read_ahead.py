"""Images of a data set in a known order, decoded by threads before they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxviz.core.devices import thread_count
from onnxviz.core.values import Preprocessing
from onnxviz.data.decode import warnings_ignored
from onnxviz.data.images import ImageSource, load_batch

_THREADS = 4
"""Most threads; decoding holds Python's lock for a part of its time, so more are no faster."""
_AHEAD = 2
"""Batches that are decoded beyond the one asked for: with it all the images that are held at a time."""

_Range: TypeAlias = tuple[int, int]


class ReadAhead:
    """Gives batches of images as `load_batch` does, and has the next ones decoded while the caller works.

    `order` has the images' indices as they will be asked for: as many as now come next. What is asked for out of turn
    is read at once. Used as a context, at whose end the threads are gone.
    """

    def __init__(
        self, source: ImageSource, order: Sequence[int], preprocessing: Preprocessing, size: tuple[int, int]
    ) -> None:
        self._source, self._preprocessing, self._size = source, preprocessing, size
        self._order = tuple(order)
        self._place = {index: place for place, index in enumerate(self._order)}
        self._next = 0
        self._ahead: dict[_Range, Future[npt.NDArray[np.float32]]] = {}
        self._threads = ThreadPoolExecutor(min(_THREADS, thread_count()), "decode")
        self._quiet = warnings_ignored()

    def __enter__(self) -> ReadAhead:
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._quiet.__exit__(None, None, None)

    def __call__(self, images: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return images by their indices as `load_batch` does, in the order given."""
        start = self._place.get(images[0], -1)
        stop = start + len(images)
        if start not in (0, self._next) or self._order[start:stop] != tuple(images):
            return self._read(images)
        waiting = self._ahead.pop((start, stop), None)
        wanted = [(at, min(at + len(images), len(self._order))) for at in range(stop, len(self._order), len(images))]
        before, self._ahead = self._ahead, {}
        for part in wanted[:_AHEAD]:
            known = before.pop(part) if part in before else None
            self._ahead[part] = known or self._threads.submit(self._read, self._order[slice(*part)])
        for old in before.values():
            old.cancel()
        self._next = stop
        return self._read(images) if waiting is None else waiting.result()

    def _read(self, images: Sequence[int]) -> npt.NDArray[np.float32]:
        return load_batch(self._source, images, self._preprocessing, self._size)
