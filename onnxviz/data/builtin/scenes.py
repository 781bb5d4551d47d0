"""A procedural data set: scenes of shapes in which every pixel is labelled.

Each scene shows one main object before a backdrop, with smaller things lying about. The main object is one of five
shapes with one of three textures, which makes fifteen classes; its colours, its material, the backdrop and the light
have nothing to do with the class. Every pixel carries a shape, a part, a texture, a material and a colour. A scene
follows from the seed, the split and its index alone, and is the same picture at every size.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxviz.core.errors import DataError
from onnxviz.core.values import Preprocessing
from onnxviz.data.builtin.outlines import PARTS, SHAPES, Shape, parts
from onnxviz.data.builtin.surfaces import (
    BACKDROPS,
    OBJECT_MATERIALS,
    PALETTE,
    PATTERNS,
    STRIPES,
    Backdrop,
    Light,
    lamp,
    lit,
    noise,
    relief,
    shade_of,
)
from onnxviz.data.concepts import Concept

SIZE = 64
"""Side in pixels of the scenes that the built-in models learned from."""
PREPROCESSING = Preprocessing("RGB", (127.5,), (127.5,), crop_fraction=1.0, size=(SIZE, SIZE), name="scenes")
"""How a picture becomes a built-in model's input."""

VERSION = 1
"""Of the generator: raise it when any pixel or label changes."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

CATEGORIES = ("shape", "part", "texture", "material", "colour")
MAIN_SHAPES = ("circle", "square", "triangle", "star", "ring")
MAIN_TEXTURES = ("striped", "dotted", "checkered")
CLASSES = tuple(f"{texture} {shape}" for shape in MAIN_SHAPES for texture in MAIN_TEXTURES)
"""Class names, in the order of the built-in models' logits."""

_NAMES: dict[str, tuple[str, ...]] = {
    "shape": ("backdrop", *SHAPES),
    "part": ("wall", "floor", "shadow", "highlight", *PARTS),
    "texture": ("plain", "dots", "checker", *STRIPES, "grain", "waves", "veins", "bricks", "weave"),
    "material": (*OBJECT_MATERIALS, *(backdrop.material for backdrop in BACKDROPS)),
    "colour": tuple(PALETTE),
}
CONCEPTS: tuple[Concept, ...] = tuple(
    Concept(index, name, category)
    for index, (category, name) in enumerate(
        ((category, name) for category in CATEGORIES for name in _NAMES[category]), start=1
    )
)
_INDEX = {(concept.category, concept.name): concept.index for concept in CONCEPTS}
_PART_INDEX = np.array([_INDEX["part", name] for name in PARTS], np.int32)
_SHAPE, _PART, _TEXTURE, _MATERIAL, _COLOUR = range(len(CATEGORIES))

Field = NDArray[np.float32]
Window = tuple[slice, slice]


