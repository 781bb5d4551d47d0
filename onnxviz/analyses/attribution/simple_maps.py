"""Maps that know nothing of the network: what a method of attribution has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.core.values import LUMA

if TYPE_CHECKING:
    from onnxviz.analyses.attribution.question import Question

Maps = npt.NDArray[np.float64]

RANDOM, PATCHES, CENTRE, EDGES = "random pixels", "random patches", "centre", "edge filter"
SIMPLE = (RANDOM, PATCHES, CENTRE, EDGES)
"""Their names."""
_GRID = 7
"""Rows and columns of random numbers behind a map of patches: as many as the last maps of usual networks have."""


def simple_maps(question: Question) -> Mapping[str, Maps]:
    """Return for each name a map of every image, [N, h, w]: of its pixels, but for the patches, which are few."""
    images = question.images.detach().cpu().numpy().astype(np.float64)
    count, _, height, width = images.shape
    drawn = [question.generator(place, "simple maps") for place in range(count)]
    return {
        RANDOM: np.stack([generator.random((height, width)) for generator in drawn]),
        PATCHES: np.stack([generator.random((min(_GRID, height), min(_GRID, width))) for generator in drawn]),
        CENTRE: np.repeat(centre(height, width)[None], count, axis=0),
        EDGES: np.stack([edges(image) for image in images]),
    }


def centre(height: int, width: int) -> Maps:
    """Return how near each pixel is to the centre of an image, [h, w]: 0 farthest, and highest in the middle."""
    rows, columns = (np.arange(size) - (size - 1) / 2 for size in (height, width))
    distance = np.hypot(rows[:, None], columns[None, :])
    return np.asarray(distance.max() - distance)


def edges(image: Maps) -> Maps:
    """Return how steep the brightness of an image [channels, h, w] is at each pixel, by Sobel's filter: [h, w].

    Brightness is that of RGB, or the mean of any other number of channels; borders are continued.
    """
    grey = np.tensordot(LUMA, image, 1) if len(image) == 3 else image.mean(axis=0)
    padded = np.pad(grey, 1, mode="edge")
    smooth_rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    across = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    down = smooth_columns[2:] - smooth_columns[:-2]
    return np.asarray(np.hypot(across, down))
