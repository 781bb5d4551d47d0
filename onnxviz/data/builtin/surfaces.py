"""Surfaces of the built-in scenes: their patterns, colours and materials, and how light falls on them.

A pattern says how much of its second colour each place shows, 0 to 1, antialiased at any resolution. Coordinates run
from -1 to 1 over the scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    """Straight stripes in one of four directions, give or take 14 degrees."""
    direction = int(rng.integers(4))
    angle = -direction * np.pi / 4 + rng.uniform(-0.25, 0.25)
    _, across = _turned(x, y, angle)
    period = rng.uniform(0.2, 0.32)
    return _soft(_zigzag(across + np.float32(rng.random()), period), pixel), STRIPES[direction]


def dots(rng: np.random.Generator, x: Field, y: Field, pixel: float) -> tuple[Field, str]:
    """Round dots on a square lattice, turned by any angle."""
    across, down = _turned(x, y, rng.uniform(0, np.pi / 2))
    pitch = rng.uniform(0.22, 0.3)
    start, step = np.float32(rng.random()), np.float32(pitch)
    across, down = across / step + start, down / step
    across -= np.round(across)
    down -= np.round(down)
    distance = np.float32(rng.uniform(0.27, 0.36)) - np.sqrt(across * across + down * down)
    return _soft(distance * np.float32(pitch), pixel), "dots"


def checker(rng: np.random.Generator, x: Field, y: Field, pixel: float) -> tuple[Field, str]:
    """A checkerboard turned by up to 30 degrees."""
    across, down = _turned(x, y, rng.uniform(-0.5, 0.5))
    period = rng.uniform(0.3, 0.42)
    first = _soft(_zigzag(across + np.float32(rng.random()), period), pixel)
    second = _soft(_zigzag(down + np.float32(rng.random()), period), pixel)
    return first * second + (1 - first) * (1 - second), "checker"


def plain(_rng: np.random.Generator, x: Field, _y: Field, _pixel: float) -> tuple[Field, str]:
    """No pattern at all."""
    return np.zeros_like(x), "plain"


def grain(rng: np.random.Generator, x: Field, _y: Field, _pixel: float) -> tuple[Field, str]:
    """Irregular speckle of two scales."""
    size = x.shape[0]
    return np.clip(0.5 + 0.55 * noise(rng, size, (48, 48)) + 0.4 * noise(rng, size, (9, 9)), 0, 1), "grain"


def waves(rng: np.random.Generator, x: Field, y: Field, _pixel: float) -> tuple[Field, str]:
    """Bent ripples."""
    size = x.shape[0]
    bend = np.float32(0.12) * noise(rng, size, (5, 5))
    across = y + bend + np.float32(0.06) * np.sin(x * np.float32(rng.uniform(4, 8)) + np.float32(rng.uniform(0, 6)))
    return np.float32(0.5) + np.float32(0.5) * np.sin(across * np.float32(rng.uniform(18, 30))), "waves"


def veins(rng: np.random.Generator, x: Field, _y: Field, _pixel: float) -> tuple[Field, str]:
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


def weave(rng: np.random.Generator, x: Field, y: Field, _pixel: float) -> tuple[Field, str]:
    """Threads over and under each other."""
    across, down = _turned(x, y, rng.uniform(-0.3, 0.3))
    rate = np.float32(rng.uniform(22, 32))
    return np.float32(0.5) + np.float32(0.5) * np.sin(across * rate) * np.sin(down * rate), "weave"


PATTERNS: dict[str, Callable[[np.random.Generator, Field, Field, float], tuple[Field, str]]] = {
    "striped": stripes,
    "dotted": dots,
    "checkered": checker,
    "plain": plain,
    "grain": grain,
    "waves": waves,
    "veins": veins,
    "bricks": bricks,
    "weave": weave,
}
"""What draws a texture, [H, W], and says what it is called, of random numbers, both coordinates and a pixel's side."""

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.12, 0.12),
    "orange": (0.96, 0.52, 0.10),
    "yellow": (0.97, 0.86, 0.16),
    "green": (0.16, 0.62, 0.22),
    "cyan": (0.16, 0.74, 0.78),
    "blue": (0.12, 0.26, 0.82),
    "purple": (0.52, 0.18, 0.68),
    "pink": (0.95, 0.56, 0.72),
    "brown": (0.44, 0.27, 0.14),
    "white": (0.95, 0.95, 0.93),
    "grey": (0.52, 0.52, 0.53),
    "black": (0.08, 0.08, 0.10),
}
"""Colour names with their middle, RGB in 0..1; a surface has one within ±0.06 of it."""

