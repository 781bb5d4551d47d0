"""What is measured from a user's own photographs: which colours go together, and how much there is of each frequency.

Both are sums over the photographs, one at a time, so any number of them takes the memory of one. Every photograph
counts the same, whatever its size, and none is left out: how many there were is part of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxviz.core.errors import DataError
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import fit_image
from onnxviz.optimize.color import correlation_matrix

EDGE = 0.01
"""How near to black and white a photograph may be: beyond, its logits would be all that counts."""
_PIXELS_AT_ONCE = 1 << 18
_LEAST_COLOR = 1e-4
"""Share of brightness' deviation that the least colour must reach: grey photographs have none."""
_WHOLE = Preprocessing(fit="crop", crop_fraction=1.0)


@dataclass(frozen=True, eq=False)
class MeasuredColors:
    """The colours of photographs, and how many were measured.

    Attributes:
        matrix: float32 [3, 3], for `color.correlate`: U √S of the colours' covariance, divided by its longest column.
        covariance: float64 [3, 3], of red, green and blue in 0..1: what lucid's published matrix is the root of.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    photographs: int


@dataclass(frozen=True, eq=False)
class MeasuredMagnitude:
    """The spectrum of photographs, mean |rfft2| of the planes [3, h, w // 2 + 1], and how many were measured."""

    planes: np.ndarray
    photographs: int


def measure_colors(images: Iterable[np.ndarray]) -> MeasuredColors:
    """Measure the matrix that gives independent planes the colour correlations of photographs.

    The covariance is that of red, green and blue in 0..1 over all pixels. With its eigenvalues S and eigenvectors U,
    the matrix is U √S: its columns are the independent directions, longest first, each as long as the colours'
    standard deviation along it. Divided by its longest column it takes the published matrix' place, which is this
    root for ImageNet's photographs (lucid `param/color.py`, `color_correlation_svd_sqrt`). The sign of a column is
    free; as in the published one, red is positive in all of them.

    Images are uint8 [height, width, 3], RGB, of any sizes.

    Raises:
        DataError: if there are no photographs, or they have no colours.
    """
    count, mean, product = 0, np.zeros(3), np.zeros((3, 3))
    for image in _checked(images):
        pixels = image.reshape(-1, 3)
        total, squares = np.zeros(3), np.zeros((3, 3))
        for start in range(0, len(pixels), _PIXELS_AT_ONCE):
            part = pixels[start : start + _PIXELS_AT_ONCE] / 255.0
            total += part.sum(axis=0)
            squares += part.T @ part
        mean += total / len(pixels)
        product += squares / len(pixels)
        count += 1
    mean, product = mean / count, product / count
    covariance = product - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    lengths = np.sqrt(np.maximum(values[::-1], 0.0))
    if lengths[2] <= _LEAST_COLOR * lengths[0]:
        raise DataError(
            f"the colours of the {count} photographs do not vary in all three directions",
            remedy="give colour photographs, or leave `colors` out, which takes the published matrix",
        )
    root = vectors[:, ::-1] * np.where(vectors[0, ::-1] < 0, -1.0, 1.0) * lengths
    return MeasuredColors((root / lengths[0]).astype(np.float32), covariance, count)


def measure_magnitude(
    images: Iterable[np.ndarray], size: tuple[int, int], matrix: np.ndarray | None = None
) -> MeasuredMagnitude:
    """Measure how much of each frequency photographs have: E |rfft2(plane)| for each decorrelated plane.

    This is the magnitude that MaCo keeps (Fel et al. 2023, section 3, "r"), measured in the planes that a
    parameterization writes rather than in colours: the logits of the colours, by the inverse of the colours' matrix.

    Images are uint8 [height, width, 3], RGB, of any sizes, cut to the largest part of the shape `size` about the
    centre; `matrix` is the colours', [3, 3], the published one if None.

    Raises:
        DataError: if there are no photographs.
    """
    inverse = np.linalg.inv(np.asarray(correlation_matrix() if matrix is None else matrix, dtype=np.float64))
    count, total = 0, np.zeros((3, size[0], size[1] // 2 + 1))
    for image in _checked(images):
        colors = np.clip(fit_image(image, _WHOLE, size).astype(np.float64), EDGE, 1.0 - EDGE)
        logits = np.log(colors) - np.log1p(-colors)
        total += np.abs(_periodic_spectrum(np.einsum("pc,hwc->phw", inverse, logits)))
        count += 1
    return MeasuredMagnitude((total / count).astype(np.float32), count)


def _periodic_spectrum(planes: np.ndarray) -> np.ndarray:
    """Return rfft2 of the periodic part of planes [..., h, w].

    A transform takes the left border for the right one's neighbour. The jump between them is no part of the photograph
    and fills the row and the column of frequency 0, which images of such magnitudes show as a weave. Left out is the
    smoothest image that has this jump (Moisan 2011, "Periodic plus smooth image decomposition", equations 9 and 11).
    """
    height, width = planes.shape[-2:]
    jump = np.zeros_like(planes)
    vertical, horizontal = planes[..., -1, :] - planes[..., 0, :], planes[..., :, -1] - planes[..., :, 0]
    jump[..., 0, :] += vertical
    jump[..., -1, :] -= vertical
    jump[..., :, 0] += horizontal
    jump[..., :, -1] -= horizontal
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    laplacian = 2.0 * np.cos(2.0 * np.pi * rows) + 2.0 * np.cos(2.0 * np.pi * columns) - 4.0
    laplacian[0, 0] = 1.0  # the jump's mean is 0, and so is the smooth part's
    return np.asarray(np.fft.rfft2(planes) - np.fft.rfft2(jump) / laplacian)


def _checked(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield photographs, at least one."""
    some = False
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(
                f"photograph {index} is {image.dtype} {list(image.shape)}, not uint8 [height, width, 3]",
                remedy="give decoded RGB images, as `decode.read_image` returns them",
            )
        yield image
        some = True
    if not some:
        raise DataError("there are no photographs to measure", remedy="name images that exist")
