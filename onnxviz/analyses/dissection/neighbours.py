"""Whether images that follow each other are alike, as frames of a film are, and how far apart they stop being so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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

    Args:
        data: images with labels.
        images: which of them, in order.

    Returns:
        How alike neighbours are; None where they are no more so than others.

    Raises:
        DataError: if labels cannot be read.
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
