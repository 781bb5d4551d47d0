"""Every kind of objective beside a slow version of its formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from pydantic import TypeAdapter

from onnxviz.core.values import Layer
from onnxviz.optimize.objectives import (
    Alignment,
    Caricature,
    Channel,
    ChannelInterpolation,
    Direction,
    Diversity,
    FeatureInversion,
    InputDifference,
    Neuron,
    NeuronDirection,
    Objective,
    ObjectiveChoice,
    ObjectiveContext,
    Seen,
    Style,
    WholeLayer,
    bind,
)

Arrays = Mapping[str, np.ndarray]
Reference = Callable[[Arrays, int], float]
"""From the batch's activations (and the images under "") and an image's index to its value."""

CHOICE: TypeAdapter[Objective] = TypeAdapter(ObjectiveChoice)
SHAPES = {"map": (5, 3, 4), "flat": (6,), "line": (3, 7), "cube": (2, 2, 3, 2), "one": (4, 1, 1)}
PICTURES = {
    (name, layer): torch.from_numpy(np.random.default_rng(len(name)).normal(size=shape).astype(np.float32))
    for name in ("cat", "house")
    for layer, shape in {**SHAPES, None: (3, 6, 8)}.items()
}
VECTOR = (0.5, -1.0, 2.0, 0.0, 0.25)


def place(group: int = 1, **layers: Layer) -> ObjectiveContext:
    return ObjectiveContext(torch.device("cpu"), group, SHAPES, layers, PICTURES)


def inputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "": draw.uniform(0.1, 0.9, (count, 3, 6, 8)),
        **{layer: draw.normal(size=(count, *shape)) for layer, shape in SHAPES.items()},
    }


def seen(arrays: Arrays, *, grad: bool = False) -> Seen:
    tensors = {name: torch.tensor(array, dtype=torch.float32, requires_grad=grad) for name, array in arrays.items()}
    return Seen(tensors.pop(""), tensors)


def measured(
    objectives: Sequence[Objective], arrays: Arrays, where: ObjectiveContext
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the values and what their sum changes by with each number of the images and activations."""
    look = seen(arrays, grad=True)
    values = bind(objectives, where)(look)
    leaves = {"": look.images, **look.activations}
    gradients = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
    found = {name: gradient.numpy() for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}
    return values.detach().numpy(), found


def slope(reference: Reference, arrays: Arrays, name: str, step: float = 1e-5) -> np.ndarray:
    """Return what the sum of a reference's values changes by, one number at a time."""
    result = np.zeros_like(arrays[name])
    for index in np.ndindex(arrays[name].shape):
        sides = []
        for sign in (1, -1):
            moved = {key: array.copy() for key, array in arrays.items()}
            moved[name][index] += sign * step
            sides.append(sum(reference(moved, image) for image in range(len(arrays[name]))))
        result[index] = (sides[0] - sides[1]) / (2 * step)
    return result


# The formulas, one image at a time, with loops.


def channel(layer: str, unit: int) -> Reference:
    return lambda arrays, image: float(arrays[layer][image, unit].mean())


def directed(activations: np.ndarray, vector: np.ndarray, power: float) -> float:
    """Return lucid's `_dot_cossim` of activations [units, positions] and a vector [units] or [units, positions]."""
    total = 0.0
    for position in range(activations.shape[1]):
        x, v = activations[:, position], vector if vector.ndim == 1 else vector[:, position]
        dot = sum(a * b for a, b in zip(x, v, strict=True))
        cosine = dot / (1e-4 + math.sqrt(sum(x * x))) / (1e-4 + math.sqrt(sum(v * v)))
        total += dot * max(0.1, cosine) ** power
    return total / activations.shape[1]


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def direction(layer: str, vector: Sequence[float], power: float) -> Reference:
    return lambda arrays, image: directed(flat(arrays[layer][image]), np.array(vector), power)


def diversity(layer: str, group: int) -> Reference:
    def value(arrays: Arrays, image: int) -> float:
        def gram(index: int) -> np.ndarray:
            features = flat(arrays[layer][index])
            outer = features @ features.T
            return outer / math.sqrt(max((outer**2).sum(), 1e-10))

        first = image - image % group
        others = [index for index in range(first, first + group) if index != image]
        return -sum(float((gram(image) * gram(other)).sum()) for other in others) / group

    return value


def alignment(layer: str, group: int, decay: float, reach: int) -> Reference:
    def value(arrays: Arrays, image: int) -> float:
        first, total = image - image % group, 0.0
        for other in range(first, first + group):
            if 0 < abs(image - other) <= reach:
                total += ((arrays[layer][image] - arrays[layer][other]) ** 2).mean() / decay ** abs(image - other)
        return -total / 2

    return value


def interpolation(group: int) -> Reference:
    def value(arrays: Arrays, image: int) -> float:
        weight = (image % group) / (group - 1)
        return float((1 - weight) * arrays["map"][image, 1].mean() + weight * arrays["line"][image, 2].mean())

    return value


def picture(name: str, layer: str | None) -> np.ndarray:
    return PICTURES[name, layer].double().numpy()


def inversion(arrays: Arrays, image: int) -> float:
    target = picture("cat", "map")
    return -float(((arrays["map"][image] - target) ** 2).sum() / (target**2).sum())


