"""Surface patterns of the built-in scenes, antialiased at any resolution.

A pattern says how much of its second colour each place shows, 0 to 1. Coordinates run from -1 to 1 over the scene.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

STRIPES = ("horizontal stripes", "rising stripes", "vertical stripes", "falling stripes")
"""Names by the direction of the stripes in the picture, in steps of 45 degrees, counted counter-clockwise."""


def _turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _zigzag(position: Field, period: float) -> Field:
    """Distance to the nearest border of stripes that are half a period wide, positive on every other stripe."""
    phase = np.asarray(position * np.float32(1 / period), np.float32)
    phase -= np.floor(phase)
    return np.asarray((0.25 - np.abs(phase - np.float32(0.5))) * np.float32(period), np.float32)


def _soft(distance: Field, pixel: float) -> Field:
    """Coverage of a pixel by what lies on the positive side of a border at this distance."""
    result: Field = np.clip(distance * np.float32(1 / pixel) + np.float32(0.5), 0, 1)
    return result


@lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> Field:
    """Weights that resize `cells` values to `size`: bilinear, widened to a mean where there are fewer pixels."""
    width = max(1.0, cells / size)
    places = (np.arange(size) + 0.5) * (cells - 1) / size
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)) / width)
    result: Field = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return result


def noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Field:
    """Return smooth noise of mean 0, about -1 to 1, made from rows x columns random values whatever the size."""
    values = rng.random(cells, dtype=np.float32) * 2 - 1
    return np.asarray(_interpolation(size, cells[0]) @ values @ _interpolation(size, cells[1]).T, np.float32)


def stripes(rng: np.random.Generator, x: Field, y: Field, pixel: float) -> tuple[Field, str]:
    """Straight stripes in one of four directions, give or take 14 degrees; returns the pattern and its name."""
    direction = int(rng.integers(4))
    angle = -direction * np.pi / 4 + rng.uniform(-0.25, 0.25)
    _, across = _turned(x, y, angle)
    period = rng.uniform(0.2, 0.32)
    return _soft(_zigzag(across + np.float32(rng.random()), period), pixel), STRIPES[direction]


def dots(rng: np.random.Generator, x: Field, y: Field, pixel: float) -> tuple[Field, str]:
    """Round dots on a square lattice, turned by any angle; returns the pattern and its name."""
    across, down = _turned(x, y, rng.uniform(0, np.pi / 2))
    pitch = rng.uniform(0.22, 0.3)
    start, step = np.float32(rng.random()), np.float32(pitch)
    across, down = across / step + start, down / step
    across -= np.round(across)
    down -= np.round(down)
    distance = np.float32(rng.uniform(0.27, 0.36)) - np.sqrt(across * across + down * down)
    return _soft(distance * np.float32(pitch), pixel), "dots"


def checker(rng: np.random.Generator, x: Field, y: Field, pixel: float) -> tuple[Field, str]:
    """A checkerboard turned by up to 30 degrees; returns the pattern and its name."""
    across, down = _turned(x, y, rng.uniform(-0.5, 0.5))
    period = rng.uniform(0.3, 0.42)
    first = _soft(_zigzag(across + np.float32(rng.random()), period), pixel)
    second = _soft(_zigzag(down + np.float32(rng.random()), period), pixel)
    return first * second + (1 - first) * (1 - second), "checker"


def plain(x: Field) -> tuple[Field, str]:
    """No pattern at all."""
    return np.zeros_like(x), "plain"


def grain(rng: np.random.Generator, x: Field) -> tuple[Field, str]:
    """Irregular speckle of two scales."""
    size = x.shape[0]
    return np.clip(0.5 + 0.55 * noise(rng, size, (48, 48)) + 0.4 * noise(rng, size, (9, 9)), 0, 1), "grain"


def waves(rng: np.random.Generator, x: Field, y: Field) -> tuple[Field, str]:
    """Bent ripples."""
    size = x.shape[0]
    bend = np.float32(0.12) * noise(rng, size, (5, 5))
    across = y + bend + np.float32(0.06) * np.sin(x * np.float32(rng.uniform(4, 8)) + np.float32(rng.uniform(0, 6)))
    return np.float32(0.5) + np.float32(0.5) * np.sin(across * np.float32(rng.uniform(18, 30))), "waves"


def veins(rng: np.random.Generator, x: Field) -> tuple[Field, str]:
    """Long drawn-out fibres, upright or lying."""
    size = x.shape[0]
    lying = rng.random() < 0.5
    cells = [(40, 4), (12, 3)] if lying else [(4, 40), (3, 12)]
    fibres = noise(rng, size, cells[0]) + noise(rng, size, cells[1])
    return np.clip(np.float32(0.5) + np.float32(0.6) * fibres, 0, 1), "veins"


def bricks(rng: np.random.Generator, x: Field, y: Field, pixel: float) -> tuple[Field, str]:
    """Courses of bricks; the second colour is the mortar."""
    height = rng.uniform(0.24, 0.36)
    down = y / np.float32(height) + np.float32(rng.random())
    course = np.floor(down)
    across = x / np.float32(2.2 * height) + np.float32(0.5) * (course % 2) + np.float32(rng.random())
    to_joint = np.minimum(
        (0.5 - np.abs(down - course - 0.5)) * height, (0.5 - np.abs(across - np.floor(across) - 0.5)) * 2.2 * height
    )
    return _soft(np.asarray(0.025 - to_joint, np.float32), max(pixel, 0.02)), "bricks"


def weave(rng: np.random.Generator, x: Field, y: Field) -> tuple[Field, str]:
    """Threads over and under each other."""
    across, down = _turned(x, y, rng.uniform(-0.3, 0.3))
    rate = np.float32(rng.uniform(22, 32))
    return np.float32(0.5) + np.float32(0.5) * np.sin(across * rate) * np.sin(down * rate), "weave"
