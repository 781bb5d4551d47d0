"""Objectives against slow versions of their formulas: values, gradients, and that images keep to themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import parser
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from onnxviz.errors import AnalysisError, SelectionError
from onnxviz.graph import GraphView, open_model
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
    Place,
    Product,
    Seen,
    Style,
    Sum,
    WholeLayer,
    bind,
    centre,
    objective_of,
)
from onnxviz.recipe_faults import check
from onnxviz.source import read_source
from onnxviz.values import PRESETS, Layer, Target, Tokens

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


def place(group: int = 1, **layers: Layer) -> Place:
    return Place(torch.device("cpu"), group, SHAPES, layers, PICTURES)


def inputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "": draw.uniform(0.1, 0.9, (count, 3, 6, 8)),
        **{layer: draw.normal(size=(count, *shape)) for layer, shape in SHAPES.items()},
    }


def seen(arrays: Arrays, *, grad: bool = False) -> Seen:
    tensors = {name: torch.tensor(array, dtype=torch.float32, requires_grad=grad) for name, array in arrays.items()}
    return Seen(tensors.pop(""), tensors)


def measured(objectives: Sequence[Objective], arrays: Arrays, where: Place) -> tuple[np.ndarray, dict[str, np.ndarray]]:
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


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_follow_the_formula(case: str) -> None:
    objective, reference, group = CASES[case]
    count = 6 if group == 3 else 3
    arrays = inputs(count)
    values, gradients = measured([objective] * count, arrays, place(group))
    np.testing.assert_allclose(values, [reference(arrays, image) for image in range(count)], rtol=1e-4, atol=1e-6)
    assert set(gradients) == set(objective.layers() or [""])
    for name, got in gradients.items():
        expected = slope(reference, arrays, name)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5 * max(1.0, np.abs(expected).max()))


def many_kinds() -> list[Objective]:
    """One objective for each image of a batch, kinds mixed, in no order."""
    return [
        Channel(layer="map", unit=3, weight=-2),
        Neuron(layer="map", unit=1),
        Channel(layer="map", unit=0),
        Direction(layer="map", random=1),
        Channel(layer="flat", unit=2),
        Neuron(layer="map", unit=0, position=(0, 3)),
        Direction(layer="map", random=2, weight=0.5),
        Direction(layer="map", random=2, cosine_power=2),
        FeatureInversion(layer="map", picture="house"),
        FeatureInversion(layer="map", picture="cat"),
        Channel(layer="map", unit=1, box=(0, 0, 0.5, 0.5)),
        Channel(layer="map", unit=1, box=(0.5, 0, 1, 1)),
        Channel(layer="map", unit=1) * Channel(layer="flat", unit=0),
        Style(layer="map", picture="house"),
        InputDifference(picture="house"),
        InputDifference(picture="cat"),
        Caricature(layer="map", picture="house", cosine_power=1),
        Caricature(layer="map", picture="cat", cosine_power=1),
        Channel(layer="map", unit=1) + Channel(layer="flat", unit=0),
        Channel(layer="map", unit=2) - 3 * Channel(layer="flat", unit=1),
    ]


def test_each_image_of_a_mixed_batch_gets_what_it_gets_alone() -> None:
    objectives = many_kinds()
    arrays = inputs(len(objectives), seed=4)
    values, gradients = measured(objectives, arrays, place())
    for image, objective in enumerate(objectives):
        alone, own = measured([objective], {key: array[image : image + 1] for key, array in arrays.items()}, place())
        assert alone[0] == values[image], objective.title()
        for name, gradient in own.items():
            np.testing.assert_array_equal(gradient[0], gradients[name][image])


def test_groups_do_not_see_each_other() -> None:
    objectives = [
        *[Channel(layer="map", unit=1) + Diversity(layer="map")] * 3,
        *[Alignment(layer="map")] * 3,
        *[Channel(layer="map", unit=2) + 0.1 * Diversity(layer="map")] * 3,
        *[ChannelInterpolation(layer="map", unit=1, to_unit=0)] * 3,
        *[Alignment(layer="map")] * 3,
    ]
    arrays = inputs(15)
    values, gradients = measured(objectives, arrays, place(3))
    for first in range(0, 15, 3):
        part = slice(first, first + 3)
        alone, own = measured(objectives[part], {key: array[part] for key, array in arrays.items()}, place(3))
        np.testing.assert_allclose(alone, values[part], rtol=1e-6)
        np.testing.assert_allclose(own["map"], gradients["map"][part], rtol=1e-5, atol=1e-7)
    arrays["map"][3] = 100.0
    changed = measured(objectives, arrays, place(3))[0] != values
    assert np.flatnonzero(changed).tolist() == [3, 4, 5]


def test_diversity_is_the_same_by_either_way() -> None:
    """Few positions go by the products between positions, many by Gram matrices: here the same numbers by both."""
    draw = np.random.default_rng(0)
    few = draw.normal(size=(4, 40, 2, 2))
    by_positions = bind([Diversity(layer="map")] * 4, Place(torch.device("cpu"), 4, {"map": (40, 2, 2)}))
    padded = np.concatenate([few.reshape(4, 40, 4), np.zeros((4, 40, 40))], axis=2)
    by_grams = bind([Diversity(layer="map")] * 4, Place(torch.device("cpu"), 4, {"map": (40, 44)}))
    one = by_positions(Seen(torch.zeros(4, 3, 2, 2), {"map": torch.from_numpy(few)}))
    other = by_grams(Seen(torch.zeros(4, 3, 2, 2), {"map": torch.from_numpy(padded)}))
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5)
    assert -0.75 <= float(one.min()) < float(one.max()) < 0


def test_silent_layers_and_perfect_matches_have_gradients_that_are_numbers() -> None:
    arrays = inputs(2)
    silent = {key: np.zeros_like(array) for key, array in arrays.items()}
    silent[""] = np.stack([picture("cat", None)] * 2)
    objectives = [
        Direction(layer="map", vector=VECTOR, cosine_power=2),
        NeuronDirection(layer="map", vector=VECTOR, cosine_power=2),
        Diversity(layer="map"),
        Alignment(layer="map"),
        Caricature(layer="map", picture="cat", cosine_power=2),
        Style(layer="map", picture="cat"),
        InputDifference(picture="cat"),
    ]
    for objective in objectives:
        values, gradients = measured([objective] * 2, silent, place(2))
        assert np.isfinite(values).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients.values()), objective.words()
    assert measured([InputDifference(picture="cat")], {k: a[:1] for k, a in silent.items()}, place())[0] == 0


def test_half_precision_is_added_up_in_float32() -> None:
    values = torch.full((1, 2, 100, 100), 0.1, dtype=torch.bfloat16)
    where = Place(torch.device("cpu"), 1, {"map": (2, 100, 100)})
    for objective in (Channel(layer="map", unit=0), Direction(layer="map", units={0: 1}), WholeLayer(layer="map")):
        result = bind([objective], where)(Seen(torch.zeros(1, 3, 4, 4), {"map": values}))
        assert result.dtype == torch.float32
        exact = float(values[0, 0, 0, 0])
        assert float(result) == pytest.approx(exact**2 if isinstance(objective, WholeLayer) else exact, rel=1e-5)


class _Operators(TorchDispatchMode):
    """Notes what tensors are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


