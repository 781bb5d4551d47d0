"""Counterfactual images: one part of an image is replaced, the rest kept.

Images are [channels, h, w] in 0..1, regions bool [h, w].
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.evidence_places import connected

Image = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

EDGE = 8
"""The edge of an image is this part of its height and width, on each side."""
_TILES = 8
"""Rows and columns of the tiles, of which some are replaced for comparison."""
_WIDTH = 8
"""Smoothing takes a Gaussian whose standard deviation is this part of the image's height and width."""
_MARGIN = 0.1
"""Boxes are wider than what they hold by this part of its height and width, on each side."""


def replaced(image: Image, region: Region, other: Image) -> Image:
    """Return the image with another one's pixels in a region."""
    return np.where(region, other, image)


def smoothed(image: Image, known: Region) -> Image:
    """Return an image smoothed over what is known of it, also where it is not; all of it where nothing is known.

    That is normalised convolution (Knutsson and Westin 1993) with a Gaussian: what is unknown has no weight.
    """
    known = known if known.any() else np.ones_like(known)
    rows, columns = (_gaussian(length) for length in known.shape)
    weights = rows @ known.astype(np.float64) @ columns
    values = rows @ (image.astype(np.float64) * known) @ columns
    return (values / weights).astype(np.float32)


def _gaussian(length: int) -> npt.NDArray[np.float64]:
    places = np.arange(length)
    return np.exp(-(((places[:, None] - places) * (_WIDTH / length)) ** 2) / 2)


def noise(image: Image, known: Region, rng: np.random.Generator) -> Image:
    """Return normal noise with mean and spread of what is known of each channel, cut off at 0 and 1."""
    values = image[:, known if known.any() else np.ones_like(known)].astype(np.float64)
    mean, spread = (each[:, None, None] for each in (values.mean(axis=1), values.std(axis=1)))
    return rng.normal(mean, spread, image.shape).clip(0, 1).astype(np.float32)


def boxes(mask: Region) -> Region:
    """Return the upright boxes around the connected regions of a mask, a little wider: they hide its outline."""
    covered = np.zeros_like(mask)
    labels, count = connected(mask)
    for number in range(1, count + 1):
        ends = []
        for places, length in zip(np.nonzero(labels == number), mask.shape, strict=True):
            first, last = int(places.min()), int(places.max())
            margin = max(1, math.ceil(_MARGIN * (last + 1 - first)))
            ends.append(slice(max(0, first - margin), min(length, last + 1 + margin)))
        covered[ends[0], ends[1]] = True
    return covered


def tiles(shape: tuple[int, int], area: float, rng: np.random.Generator) -> Region:
    """Return tiles of an image, drawn at random, that cover such a share of it as nearly as whole tiles can."""
    drawn = np.zeros(_TILES * _TILES, bool)
    drawn[rng.permutation(len(drawn))[: round(area * len(drawn))]] = True
    rows, columns = (np.arange(length) * _TILES // length for length in shape)
    covered: Region = drawn.reshape(_TILES, _TILES)[rows[:, None], columns[None, :]]
    return covered


def edge(shape: tuple[int, int]) -> Region:
    """Return the edge of an image."""
    covered = np.ones(shape, bool)
    height, width = (max(1, length // EDGE) for length in shape)
    covered[height : shape[0] - height, width : shape[1] - width] = False
    return covered


def mirrored(image: Image) -> Image:
    """Return an image that is all edge: inside of it that of the nearest side is mirrored again and again."""
    height, width = image.shape[1:]
    down, right = (_there_and_back(length) for length in (height, width))
    flipped = image[:, ::-1, ::-1]
    sides = [image[:, down], flipped[:, down][:, ::-1, ::-1], image[:, :, right], flipped[:, :, right][:, ::-1, ::-1]]
    rows, columns = np.mgrid[:height, :width]
    steps = np.stack([rows, height - 1 - rows, columns, width - 1 - columns])
    edges = np.array([height, height, width, width]) // EDGE
    nearest = (steps / np.maximum(edges, 1)[:, None, None]).argmin(axis=0)  # in widths of the edge
    made: Image = np.choose(nearest, sides)
    return made


def _there_and_back(length: int) -> npt.NDArray[np.intp]:
    """Return 0, 1 ... to the end of the edge, back to 0, and so on, for so many pixels."""
    side = max(1, length // EDGE)
    places = np.arange(length) % (2 * side)
    return np.minimum(places, 2 * side - 1 - places)
