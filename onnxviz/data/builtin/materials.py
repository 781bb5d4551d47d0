"""Colours and materials of the built-in scenes, and how light falls on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

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
    """Normals of a body that rises from its outline over a width `bevel`; both lengths as the distance's unit.

    Args:
        distance: signed distance to the outline, negative inside, [H, W].
        step: distance between neighbouring pixels.
        bevel: width of the slope.

    Returns:
        The normals' components to the right, down, and out of the picture, each [H, W].
    """
    down, across = np.gradient(distance, np.float32(step))
    slope = np.clip(1 + distance * np.float32(1 / bevel), 0, 0.94)
    across, down = across * slope, down * slope
    return across, down, np.sqrt(np.maximum(1 - across * across - down * down, np.float32(0.05)))


def lit(
    material: str, albedo: Field, normals: tuple[Field, Field, Field], light: Light, behind: Field
) -> tuple[Field, Field]:
    """Light a body: Lambert's law and a Blinn-Phong highlight, reflections for metal, what lies behind for glass.

    Args:
        material: one of `OBJECT_MATERIALS`.
        albedo: its own colours, RGB [H, W, 3].
        normals: components of the surface normals, each [H, W].
        light: the lamp.
        behind: the picture without the body, RGB [H, W, 3].

    Returns:
        Its colours as seen, [H, W, 3], and the strength of the highlight, 0 to 1, [H, W].
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