WAITS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "lift_fresh", "_to_copy", "masked_select"}
"""What a value of the device must be known for, or what makes a tensor on the host."""


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing(case: str) -> None:
    objective, _, group = CASES[case]
    measure = bind([objective] * 3 + [-objective] * 3, place(group))
    look = seen(inputs(6), grad=True)
    with _Operators() as seen_operators:
        measure(look).sum().backward()
    assert "sum" in seen_operators.names
    assert not seen_operators.names & WAITS


def test_a_mixed_batch_waits_for_nothing() -> None:
    measure = bind(many_kinds(), place())
    look = seen(inputs(len(many_kinds())), grad=True)
    with _Operators() as seen_operators:
        measure(look).sum().backward()
    assert not seen_operators.names & WAITS


# Positions


VIT = Layer("tokens", "t", "Add", 0, (None, 15, 6), 2, tokens=(Tokens(1, 3, 4, before=2, behind=1),))
ATTENTION = Layer("heads", "h", "Softmax", 0, (None, 2, 6, 6), 1, tokens=(Tokens(2, 2, 3), Tokens(3, 2, 3)))


def test_the_centre_of_tokens_is_the_central_patch() -> None:
    where = Place(torch.device("cpu"), 1, {"tokens": (6, 15), "heads": (2, 6, 6)}, {"tokens": VIT, "heads": ATTENTION})
    tokens, heads = torch.randn(1, 6, 15), torch.randn(1, 2, 6, 6)
    look = Seen(torch.zeros(1, 3, 8, 8), {"tokens": tokens, "heads": heads})
    assert bind([Neuron(layer="tokens", unit=5)], where)(look) == tokens[0, 5, 2 + 1 * 4 + 2]
    assert bind([Neuron(layer="tokens", unit=5, position=(0,))], where)(look) == tokens[0, 5, 0]
    assert bind([Neuron(layer="heads", unit=1)], where)(look) == heads[0, 1, 4, 4]
    units = NeuronDirection(layer="tokens", units={2: 1.0, 3: 2.0})
    expected = tokens[0, 2, 8] + 2 * tokens[0, 3, 8]
    assert float(bind([units], where)(look)) == pytest.approx(float(expected))


