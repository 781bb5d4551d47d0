"""What is measured from photographs: colours and magnitudes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from onnxviz.core.errors import DataError
from onnxviz.data.decode import read_image
from onnxviz.optimize.color import CORRELATION, correlation_matrix
from onnxviz.optimize.parameterizations.base import Canvas
from onnxviz.optimize.parameterizations.planes import to_planes
from onnxviz.optimize.photographs import measure_colors, measure_magnitude


def photographs(count: int = 3) -> list[np.ndarray]:
    """Random pictures of different sizes whose colours go together."""
    random = np.random.default_rng(0)
    made = []
    for index in range(count):
        planes = random.normal(size=(20 + 7 * index, 33 - 5 * index, 3)) @ np.array(CORRELATION).T
        made.append(np.clip(np.rint(255 * (0.45 + 0.02 * index + 0.6 * planes)), 0, 255).astype(np.uint8))
    return made


def test_colors_are_the_root_of_the_covariance() -> None:
    images = photographs()
    # Every photograph counts the same: weights are one over its pixels.
    pixels = np.concatenate([image.reshape(-1, 3) / 255.0 for image in images])
    weights = np.concatenate([np.full(image.size // 3, 3.0 / image.size) for image in images])
    expected = np.cov(pixels.T, aweights=weights, ddof=0)
    found = measure_colors(images)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9)
    longest = np.sqrt(np.linalg.eigvalsh(expected)[-1])
    matrix = found.matrix.astype(np.float64) * longest
    np.testing.assert_allclose(matrix @ matrix.T, expected, rtol=1e-5)
    assert found.matrix.dtype == np.float32
    assert found.photographs == 3


def test_columns_are_independent_and_signed_as_published() -> None:
    matrix = measure_colors(photographs()).matrix
    lengths = np.linalg.norm(matrix, axis=0)
    assert lengths[0] == pytest.approx(1.0)
    assert (np.diff(lengths) < 0).all()
    np.testing.assert_allclose(matrix.T @ matrix, np.diag(lengths**2), atol=1e-6)
    assert (matrix[0] > 0).all()


def test_many_pixels_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_colors(photographs())
    monkeypatch.setattr("onnxviz.optimize.photographs._PIXELS_AT_ONCE", 100)
    np.testing.assert_allclose(measure_colors(photographs()).covariance, whole.covariance, rtol=1e-10)


def test_colors_are_read_once() -> None:
    read: list[int] = []

    def reading() -> Iterator[np.ndarray]:
        for index, image in enumerate(photographs()):
            read.append(index)
            yield image

    assert measure_colors(reading()).photographs == 3
    assert read == [0, 1, 2]


@pytest.mark.zoo
def test_real_photographs_have_the_published_colors(shared_data: Path) -> None:
    paths = sorted((shared_data / "imagenet_sample").glob("*.JPEG"))[::2]
    found = measure_colors(map(read_image, paths))
    assert found.photographs == len(paths) > 100
    published = np.array(CORRELATION) @ np.array(CORRELATION).T
    assert np.linalg.norm(found.covariance - published) < 0.05 * np.linalg.norm(published)
    np.testing.assert_allclose(found.matrix, correlation_matrix(), atol=0.02)


def test_what_has_no_colors_is_refused() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    with pytest.raises(DataError, match="do not vary"):
        measure_colors([grey])
    with pytest.raises(DataError, match="do not vary"):
        measure_colors([np.full((4, 4, 3), 7, np.uint8)])
    for measure in (measure_colors, lambda images: measure_magnitude(images, (8, 8))):
        with pytest.raises(DataError, match="no photographs"):
            measure([])
        with pytest.raises(DataError, match="photograph 1 is float64"):
            measure([*photographs(1), np.zeros((4, 4, 3))])
        with pytest.raises(DataError, match="photograph 0"):
            measure([np.zeros((4, 4), np.uint8)])


def mirrored(image: np.ndarray) -> np.ndarray:
    """Make a picture whose borders meet: it and its mirror images."""
    wide = np.concatenate([image, image[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]], axis=0)


def planes_of(image: np.ndarray, matrix: np.ndarray | None = None) -> np.ndarray:
    pictures = torch.from_numpy(image.transpose(2, 0, 1)[None] / 255.0)
    colors = torch.from_numpy(np.asarray(correlation_matrix() if matrix is None else matrix, np.float64))
    canvas = Canvas(3, image.shape[:2], 1, torch.device("cpu"), colors=colors)  # type: ignore[arg-type]
    return to_planes(pictures, canvas, True)[0].numpy()


@pytest.mark.parametrize("size", [(16, 18), (15, 16), (16, 15)])
def test_magnitude_is_that_of_the_planes_without_the_jump(size: tuple[int, int]) -> None:
    """Moisan's decomposition by its definition: the smooth part has the Laplacian of the jumps at the border."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    height, width = size
    cells = height * width
    laplacian, jumps = np.zeros((cells, cells)), np.zeros((3, cells))
    planes = planes_of(image).reshape(3, cells)
    for y in range(height):
        for x in range(width):
            here = y * width + x
            for down, across in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                there = (y + down) % height * width + (x + across) % width
                laplacian[here, here] -= 1
                laplacian[here, there] += 1
                if not (0 <= y + down < height and 0 <= x + across < width):
                    jumps[:, here] += planes[:, there] - planes[:, here]
    smooth = np.linalg.lstsq(laplacian, jumps.T, rcond=None)[0].T  # the solution of mean 0
    expected = np.abs(np.fft.rfft2((planes - smooth).reshape(3, *size)))
    found = measure_magnitude([image], size)
    np.testing.assert_allclose(found.planes, expected, rtol=1e-4, atol=1e-4 * expected.max())
    assert found.photographs == 1


def test_magnitude_of_what_repeats_is_plain() -> None:
    image = mirrored(photographs(1)[0][:12, :10])
    found = measure_magnitude([image], image.shape[:2])
    expected = np.abs(np.fft.rfft2(planes_of(image)))
    np.testing.assert_allclose(found.planes, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_magnitudes_are_means_and_follow_the_matrix() -> None:
    first, second = photographs(2)
    apart = [measure_magnitude([image], (16, 16)).planes for image in (first, second)]
    both = measure_magnitude([first, second], (16, 16))
    np.testing.assert_allclose(both.planes, (apart[0] + apart[1]) / 2, rtol=1e-5)
    doubled = measure_magnitude([first], (16, 16), 2.0 * correlation_matrix())
    np.testing.assert_allclose(doubled.planes, apart[0] / 2, rtol=1e-5)
    assert both.planes.shape == (3, 16, 9)
    assert both.planes.dtype == np.float32
