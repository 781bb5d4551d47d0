"""Segments: those that follow an image's edges against a loop over pixels and known shapes, and grids."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from onnxviz.analyses.attribution import segments
from onnxviz.analyses.attribution.segments import grid, superpixels
from onnxviz.data import builtin
from onnxviz.data.images import load_batch


def shapes() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Coloured shapes whose borders lie on no grid, [3, 60, 84], and the number of the shape at each pixel."""
    kinds = np.zeros((60, 84), np.int64)
    rows, columns = np.mgrid[:60, :84]
    kinds[:, 31:] = 1
    kinds[37:, :53] = 2
    kinds[(rows - 20) ** 2 + (columns - 60) ** 2 < 15**2] = 3
    colours = np.array([[0.9, 0.1, 0.1], [0.2, 0.5, 0.9], [0.1, 0.6, 0.2], [0.95, 0.9, 0.3]], np.float32)
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 60, 84)).astype(np.float32)
    return np.clip(colours[kinds].transpose(2, 0, 1) + noise, 0, 1), kinds


@pytest.mark.parametrize("count", [6, 20, 60])
def test_superpixels_hold_one_shape_each(count: int) -> None:
    image, kinds = shapes()
    found = superpixels(image, count)
    assert found.max() + 1 == pytest.approx(count, rel=0.35)
    assert set(np.unique(found)) == set(range(found.max() + 1))
    # Undersegmentation: pixels that are not of the shape of which their segment has most.
    leaked = sum((found == each).sum() - np.bincount(kinds[found == each]).max() for each in np.unique(found))
    cells = grid(60, 84, count)
    crossed = sum((cells == each).sum() - np.bincount(kinds[cells == each]).max() for each in np.unique(cells))
    assert leaked <= 0.01 * kinds.size < 0.05 * kinds.size < crossed
    for each in np.unique(found):
        assert ndimage.label(found == each, np.ones((3, 3)))[1] == 1


def test_superpixels_vary_less_inside_than_cells_of_a_grid() -> None:
    known = builtin.model("scenes")
    for image in load_batch(builtin.scenes(count=4), range(4), known.preprocessing, (64, 64)):
        inside, plain = (
            sum(np.var(image[:, labels == each], axis=1).sum() * (labels == each).sum() for each in np.unique(labels))
            for labels in (superpixels(image, 30), grid(64, 64, 30))
        )
        assert inside < 0.8 * plain
        assert np.array_equal(superpixels(image, 30), superpixels(image.copy(), 30))


def by_pixel(colours: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Algorithm 1 of the paper, pixel by pixel, without its last step."""
    height, width = colours.shape[1:]
    step = math.sqrt(height * width / count)
    places = segments._flattest(colours, segments._centres(height, width, count))
    centres = [(colours[:, row, column], float(row), float(column)) for row, column in places]
    labels = np.zeros((height, width), np.int64)
    for _ in range(10):
        for row in range(height):
            for column in range(width):
                best = math.inf
                for number, (colour, down, right) in enumerate(centres):
                    reach = 2 * math.ceil(step)
                    if abs(row - round(down)) > reach or abs(column - round(right)) > reach:
                        continue
                    place = (row - down) ** 2 + (column - right) ** 2
                    distance = ((colours[:, row, column] - colour) ** 2).sum() + place / step**2 * 10**2
                    if distance < best:
                        best, labels[row, column] = distance, number
        for number in range(len(centres)):
            rows, columns = np.nonzero(labels == number)
            if len(rows):
                centres[number] = (colours[:, rows, columns].mean(axis=1), rows.mean(), columns.mean())
    return labels


def test_superpixels_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).random((3, 20, 26)).cumsum(axis=2)  # slopes, so that there is something to follow
    image = (image / image.max()).astype(np.float32)
    monkeypatch.setattr(segments, "_connected_segments", lambda labels: labels)
    assert np.array_equal(superpixels(image, 8), by_pixel(segments._lab(image), 8))
    stored = np.random.default_rng(2).random((5, 20, 26)).astype(np.float32)
    wanted = by_pixel(100 * stored.astype(np.float64) / math.sqrt(5), 6)
    assert np.array_equal(superpixels(stored, 6, photographic=False), wanted)


def test_parts_that_are_cut_off_go_to_a_neighbour() -> None:
    labels = np.zeros((6, 9), np.int64)
    labels[:, 5:] = 7
    labels[2, 7] = 0  # an island of the first segment in the second
    labels[0, 0] = 3
    labels[5, 8] = 3
    labels[4, 8] = 3
    found = segments._connected_segments(labels)
    assert found[2, 7] == found[2, 8] == 2
    assert found[0, 0] == found[0, 1] == 0
    assert found[5, 8] == found[4, 8] == 1
    assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.02, 0.02, 0.02), (1.40, 0, 0)),
    ],
)
def test_colours_are_compared_in_cielab(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = segments._lab(np.array(rgb, np.float32).reshape(3, 1, 1)).ravel()
    np.testing.assert_allclose(found, lab, atol=0.02)


@pytest.mark.parametrize(
    ("height", "width", "count"), [(224, 224, 40), (20, 26, 5), (7, 300, 12), (3, 3, 50), (9, 9, 1)]
)
def test_grids_have_cells_of_one_size(height: int, width: int, count: int) -> None:
    cells = grid(height, width, count)
    sizes = np.bincount(cells.ravel())
    assert len(sizes) == pytest.approx(min(count, height * width), rel=0.2)
    assert sizes.min() > 0
    for along in (cells[:, 0], cells[0]):
        lengths = np.unique(along, return_counts=True)[1]
        assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("count", [1, 4, 500])
def test_images_without_edges_and_small_ones_have_segments_too(count: int) -> None:
    flat = superpixels(np.full((3, 30, 30), 0.5, np.float32), count)
    assert 1 <= flat.max() + 1 <= 1.3 * count
    assert superpixels(np.zeros((1, 2, 3), np.float32), count, photographic=False).shape == (2, 3)