def test_a_box_takes_the_patches_whose_centres_lie_in_it() -> None:
    where = Place(torch.device("cpu"), 1, {"tokens": (6, 15), "heads": (2, 6, 6)}, {"tokens": VIT, "heads": ATTENTION})
    tokens = torch.randn(1, 6, 15)
    look = Seen(torch.zeros(1, 3, 8, 8), {"tokens": tokens})
    lower_right = Channel(layer="tokens", unit=1, box=(0.5, 0.5, 1, 1))
    expected = tokens[0, 1, [2 + 4 + 2, 2 + 4 + 3, 2 + 8 + 2, 2 + 8 + 3]].mean()
    assert float(bind([lower_right], where)(look)) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(SelectionError, match="no rows and columns"):
        bind([Channel(layer="heads", unit=1, box=(0, 0, 1, 1))], where)


def test_tokens_at_another_size_are_not_guessed() -> None:
    where = Place(torch.device("cpu"), 1, {"tokens": (6, 20)}, {"tokens": VIT})
    with pytest.raises(SelectionError, match="20 tokens"):
        bind([Neuron(layer="tokens", unit=0)], where)
    bind([Neuron(layer="tokens", unit=0, position=(19,))], where)
    bind([Channel(layer="tokens", unit=0)], where)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Channel(layer="map", unit=5), "0 to 4"),
        (Channel(layer="map", unit=-1), "no unit -1"),
        (Channel(layer="map", unit="ostrich"), "not resolved"),
        (Channel(layer="map", unit=0, box=(0, 0, 0.1, 0.1)), "no position"),
        (Channel(layer="flat", unit=0, box=(0, 0, 1, 1)), "no rows and columns"),
        (Channel(layer="line", unit=0, box=(0, 0, 1, 1)), "no rows and columns"),
        (Neuron(layer="map", unit=0, position=(3, 0)), "no position"),
        (Neuron(layer="map", unit=0, position=(0,)), "no position"),
        (Direction(layer="map", vector=(1, 2)), "2 numbers"),
        (Direction(layer="map", units={7: 1}), "no unit 7"),
        (ChannelInterpolation(layer="map", unit=0, to_unit=9), "no unit 9"),
        (Caricature(layer="map", picture="dog"), "no picture"),
    ],
)
def test_what_does_not_exist_is_refused(objective: Objective, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        bind([objective] * 2, place(2))


def test_pictures_that_cannot_be_used_are_refused() -> None:
    flat = {("cat", "map"): torch.zeros(5, 3, 4)}
    with pytest.raises(AnalysisError, match="silent"):
        bind([FeatureInversion(layer="map", picture="cat")], Place(torch.device("cpu"), 1, SHAPES, {}, flat))
    other = {("cat", "map"): torch.zeros(5, 6, 8)}
    with pytest.raises(AnalysisError, match="shape"):
        bind([Style(layer="map", picture="cat")], Place(torch.device("cpu"), 1, SHAPES, {}, other))
    with pytest.raises(AnalysisError, match="shape"):
        bind([InputDifference(picture="cat")], place())(Seen(torch.zeros(1, 3, 12, 8), {}))


def test_comparisons_need_images_made_together() -> None:
    for objective in (Diversity(layer="map"), Alignment(), ChannelInterpolation(layer="map", unit=0, to_unit=1)):
        assert objective.least_group() == 2
        assert (Channel(layer="map", unit=0) + objective).least_group() == 2
        with pytest.raises(AnalysisError, match="made together"):
            bind([objective] * 2, place(1))
    with pytest.raises(ValueError, match="same kind"):
        bind([Channel(layer="map", unit=0), Diversity(layer="map")], place(2))


def test_random_directions_have_length_one_and_belong_to_their_seed() -> None:
    vectors = [Direction(layer="map", random=seed).direction(place()) for seed in (1, 1, 2)]
    drawn = np.random.default_rng(1).standard_normal(5)
    np.testing.assert_allclose(vectors[0], drawn / np.sqrt((drawn**2).sum()), rtol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 0.1


# Algebra and data


def test_the_algebra() -> None:
    a, b, c = (Channel(layer="map", unit=unit) for unit in range(3))
    arrays = inputs(1)

    def value(objective: Objective) -> float:
        return float(measured([objective], arrays, place())[0][0])

    x, y, z = value(a), value(b), value(c)
    assert value(-a) == -x
    assert value(a / 4) == x / 4
    assert value(3 * a) == value(a * 3) == pytest.approx(3 * x)
    assert value(a + 0.5 * b - c) == pytest.approx(x + 0.5 * y - z, rel=1e-5)
    assert value(-(a - 2 * (b - c))) == pytest.approx(-(x - 2 * (y - z)), rel=1e-5)
    assert value(a * b * (2 * c)) == pytest.approx(2 * x * y * z, rel=1e-5)
    assert value(a * (b + c) - a) == pytest.approx(x * (y + z) - x, rel=1e-5)
    assert value(sum([a, b, c])) == pytest.approx(x + y + z, rel=1e-5)
    assert a - b == a + (-1) * b
    with pytest.raises(TypeError):
        a + 1  # type: ignore[operator]
    with pytest.raises(ValueError, match="weight"):
        a * math.nan
    with pytest.raises(ValueError, match="weight"):
        a * 1e300


def test_sums_and_products_are_flattened() -> None:
    a, b, c = (Channel(layer="map", unit=unit) for unit in range(3))
    nested = a - 2 * (b - 3 * (c + a))
    assert isinstance(nested, Sum)
    assert [term.weight for term in nested.terms] == [1, -2, 6, 6]
    product = (2 * (a * b)) * (3 * c)
    assert isinstance(product, Product)
    assert (product.weight, len(product.factors)) == (2, 3)
    assert nested.layers() == ("map",)
    assert (a * Style(layer="line", picture="cat") + InputDifference(picture="cat")).references() == (
        ("cat", "line"),
        ("cat", None),
    )


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Channel(layer="fire5", unit=3) - 0.5 * Channel(layer="fire5", unit=7), "fire5:3 - 0.5 x fire5:7"),
        (-Channel(layer="fire5", unit=3), "- fire5:3"),
        (Neuron(layer="a", unit=3) * (2 * Channel(layer="a", unit=4)), "2 x a:3 at the centre x a:4"),
        (Neuron(layer="a", unit=3, position=(1, 2)), "a:3 at [1, 2]"),
        (Channel(layer="a", unit=1) * (Channel(layer="a", unit=2) - Channel(layer="a", unit=3)), "a:1 x (a:2 - a:3)"),
        (Direction(layer="fire5", random=3), "random direction 3 of fire5"),
        (NeuronDirection(layer="fire5", units={3: 1, 7: -0.5}), "direction {3: 1, 7: -0.5} of fire5 at the centre"),
        (Direction(layer="a", vector=VECTOR), "direction of 5 units of a, mostly 2, 1, 0"),
        (Diversity(layer="a", weight=-1), "- diversity in a"),
        (Alignment(), "alignment of the images"),
        (ChannelInterpolation(layer="a", unit=1, to_unit=2), "a:1 to a:2"),
        (Caricature(layer="a", picture="cat"), "caricature of cat in a"),
        (InputDifference(picture="cat"), "difference from cat"),
        (Channel(layer="a", unit="ostrich", box=(0, 0, 0.5, 1)), "a:ostrich in [0, 0, 0.5, 1]"),
        (Sum(terms=[Channel(layer="a", unit=unit) for unit in range(9)]), "a:0 + a:1 + a:2 + a:3 and 5 more"),
    ],
)  # fmt: skip
def test_titles(objective: Objective, words: str) -> None:
    title = objective.title()
    assert title in (words, f"({words})")
    if objective.weight == 1:
        assert objective.words() == words


