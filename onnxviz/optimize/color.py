"""The colours of natural images: a matrix that gives independent numbers the colour correlations of photographs."""

from __future__ import annotations

import functools

import numpy as np

from onnxviz.core.lazy_torch import torch

CORRELATION = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of the colours of ImageNet's photographs (Olah et al. 2017, lucid `param/color.py`).

Rows are red, green, blue; columns are brightness, red against blue, green against magenta.
"""


def correlation_matrix() -> np.ndarray:
    """Return `CORRELATION` divided by its longest column, float32 [3, 3]; the longest column has length 0.461952."""
    matrix = np.asarray(CORRELATION, dtype=np.float64)
    return np.asarray(matrix / np.linalg.norm(matrix, axis=0).max(), dtype=np.float32)


@functools.lru_cache(maxsize=8)
def matrix_on(device: torch.device) -> torch.Tensor:
    """Keep the matrix on the device: copying it there would make every step wait for the device."""
    return torch.from_numpy(correlation_matrix()).to(device)


def correlate(planes: torch.Tensor, matrix: torch.Tensor | None = None) -> torch.Tensor:
    """Turn decorrelated planes [N, 3, h, w] into colours: rgb = matrix · plane at every pixel.

    The matrix [3, 3] is that of photographs if None.
    """
    chosen = matrix_on(planes.device) if matrix is None else matrix
    rgb: torch.Tensor = (chosen @ planes.flatten(2)).view(planes.shape)
    return rgb


def decorrelated(colors: torch.Tensor, matrix: torch.Tensor | None = None) -> torch.Tensor:
    """Return the planes that `correlate` makes given colours of: the inverse matrix at every pixel."""
    chosen = matrix_on(colors.device) if matrix is None else matrix
    planes: torch.Tensor = torch.linalg.solve(chosen, colors.flatten(2)).view(colors.shape)
    return planes


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Round images of 0..1 to bytes: float [N, 3, h, w] to uint8 [N, h, w, 3]."""
    clipped = np.clip(images, 0.0, 1.0).transpose(0, 2, 3, 1)
    return np.asarray(np.rint(clipped * 255.0), dtype=np.uint8)
