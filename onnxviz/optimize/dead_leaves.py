"""Pictures of nothing: textured shapes of all sizes that cover each other, as things in photographs do."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import numpy as np

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.color import correlation_matrix

_SMALLEST, _LARGEST = (0.03, 0.25), 0.6
"""Radii of the shapes, as shares of the picture's shorter side; the smallest is drawn for each picture."""
_COVERED = 6.0
"""The area of all shapes by that of the picture: exp(-6) of it, a quarter of a percent, shows the first shape."""
_COLOR, _TEXTURE, _SHADE = 0.9, (0.05, 0.5), 0.25
"""Standard deviation of a shape's colour, range of its texture's and of what it changes by from side to side."""
_CONTRAST = 1.2
SCENES = 32
"""How many pictures, of the seeds from 0 on, stand for all scenes."""
_SIDE = 320
"""Pixels of a side beyond which scenes are made smaller and enlarged: all stay in memory, 39 MB for a size at most."""
_LOCK = Lock()


def dead_leaves(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Make a picture of leaves that fell on each other: discs, rectangles and triangles at random places.

    Radii r have the density r^-3, which makes the picture look alike at all scales, as photographs do. Colours have the
    correlations of photographs, and textures the spectrum 1 / f^a with a power between 0.6 and 1.6. The same seed and
    size (height, width) give the same picture: RGB, float32 [3, height, width], in 0..1.

    Source: Matheron 1968 and Lee, Mumford and Huang 2001 ("Occlusion models for natural images"). Baradad et al. 2021
    ("Learning to see by looking at noise") show how much of what networks learn such pictures hold.
    """
    draws = np.random.default_rng(seed)
    height, width = size
    side = min(height, width)
    texture = _texture(draws, size)
    planes = draws.normal(size=3)[:, None, None] * _COLOR + texture * draws.uniform(*_TEXTURE)
    smallest = np.exp(draws.uniform(*np.log(_SMALLEST)))
    covered = 0.0
    while covered < _COVERED * height * width:
        part = draws.random()
        radius = max(1.0, side / np.sqrt(part / smallest**2 + (1.0 - part) / _LARGEST**2))
        covered += _put_leaf(planes, texture, radius, draws)
    colors = np.einsum("cp,phw->chw", correlation_matrix().astype(np.float64), planes) * _CONTRAST
    return np.asarray(1.0 / (1.0 + np.exp(-colors)), dtype=np.float32)


def _put_leaf(planes: np.ndarray, texture: np.ndarray, radius: float, draws: np.random.Generator) -> float:
    """Put one shape on top, in place; returns its area within the picture in pixels."""
    height, width = planes.shape[1:]
    y, x = draws.uniform(-radius, height + radius), draws.uniform(-radius, width + radius)
    angle, narrow, shape = draws.uniform(0.0, np.pi), draws.uniform(0.4, 1.0), int(draws.integers(3))
    color = _COLOR * draws.normal(size=3)
    contrast, slope = draws.uniform(*_TEXTURE), _SHADE * draws.normal(size=2) / radius
    reach = radius * 2.0
    rows = slice(max(0, int(y - reach)), max(0, min(height, int(y + reach) + 1)))
    columns = slice(max(0, int(x - reach)), max(0, min(width, int(x + reach) + 1)))
    down = np.arange(rows.start, rows.stop)[:, None] - y
    across = np.arange(columns.start, columns.stop)[None, :] - x
    along, beside = np.cos(angle) * across + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * across
    beside = beside / narrow
    if shape == 0:
        distance = np.hypot(along, beside)
    elif shape == 1:
        distance = np.maximum(np.abs(along), np.abs(beside))
    else:
        distance = np.maximum(beside, 0.866 * np.abs(along) - 0.5 * beside)
    opaque = np.clip(radius - distance + 0.5, 0.0, 1.0)
    shade = slope[0] * down + slope[1] * across
    leaf = color[:, None, None] + contrast * texture[:, rows, columns] + shade
    planes[:, rows, columns] += opaque * (leaf - planes[:, rows, columns])
    return float(opaque.sum())


def _texture(draws: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return noise of the spectrum 1 / f^a, [3, h, w], of mean 0 and standard deviation 1."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    scale = frequency ** -draws.uniform(0.6, 1.6)
    scale[0, 0] = 0.0
    shape = (3, *frequency.shape)
    planes = np.fft.irfft2((draws.normal(size=shape) + 1j * draws.normal(size=shape)) * scale, s=size)
    return np.asarray(planes / np.maximum(planes.std(axis=(1, 2), keepdims=True), 1e-9))


def scenes(which: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return some of the scenes, RGB, float32 [N, 3, height, width], in 0..1; nothing waits for the device.

    `which` is int64 [N], numbers from 0 to `SCENES` - 1.
    """
    shrunk = min(1.0, _SIDE / max(size))
    small = max(1, round(size[0] * shrunk)), max(1, round(size[1] * shrunk))
    with _LOCK:  # threads that work side by side would each make them
        made = _all(small, which.device)
    chosen = made.index_select(0, which)
    return (
        chosen if small == size else torch.nn.functional.interpolate(chosen, size, mode="bilinear", align_corners=False)
    )


@lru_cache(maxsize=4)  # a captured step reads them: more sizes than one run works on at a time
def _all(size: tuple[int, int], device: torch.device) -> torch.Tensor:
    return torch.stack([torch.from_numpy(dead_leaves(seed, size)) for seed in range(SCENES)]).to(device)