def test_names_cannot_break_titles() -> None:
    hostile = Channel(layer="a\n\u202e" + "b" * 500, unit="\x1b[31m" + "c" * 500)
    words = (hostile + Style(layer="x\n", picture="\u202e" * 200)).words()
    assert words.isprintable()
    assert len(words) < 400


@pytest.mark.parametrize("case", CASES)
def test_objectives_survive_yaml_and_json(case: str, tmp_path: Path) -> None:
    objective, _, _ = CASES[case]
    assert CHOICE.validate_python(objective.model_dump()) == objective
    text = objective.model_dump_json()
    assert CHOICE.validate_json(text, strict=True) == objective
    assert hash(CHOICE.validate_json(text)) == hash(objective)
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({"objective": objective.model_dump(mode="json", exclude_defaults=False)}))
    node, faults = read_source(path, "r.yaml")
    assert node is not None
    assert not faults
    found, faults = check(Recipe, node)
    assert not faults
    assert found is not None
    assert found.objective == objective


class Recipe(BaseModel):
    objective: ObjectiveChoice  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{kind: layer, layer: conv1, foo: 1}", "1:40: unknown key 'foo'"),
        ("{kind: layer, layer: 3}", "expected text, not 3"),
        ("{kind: chanel, layer: conv1, unit: 1}", "did you mean 'channel'"),
        ("{kind: sum, terms: [{kind: channel, layer: a, unit: 1, weight: .nan}]}", "must be a finite number"),
        ("{kind: sum, terms: [{kind: channel, layer: a, unit: 1, weight: 1.0e+300}]}", "less than or equal to"),
        ("{kind: sum, terms: []}", "at least one objective"),
        ("{kind: direction, layer: a}", "one of vector, units and random"),
        ("{kind: direction, layer: a, random: 1, units: {1: 1}}", "one of vector, units and random"),
        ("{kind: direction, layer: a, units: {1: x}}", "unit 1 needs a number"),
        ("{kind: direction, layer: a, units: {}}", "points nowhere"),
        ("{kind: direction, layer: a, vector: [0, 0]}", "points nowhere"),
        ("{kind: direction, layer: a, vector: [1, .inf]}", "finite"),
        ("{kind: direction, layer: a, random: -1}", "greater than or equal to 0"),
        ("{kind: channel, layer: a, unit: 0, box: [0.5, 0, 0.2, 1]}", "top < bottom"),
        ("{kind: channel, layer: a, unit: 0, box: [0.5, 0, 1]}", "at least 4"),
        ("{kind: caricature, layer: a, picture: ''}", "at least 1"),
    ],
)
def test_mistakes_in_recipes_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"objective: {text}")
    node, _ = read_source(path, "r.yaml")
    assert node is not None
    found, faults = check(Recipe, node)
    assert found is None
    assert len(faults) == 1
    assert message in str(faults[0])


