"""Segments of an image: superpixels that follow its edges, or a grid of equal cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from onnxviz.analyses.attribution.evidence_places import connected
from onnxviz.analyses.attribution.perturbation import Perturbation

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

COMPACTNESS = 10.0
"""How much distance on the image counts beside distance in colour: m of Achanta et al. 2012, at its usual value."""
_ROUNDS = 10


class SegmentPerturbation(Perturbation):
    """Base of the methods that remove whole segments of the image: every pixel has the value of its segment."""

    segments: int = Field(40, ge=1, le=1000, description="About how many segments an image is cut into.")
    cut: Literal["superpixels", "grid"] = Field(
        "superpixels",
        description="Where images are cut: along their edges (`superpixels`, by SLIC), or all alike (`grid`).",
    )

    def labels(self, question: Question) -> list[torch.Tensor]:
        """Return for each image the segment of each pixel, [h, w] on the CPU, numbered from 0 without gaps."""
        import torch

        images = question.images.cpu().numpy()
        if self.cut == "grid":
            cells = torch.from_numpy(grid(images.shape[2], images.shape[3], self.segments))
            return [cells] * len(images)
        photographic = question.model.domain.photographic
        return [torch.from_numpy(superpixels(image, self.segments, photographic=photographic)) for image in images]


def grid(height: int, width: int, count: int) -> Labels:
    """Return about `count` rectangles of nearly the same size, as near to squares as can be: [height, width]."""
    rows, columns = _cells(height, width, count)
    down, right = np.arange(height) * rows // height, np.arange(width) * columns // width
    cells: Labels = down[:, None] * columns + right[None, :]
    return cells


def superpixels(image: npt.NDArray[np.floating], count: int, *, photographic: bool = True) -> Labels:
    """Return about `count` connected segments that follow the edges of an image.

    SLIC (algorithm 1 of Achanta et al. 2012): k-means over colour and place, each centre among the pixels near it, with
    the distance sqrt(colour² + (place / step)² COMPACTNESS²); parts that are cut off go to a neighbour at the end.

    It is written here because the same recipe is to give the same segments for years, and because the library that has
    it would bring 200 MB and six packages for this function (scikit-image with SciPy and networkx).

    Args:
        image: [channels, h, w] in 0..1.
        count: how many.
        photographic: whether it is RGB, and colour is compared in CIELAB; else channels as they are, times 100.

    Returns:
        [h, w], numbered from 0 without gaps.
    """
    colours = _lab(image) if photographic else 100 * image.astype(np.float64) / math.sqrt(len(image))
    height, width = colours.shape[1:]
    step = math.sqrt(height * width / count)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    features = np.concatenate([colours, rows[None] * (COMPACTNESS / step), columns[None] * (COMPACTNESS / step)])
    places = _flattest(colours, _centres(height, width, count))
    centres = features[:, places[:, 0], places[:, 1]].T
    labels = np.zeros((height, width), np.int64)
    for _ in range(_ROUNDS):
        before, labels = labels, _nearest(features, centres, places, 2 * math.ceil(step))
        sizes = np.bincount(labels.ravel(), minlength=len(centres))
        sums = np.stack([np.bincount(labels.ravel(), each.ravel(), len(centres)) for each in features], axis=1)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        places = np.rint(centres[:, -2:] * (step / COMPACTNESS)).astype(np.int64)
        if (before == labels).all():
            break
    return _connected_segments(labels)


def _cells(height: int, width: int, count: int) -> tuple[int, int]:
    """Return rows and columns of about `count` cells that are nearly square."""
    step = math.sqrt(height * width / count)
    rows = min(max(round(height / step), 1), height, count)
    return rows, min(max(round(count / rows), 1), width)


def _centres(height: int, width: int, count: int) -> Labels:
    """Return the middles of the cells of a grid, [cells, 2]."""
    rows, columns = _cells(height, width, count)
    down = (np.arange(rows) + 0.5) * height / rows
    right = (np.arange(columns) + 0.5) * width / columns
    return np.stack(np.meshgrid(down, right, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)


def _flattest(colours: Floats, places: Labels) -> Labels:
    """Move each place to the lowest gradient of the 3 x 3 pixels around it, so that no centre starts on an edge."""
    padded = np.pad(colours, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down, right = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    gradient = np.pad((down**2 + right**2).sum(axis=0), 1, constant_values=np.inf)
    offsets = np.mgrid[0:3, 0:3].reshape(2, 9).T
    around = places[:, None, :] + offsets[None]
    best = gradient[around[..., 0], around[..., 1]].argmin(axis=1)
    moved: Labels = places + offsets[best] - 1
    return moved


def _nearest(features: Floats, centres: Floats, places: Labels, reach: int) -> Labels:
    """Return the nearest centre of each pixel, of those that are no farther than `reach` pixels on the image."""
    height, width = features.shape[1:]
    nearest, distance = np.zeros((height, width), np.int64), np.full((height, width), np.inf)
    for number, (centre, (row, column)) in enumerate(zip(centres, places, strict=True)):
        box = np.s_[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        found = ((features[:, *box] - centre[:, None, None]) ** 2).sum(axis=0)
        nearer = found < distance[box]
        distance[box][nearer], nearest[box][nearer] = found[nearer], number
    return nearest


def _connected_segments(labels: Labels) -> Labels:
    """Keep the largest part of each segment, let neighbours grow over the rest, and number what there is."""
    kept = np.full(labels.shape, -1, np.int64)
    for number in np.unique(labels):
        parts, count = connected(labels == number)
        largest = np.bincount(parts.ravel(), minlength=count + 1)[1:].argmax() + 1
        kept[parts == largest] = number
    while (kept < 0).any():
        padded = np.pad(kept, 1, constant_values=-1)
        for neighbour in (padded[:-2, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:], padded[2:, 1:-1]):
            kept = np.where(kept < 0, neighbour, kept)
    return np.unique(kept, return_inverse=True)[1].reshape(labels.shape)


def _lab(image: npt.NDArray[np.floating]) -> Floats:
    """Return sRGB [3, h, w] in 0..1 as CIELAB under the white of D65 (IEC 61966-2-1, CIE 15)."""
    rgb = image.astype(np.float64)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0) + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    matrix = np.array(to_xyz)
    x, y, z = np.einsum("ij,jhw->ihw", matrix / matrix.sum(axis=1, keepdims=True), linear)
    x, y, z = (np.where(v > (6 / 29) ** 3, np.cbrt(v), v * (29 / 6) ** 2 / 3 + 4 / 29) for v in (x, y, z))
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])