class _Scene:
    """One scene while it is drawn."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.pixel = 2 / size
        places = ((np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1).astype(np.float32)
        self.x, self.y = np.broadcast_to(places, (size, size)), np.broadcast_to(places[:, None], (size, size))
        self.picture: Field = np.empty((size, size, 3), np.float32)
        self.labels = np.empty((len(CATEGORIES), size, size), np.int32)
        self.light: Light = lamp(rng)

    def backdrop(self) -> str:
        """Draw the wall and, in four of ten scenes, a floor before it; return the wall's colour."""
        rng = self.rng
        colour = self._surface(BACKDROPS[rng.integers(len(BACKDROPS))], slice(0, self.size), "wall")
        has_floor, horizon = rng.random() < 0.4, rng.uniform(0.15, 0.7)
        kind = BACKDROPS[rng.integers(len(BACKDROPS))]
        if has_floor:
            top = round((horizon + 1) / self.pixel)
            self._surface(kind, slice(min(top, self.size - 1), self.size), "floor")
        across, down = rng.uniform(-0.16, 0.16, 2)
        glow = 1 + np.float32(across) * self.x + np.float32(down) * self.y
        glow -= np.float32(0.1) * (self.x * self.x + self.y * self.y)
        self.picture *= glow[..., None]
        return colour

    def _surface(self, kind: Backdrop, rows: slice, part: str) -> str:
        rng = self.rng
        colour = kind.colours[rng.integers(len(kind.colours))]
        base = shade_of(rng, colour)
        pattern, texture = PATTERNS[kind.texture](rng, self.x, self.y, self.pixel)
        contrast = np.float32(kind.contrast * rng.uniform(0.6, 1.0))
        other = base * (1 - contrast) if base.mean() > 0.35 else base + (np.float32(0.85) - base) * contrast
        mixed = base + pattern[rows, :, None] * (other - base)
        uneven = np.float32(1) + np.float32(0.07) * noise(rng, self.size, (24, 24))
        self.picture[rows] = mixed * uneven[rows, :, None] * np.float32(rng.uniform(0.82, 1.0))
        for layer, name in ((_SHAPE, "backdrop"), (_PART, part), (_TEXTURE, texture), (_MATERIAL, kind.material)):
            self.labels[layer, rows] = _INDEX[CATEGORIES[layer], name]
        self.labels[_COLOUR, rows] = _INDEX["colour", colour]
        return colour

    def _window(self, centre: tuple[float, float], reach: float) -> Window:
        edges = [((place - reach + 1) / self.pixel, (place + reach + 1) / self.pixel) for place in centre]
        across, down = (slice(max(0, int(low) - 1), min(self.size, int(high) + 2)) for low, high in edges)
        return down, across

    def thing(
        self,
        shape: Shape,
        texture: str,
        centre: tuple[float, float],
        radius: float,
        turn: float,
        colours: tuple[str, str],
    ) -> None:
        """Draw one body with its shadow, and label what it covers."""
        rng = self.rng
        shadow = rng.uniform(0.1, 0.2) * radius + 0.02
        window = self._window(centre, radius * 1.25 + 2 * shadow)
        x, y = (self.x[window] - np.float32(centre[0])), (self.y[window] - np.float32(centre[1]))
        cosine, sine = np.float32(np.cos(turn) / radius), np.float32(np.sin(turn) / radius)
        own_x, own_y = cosine * x + sine * y, cosine * y - sine * x
        depth = shape.distance(own_x, own_y)
        distance = depth * np.float32(radius)
        coverage = np.clip(0.5 - distance * np.float32(1 / self.pixel), 0, 1)
        picture, labels = self.picture[window], self.labels[(slice(None), *window)]
        self._shadow(shape, (x, y), (cosine, sine), shadow, radius, coverage, picture, labels)

        pattern, name = PATTERNS[texture](rng, x, y, self.pixel)
        first, second = (shade_of(rng, colour) for colour in colours)
        albedo = first + pattern[..., None] * (second - first)
        material = OBJECT_MATERIALS[rng.choice(4, p=(0.3, 0.3, 0.22, 0.18))]
        bevel = radius * rng.uniform(0.25, 0.6 if shape.hole else 0.9)
        seen, highlight = lit(material, albedo, relief(distance, self.pixel, bevel), self.light, picture)
        picture += coverage[..., None] * (seen - picture)

        inside = coverage > 0.5
        which = parts(shape, own_x, own_y, depth)
        part = np.where(which >= 0, _PART_INDEX[which], labels[_PART])
        labels[_PART] = np.where(inside & (highlight > 0.4), _INDEX["part", "highlight"], part)
        labels[_SHAPE][inside] = _INDEX["shape", shape.name]
        labels[_TEXTURE][inside] = _INDEX["texture", name]
        labels[_MATERIAL][inside] = _INDEX["material", material]
        colour = np.where(pattern > 0.5, _INDEX["colour", colours[1]], _INDEX["colour", colours[0]])
        colour[highlight > 0.55] = _INDEX["colour", "white"]
        labels[_COLOUR][inside] = colour[inside]

    def _shadow(
        self,
        shape: Shape,
        place: tuple[Field, Field],
        turn: tuple[np.float32, np.float32],
        length: float,
        radius: float,
        coverage: Field,
        picture: Field,
        labels: NDArray[np.int32],
    ) -> None:
        """Darken what lies on the far side of a body from the lamp."""
        (x, y), (cosine, sine) = place, turn
        x = x + np.float32(self.light.direction[0] * 1.6 * length)
        y = y + np.float32(self.light.direction[1] * 1.6 * length)
        distance = shape.distance(cosine * x + sine * y, cosine * y - sine * x) * np.float32(radius)
        softness = np.float32(1 / max(length, self.pixel))
        depth = np.clip(0.5 - distance * softness, 0, 1) * np.float32(self.rng.uniform(0.4, 0.65))
        picture *= (1 - depth)[..., None]
        labels[_PART][(depth > 0.2) & (coverage <= 0.5)] = _INDEX["part", "shadow"]