def nested(depth: int, width: int = 1) -> dict[str, object]:
    inner: dict[str, object] = {"kind": "channel", "layer": "a", "unit": 0}
    for level in range(depth):
        name, parts = ("sum", "terms") if level % 2 else ("product", "factors")
        inner = {"kind": name, parts: [inner] * width}
    return inner


def test_bombs_are_refused() -> None:
    CHOICE.validate_python(nested(8))
    CHOICE.validate_python(nested(6, 2))
    for bomb, message in [
        (nested(9), "nested 8 deep"),
        (nested(90), "nested 8 deep"),
        (nested(2, 9), "64 terms"),
        (nested(1, 200_000), "at most 64"),
        (nested(5_000), "."),
        ({"kind": "direction", "layer": "a", "vector": [1.0] * 300_000}, "at most 262144"),
        ({"kind": "neuron", "layer": "a", "unit": 0, "position": [0] * 100_000}, "at most 8"),
    ]:
        with pytest.raises(ValidationError, match=message):
            CHOICE.validate_python(bomb)
    a = Channel(layer="a", unit=0)
    with pytest.raises(ValidationError, match="64"):
        sum([a] * 65)  # type: ignore[call-overload]
    deep: Objective = a
    for _ in range(4):
        deep = (deep + a) * a
    with pytest.raises(ValidationError, match="deep"):
        deep + a