def style(arrays: Arrays, image: int) -> float:
    ours, theirs = flat(arrays["map"][image]), flat(picture("cat", "map"))
    units, positions = ours.shape
    total = 0.0
    for i in range(units):
        for j in range(units):
            total += (float(ours[i] @ ours[j]) - float(theirs[i] @ theirs[j])) ** 2
    return -total / (4 * units**2 * positions**2)


def caricature(power: float) -> Reference:
    return lambda arrays, image: directed(flat(arrays["map"][image]), flat(picture("cat", "map")), power)


def difference(arrays: Arrays, image: int) -> float:
    return math.sqrt(float(((arrays[""][image] - picture("cat", None)) ** 2).mean()))


MIXED = {3: 1.0, 0: -0.5}
SPARSE = [MIXED.get(unit, 0.0) for unit in range(5)]
CASES: dict[str, tuple[Objective, Reference, int]] = {
    "channel of a map": (Channel(layer="map", unit=2), channel("map", 2), 1),
    "channel without positions": (Channel(layer="flat", unit=5), channel("flat", 5), 1),
    "channel of a line": (Channel(layer="line", unit=1), channel("line", 1), 1),
    "channel of a cube": (Channel(layer="cube", unit=1), channel("cube", 1), 1),
    "channel in a box": (
        Channel(layer="map", unit=2, box=(0.0, 0.5, 0.7, 1.0)),
        lambda a, i: float(a["map"][i, 2, :2, 2:].mean()),
        1,
    ),
    "neuron of a map": (Neuron(layer="map", unit=4), lambda a, i: float(a["map"][i, 4, 1, 2]), 1),
    "neuron without positions": (Neuron(layer="flat", unit=4), lambda a, i: float(a["flat"][i, 4]), 1),
    "neuron of a line": (
        Neuron(layer="line", unit=0, position=(6,)),
        lambda a, i: float(a["line"][i, 0, 6]),
        1,
    ),
    "neuron of a cube": (Neuron(layer="cube", unit=0), lambda a, i: float(a["cube"][i, 0, 1, 1, 1]), 1),
    "layer": (WholeLayer(layer="map"), lambda a, i: float((a["map"][i] ** 2).mean()), 1),
    "layer in a box": (
        WholeLayer(layer="map", box=(0.3, 0, 1, 0.4)),
        lambda a, i: float((a["map"][i, :, 1:, :2] ** 2).mean()),
        1,
    ),
    "direction": (Direction(layer="map", vector=VECTOR), direction("map", VECTOR, 0), 1),
    "direction with cosine": (
        Direction(layer="map", vector=VECTOR, cosine_power=2),
        direction("map", VECTOR, 2),
        1,
    ),
    "direction of few units": (
        Direction(layer="map", units=MIXED, cosine_power=1.5),
        direction("map", SPARSE, 1.5),
        1,
    ),
    "direction without positions": (
        Direction(layer="flat", units={1: 2.0}, cosine_power=1),
        direction("flat", [0, 2, 0, 0, 0, 0], 1),
        1,
    ),
    "direction of one neuron": (
        NeuronDirection(layer="map", vector=VECTOR, cosine_power=2, position=(2, 0)),
        lambda a, i: directed(a["map"][i, :, 2, 0][:, None], np.array(VECTOR), 2),
        1,
    ),
    "direction of the centre": (
        NeuronDirection(layer="cube", units={1: 1.0}),
        lambda a, i: float(a["cube"][i, 1, 1, 1, 1]),
        1,
    ),
    "diversity by grams": (Diversity(layer="map"), diversity("map", 3), 3),
    "diversity of few positions": (Diversity(layer="flat"), diversity("flat", 3), 3),
    "alignment": (Alignment(layer="map"), alignment("map", 3, 2, 4), 3),
    "alignment of images": (Alignment(decay=3, reach=1), alignment("", 3, 3, 1), 3),
    "interpolation": (
        ChannelInterpolation(layer="map", unit=1, to_layer="line", to_unit=2),
        interpolation(3),
        3,
    ),
    "inversion": (FeatureInversion(layer="map", picture="cat"), inversion, 1),
    "caricature": (Caricature(layer="map", picture="cat"), caricature(0), 1),
    "caricature with cosine": (Caricature(layer="map", picture="cat", cosine_power=3), caricature(3), 1),
    "style": (Style(layer="map", picture="cat"), style, 1),
    "difference": (InputDifference(picture="cat"), difference, 1),
    "sum": (
        Channel(layer="map", unit=1) - 0.5 * Neuron(layer="line", unit=0, position=(1,)),
        lambda a, i: float(a["map"][i, 1].mean() - 0.5 * a["line"][i, 0, 1]),
        1,
    ),
    "product of a sum": (
        2 * (Channel(layer="map", unit=1) * (0.5 * Channel(layer="flat", unit=0) + WholeLayer(layer="line"))),
        lambda a, i: float(2 * a["map"][i, 1].mean() * (0.5 * a["flat"][i, 0] + (a["line"][i] ** 2).mean())),
        1,
    ),
    "sum with diversity": (
        Channel(layer="map", unit=1) + 3 * Diversity(layer="map"),
        lambda a, i: float(a["map"][i, 1].mean() + 3 * diversity("map", 3)(a, i)),
        3,
    ),
}
