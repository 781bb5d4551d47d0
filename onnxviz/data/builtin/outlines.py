"""Outlines of the built-in scenes: signed distances to shapes, and the parts that the shapes have.

Coordinates are those of the shape: the origin is its centre, the radius of the circle around it is 1, y points down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def _polygon(directions: int, inner: float) -> Callable[[Field, Field], Field]:
    """A regular convex polygon with one corner pointing up, as the largest of the distances to its sides."""
    angles = np.pi / 2 + np.pi * (2 * np.arange(directions) + 1) / directions
    normals = [(float(np.cos(angle)), float(-np.sin(angle))) for angle in angles]

    def distance(x: Field, y: Field) -> Field:
        result = x * np.float32(normals[0][0]) + y * np.float32(normals[0][1])
        for across, down in normals[1:]:
            np.maximum(result, x * np.float32(across) + y * np.float32(down), out=result)
        return result - np.float32(inner)

    return distance


def _circle(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y) - np.float32(0.92)


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.68)) - np.float32(0.31)


def _square(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)


def _cross(x: Field, y: Field) -> Field:
    across, down = np.abs(x), np.abs(y)
    arm = np.float32(0.3)
    return np.maximum(np.minimum(across, down) - arm, np.maximum(across, down) - np.float32(0.9))


def _star(x: Field, y: Field) -> Field:
    """A five-pointed star: the angle is folded into half of one point, whose outline is one straight side."""
    tip, notch = 1.08, 0.52
    radius = np.sqrt(x * x + y * y)
    sector = np.float32(2 * np.pi / 5)
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - sector * np.round(angle / sector))
    across, up = radius * np.sin(folded), radius * np.cos(folded)
    notch_across, notch_up = notch * np.sin(np.pi / 5), notch * np.cos(np.pi / 5)
    side = np.hypot(notch_across, tip - notch_up)
    normal_across, normal_up = (tip - notch_up) / side, notch_across / side
    distance = across * np.float32(normal_across) + (up - np.float32(tip)) * np.float32(normal_up)
    return np.asarray(distance, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Shape:
    """One outline.

    Attributes:
        name: the concept's name.
        distance: signed distance in radii, negative inside.
        corners: where the corners lie, as (x, y).
        corner_part: the name of the part at the corners.
        hole: radius of the hole in the middle, 0 if there is none.
    """

    name: str
    distance: Callable[[Field, Field], Field]
    corners: tuple[tuple[float, float], ...] = ()
    corner_part: str = "corner"
    hole: float = 0.0


def _around(count: int, radius: float, start: float = 0.0) -> tuple[tuple[float, float], ...]:
    turns = (start + np.arange(count) / count) * 2 * np.pi
    return tuple((float(radius * np.sin(turn)), float(-radius * np.cos(turn))) for turn in turns)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("circle", _circle),
        Shape("square", _square, corners=_around(4, 1.13, 0.125)),
        Shape("triangle", _polygon(3, 0.56), corners=_around(3, 1.12)),
        Shape("star", _star, corners=_around(5, 1.08), corner_part="point"),
        Shape("ring", _ring, hole=0.37),
        Shape("cross", _cross),
        Shape("hexagon", _polygon(6, 0.85)),
    )
}


def parts(shape: Shape, x: Field, y: Field, distance: Field) -> NDArray[np.int8]:
    """Say which part of the shape each place belongs to, by coordinates in radii and the shape's distance, all [H, W].

    Returns indices into `PARTS`, [H, W]; places outside the shape that are not its hole have -1.
    """
    result = np.full(distance.shape, -1, np.int8)
    inside = distance < 0
    result[inside] = PARTS.index("body")
    result[inside & (distance > -0.16)] = PARTS.index("edge")
    for across, down in shape.corners:
        near = inside & ((x - np.float32(across)) ** 2 + (y - np.float32(down)) ** 2 < np.float32(0.16))
        result[near] = PARTS.index(shape.corner_part)
    if shape.hole:
        result[(x * x + y * y) < np.float32(shape.hole**2)] = PARTS.index("hole")
    return result


PARTS = ("body", "edge", "corner", "point", "hole")