def test_targets_become_objectives() -> None:
    assert objective_of(Target("a")) == WholeLayer(layer="a")
    assert objective_of(Target("a", 3)) == Channel(layer="a", unit=3)
    assert objective_of(Target("a", 3, ())) == Neuron(layer="a", unit=3)
    assert objective_of(Target("a", 3, (1, 2))) == Neuron(layer="a", unit=3, position=(1, 2))
    assert centre((4, 5)) == (2, 2)


# Names of a model


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> GraphView:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 1, 6, 6] x) => (float[N, 4] scores) <float[4, 1, 3, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}>
        { first = Conv (x, w) pooled = GlobalAveragePool (first) logits = Flatten (pooled)
        scores = Softmax (logits) }"""
    )
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return open_model(path)


LABELS = ("ostrich", "lion, king of beasts", "tabby cat", "bus")


def test_names_are_resolved_everywhere(view: GraphView) -> None:
    logits, first = view.logits.name, view.layer("first_conv").name
    objective = (
        Channel(layer="logits", unit="ostrich")
        - 0.5 * Channel(layer="logits", unit="lion") * Neuron(layer="first_conv", unit=2)
        + Direction(layer="logits", units={"tabby cat": 1, 3: -1})
        + ChannelInterpolation(layer="first_conv", unit=0, to_layer="logits", to_unit="bus")
        + Alignment(layer="first_conv")
        + Style(layer="first_conv", picture="cat")
        + Alignment()
        + InputDifference(picture="cat")
    )
    found = objective.resolved(view, LABELS)
    assert found == (
        Channel(layer=logits, unit=0)
        - 0.5 * Channel(layer=logits, unit=1) * Neuron(layer=first, unit=2)
        + Direction(layer=logits, units={2: 1, 3: -1})
        + ChannelInterpolation(layer=first, unit=0, to_layer=logits, to_unit=3)
        + Alignment(layer=first)
        + Style(layer=first, picture="cat")
        + Alignment()
        + InputDifference(picture="cat")
    )
    assert found.resolved(view, None) == found
    assert set(found.layers()) == {first, logits}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Channel(layer="nothing", unit=0), "nothing"),
        (Channel(layer="first_conv", unit=4), "no unit 4"),
        (Channel(layer="first_conv", unit="ostrich"), "no unit"),
        (Channel(layer="logits", unit="osterich"), "did you mean"),
        (Channel(layer="first_conv", unit="0-2"), "names 3 units"),
        (Channel(layer="first_conv", unit="all"), "names 4 units"),
        (Neuron(layer="first_conv", unit=0, position=(1,)), "2 numbers"),
        (NeuronDirection(layer="logits", units={0: 1}, position=(1, 1)), "0 numbers"),
        (Direction(layer="first_conv", vector=(1, 2, 3)), "3 numbers"),
        (Direction(layer="logits", units={"ostrich": 1, 0: 2}), "twice"),
        (Channel(layer="first_conv", unit=0) + Style(layer="second", picture="cat"), "second"),
    ],
)
def test_names_that_do_not_exist_are_refused(view: GraphView, objective: Objective, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        objective.resolved(view, LABELS)


@pytest.mark.zoo
def test_tokens_of_a_real_transformer(zoo: Path) -> None:
    from onnxviz.model import Model

    model = Model(open_model(zoo / "onnx" / "vnn_vit_cifar10_pgd_2_3_16.onnx"), PRESETS["imagenet"])
    layer = next(layer for layer in model.view.layers if len(layer.tokens) == 1 and layer.unit_count > 1)
    assert model.input_size is not None
    images = torch.rand(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    (values,) = model.differentiable((layer,))(images)
    where = Place(torch.device("cpu"), 1, {layer.name: tuple(values.shape[1:])}, {layer.name: layer})
    grid = layer.tokens[0]
    middle = grid.before + grid.height // 2 * grid.width + grid.width // 2
    look = Seen(images, {layer.name: values})
    assert values.dim() == 3
    assert bind([Neuron(layer=layer.name, unit=1)], where)(look) == values[0, 1, middle]
    whole = bind([Channel(layer=layer.name, unit=1, box=(0, 0, 1, 1))], where)(look)
    patches = values[0, 1, grid.before : grid.before + grid.height * grid.width]
    assert float(whole) == pytest.approx(float(patches.mean()), rel=1e-4)


@pytest.mark.parametrize("power", [1.0, 2.5])
@pytest.mark.parametrize("layer", ["flat", "map"])
def test_a_channel_in_focus_has_its_own_value_and_the_slope_of_lucids_direction(layer: str, power: float) -> None:
    """The slope is that of a · max(0.1, cos)^p, by finite differences, at each position by the cosine's power there."""
    shape = SHAPES[layer]
    values = np.random.default_rng(4).normal(size=(3, *shape))
    values[0, 2] = np.abs(values[0, 2]) + 0.5  # stands out
    values[1, 2] = -np.abs(values[1, 2]) - 0.1  # is driven down by others: there only its own slope counts
    activations = torch.from_numpy(values).requires_grad_()
    targets = [Target(layer, 2, focus=power)] * 3
    measure = bind([objective_of(target) for target in targets], place())
    found = measure(Seen(torch.zeros(3, 3, 6, 8), {layer: activations.float()}))
    np.testing.assert_allclose(found.detach(), values[:, 2].reshape(3, -1).mean(axis=1), rtol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), activations)

    def cosines(given: np.ndarray) -> np.ndarray:
        return np.maximum(given[2] / (np.sqrt((given**2).sum(axis=0)) + 1e-4), 0.1)

    for image in range(3):
        before = cosines(values[image])
        for index in np.ndindex(*shape):
            up, down = values[image].copy(), values[image].copy()
            up[index] += 1e-5
            down[index] -= 1e-5
            rise = [np.mean(given[2] * (cosines(given) / before) ** power) for given in (up, down)]
            assert slope[(image, *index)].item() == pytest.approx((rise[0] - rise[1]) / 2e-5, abs=2e-4)
    assert objective_of(Target(layer, 2)).alike() != objective_of(targets[0]).alike()