def _contrasting(rng: np.random.Generator, others: tuple[str, ...], least: float) -> str:
    """Pick a colour that is at least this far from each of the others, RGB distance."""
    middles = [np.array(PALETTE[name]) for name in others]
    names = [
        name
        for name, middle in PALETTE.items()
        if all(float(np.linalg.norm(middle - other)) >= least for other in middles)
    ]
    return names[rng.integers(len(names))]


def _draw(seed: int, split: str, index: int, size: int) -> _Scene:
    """Draw one scene; every random number is independent of the size."""
    rng = np.random.default_rng([VERSION, seed, SPLITS.index(split), index])
    scene = _Scene(rng, size)
    behind = scene.backdrop()
    radius = rng.uniform(0.46, 0.76)
    reach = 0.92 - radius
    centre = (rng.uniform(-reach, reach), rng.uniform(-reach, reach))
    count = int(rng.integers(1, 5))
    before = rng.random() < 0.35
    for position in range(count):
        if position == count - 1 and before:
            _main(scene, index, centre, radius, behind)
        _pebble(scene, centre, radius, over=position == count - 1 and before)
    if not before:
        _main(scene, index, centre, radius, behind)
    return scene


def _main(scene: _Scene, index: int, centre: tuple[float, float], radius: float, behind: str) -> None:
    rng = scene.rng
    texture, shape = CLASSES[index % len(CLASSES)].split()
    first = _contrasting(rng, (behind,), 0.35)
    second = _contrasting(rng, (first,), 0.6)
    scene.thing(SHAPES[shape], texture, centre, radius, rng.uniform(-0.4, 0.4), (first, second))


def _pebble(scene: _Scene, main: tuple[float, float], radius: float, *, over: bool) -> None:
    """Draw a small plain thing; one that may cover the main object lies at its border."""
    rng = scene.rng
    shape = SHAPES[("cross", "hexagon", "circle")[rng.integers(3)]]
    size = rng.uniform(0.09, 0.2)
    turn = rng.uniform(0, 2 * np.pi)
    centre = (rng.uniform(-0.95, 0.95), rng.uniform(-0.95, 0.95))
    if over:
        centre = (main[0] + radius * float(np.cos(turn)), main[1] + radius * float(np.sin(turn)))
    colour = tuple(PALETTE)[rng.integers(len(PALETTE))]
    scene.thing(shape, "plain", centre, size, turn, (colour, colour))


class SceneSet:
    """Scenes with a label for every pixel: a concept set and an image source that needs no files."""

    def __init__(self, count: int, seed: int, size: int, split: Split) -> None:
        self.count, self.seed, self.size, self.split = count, seed, size, split
        self.name = f"scenes ({split}, seed {seed})"
        self.names: tuple[str, ...] = tuple(f"scene {index:05d}" for index in range(count))
        self.concepts = CONCEPTS
        self.categories: tuple[str, ...] = CATEGORIES
        parameters = {"scenes": VERSION, "count": count, "seed": seed, "size": size, "split": split}
        self.digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
        self._last: tuple[int, _Scene] | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each scene in pixels."""
        return ((self.size, self.size),) * self.count

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the picture of one scene, RGB [H, W, 3]; raises DataError for an index out of range."""
        picture = np.clip(self._scene(index).picture, 0, 1)
        return np.asarray(np.round(picture * 255), np.uint8)

    def read_labels(self, index: int) -> NDArray[np.int32]:
        """Return the concept of every pixel in every category, [category, H, W]; raises DataError as `read`."""
        return self._scene(index).labels.copy()

    def class_of(self, index: int) -> str:
        """Return the class of one scene's main object, one of `CLASSES`; raises DataError as `read`."""
        self._in_range(index)
        return CLASSES[index % len(CLASSES)]

    def _in_range(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise DataError(
                f"there is no scene {index}; they are numbered 0 to {self.count - 1}",
                where=self.name,
                remedy="choose an index in that range or ask for more scenes with `count`",
            )

    def _scene(self, index: int) -> _Scene:
        """Draw a scene, or return it if it was the last one drawn: picture and labels are often read in turn."""
        self._in_range(index)
        last = self._last
        if last is None or last[0] != index:
            last = (index, _draw(self.seed, self.split, index, self.size))
            self._last = last
        return last[1]