OBJECT_MATERIALS = ("matte", "glossy", "metal", "glass")
"""Materials of things; those of the backdrop are in `BACKDROPS`."""


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A surface things stand on: its material, its texture, the colours it comes in and how strong the texture is."""

    material: str
    texture: str
    colours: tuple[str, ...]
    contrast: float


BACKDROPS = (
    Backdrop("paper", "plain", ("white", "grey", "yellow", "pink", "cyan", "green", "blue", "orange"), 0.0),
    Backdrop("stone", "grain", ("grey", "white", "brown", "black"), 0.55),
    Backdrop("water", "waves", ("blue", "cyan", "green"), 0.5),
    Backdrop("wood", "veins", ("brown", "orange", "yellow"), 0.5),
    Backdrop("brick", "bricks", ("red", "brown", "orange", "white"), 0.6),
    Backdrop("fabric", "weave", ("red", "green", "blue", "purple", "pink", "white", "grey"), 0.45),
)


@dataclass(frozen=True, slots=True)
class Light:
    """A distant lamp: the unit vector towards it (right, down, out of the picture) and the light from everywhere."""

    direction: tuple[float, float, float]
    ambient: float


def shade_of(rng: np.random.Generator, name: str) -> Field:
    """Return one shade of a named colour, RGB [3]."""
    return np.clip(np.array(PALETTE[name], np.float32) + rng.uniform(-0.06, 0.06, 3).astype(np.float32), 0, 1)


def lamp(rng: np.random.Generator) -> Light:
    """Return a lamp somewhere above the scene."""
    angle = rng.uniform(-2.6, -0.55)
    height = rng.uniform(0.5, 0.8)
    flat = np.sqrt(1 - height * height)
    return Light((float(flat * np.cos(angle)), float(flat * np.sin(angle)), float(height)), rng.uniform(0.38, 0.55))


def relief(distance: Field, step: float, bevel: float) -> tuple[Field, Field, Field]:
    """Return the normals of a body that rises from its outline over a width `bevel`, to the right, down, and outwards.

    The distance to the outline, negative inside, and each result are [H, W]; `step` lies between pixels.
    """
    down, across = np.gradient(distance, np.float32(step))
    slope = np.clip(1 + distance * np.float32(1 / bevel), 0, 0.94)
    across, down = across * slope, down * slope
    return across, down, np.sqrt(np.maximum(1 - across * across - down * down, np.float32(0.05)))


def lit(
    material: str, albedo: Field, normals: tuple[Field, Field, Field], light: Light, behind: Field
) -> tuple[Field, Field]:
    """Light a body: Lambert's law and a Blinn-Phong highlight, reflections for metal, what lies behind for glass.

    Colours are RGB [H, W, 3]; the highlight's strength, returned beside them, is [H, W] in 0..1.
    """
    across, down, out = normals
    right, below, front = light.direction
    facing = np.maximum(across * np.float32(right) + down * np.float32(below) + out * np.float32(front), 0)
    half = np.sqrt(right * right + below * below + (front + 1) ** 2)
    mirror = np.maximum((across * right + down * below + out * (front + 1)) * np.float32(1 / half), 0)
    diffuse = np.float32(light.ambient) + np.float32(0.82 * (1 - light.ambient) + 0.18) * facing
    if material == "metal":
        sky = np.float32(0.5) + np.float32(0.5) * np.sin(down * np.float32(5.5) + across * np.float32(1.5))
        colour = albedo * (np.float32(0.35) + np.float32(0.85) * sky * diffuse)[..., None]
        strength, sharpness = 0.75, 18
    elif material == "glass":
        rim = np.float32(0.5) + np.float32(0.4) * (1 - out)
        colour = albedo * (diffuse * np.float32(1.1))[..., None]
        colour = colour * rim[..., None] + behind * (1 - rim)[..., None]
        strength, sharpness = 0.95, 60
    else:
        colour = albedo * diffuse[..., None]
        strength, sharpness = (0.9, 36) if material == "glossy" else (0.0, 1)
    highlight = np.float32(strength) * np.asarray(mirror**sharpness, np.float32)
    return colour + (1 - colour) * highlight[..., None], highlight
