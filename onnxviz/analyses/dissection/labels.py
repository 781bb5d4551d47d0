"""Labels of images, brought to the size at which masks are compared with them; the last ones are remembered."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.dissection.counting import PixelLabels
from onnxviz.core.errors import DataError, shorten
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import fit_labels

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet

_STRETCH = Preprocessing(fit="stretch")
_MOST_BYTES = 256 << 20
_FEWEST = 16


def categories_of(data: ConceptSet) -> npt.NDArray[np.intp]:
    """Return for each concept the place of its category among the data set's."""
    places = {category: place for place, category in enumerate(data.categories)}
    return np.array([places[concept.category] for concept in data.concepts], np.intp)


class Labels:
    """The labels of images, prepared for counting; the last ones are remembered.

    Args:
        data: the data set.
        size: height and width in pixels.
        remembered: how many images' labels are kept in memory, if that takes no more than `_MOST_BYTES`.
    """

    def __init__(self, data: ConceptSet, size: tuple[int, int], remembered: int) -> None:
        self._data = data
        self._size = size
        self.categories = categories_of(data)
        self._columns = _columns_of(data)
        each = size[0] * size[1] * len(data.categories) * np.min_scalar_type(len(data.concepts)).itemsize
        self.of = lru_cache(max(_FEWEST, min(remembered, _MOST_BYTES // each)))(self._read)

    def _read(self, image: int) -> PixelLabels:
        data, columns = self._data, self._columns
        labels = fit_labels(data.read_labels(image), _STRETCH, self._size)
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(columns) or columns[labels].min(initial=0) < 0:
            raise DataError(
                "holds a label that is none of the data set's concepts",
                where=f"{data.name}: {shorten(data.names[image])}",
            )
        return PixelLabels.of(columns[labels], self.categories)


def _columns_of(data: ConceptSet) -> npt.NDArray[np.int32]:
    """Return for each label value the column of its concept, counted from 1; 0 for none, -1 for an unknown value."""
    columns = np.full(max(concept.index for concept in data.concepts) + 1, -1, np.int32)
    columns[0] = 0
    for place, concept in enumerate(data.concepts):
        columns[concept.index] = place + 1
    return columns
