"""Objectives against slow versions of their formulas: values, gradients, and that images keep to themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from objective_cases import CASES, SHAPES, VECTOR, inputs, measured, picture, place, seen, slope
from torch.utils._python_dispatch import TorchDispatchMode

from onnxviz.core.errors import AnalysisError, SelectionError
from onnxviz.core.values import Layer, Target, Tokens
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
    ObjectiveContext,
    Seen,
    Style,
    WholeLayer,
    bind,
    objective_of,
)


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
    by_positions = bind([Diversity(layer="map")] * 4, ObjectiveContext(torch.device("cpu"), 4, {"map": (40, 2, 2)}))
    padded = np.concatenate([few.reshape(4, 40, 4), np.zeros((4, 40, 40))], axis=2)
    by_grams = bind([Diversity(layer="map")] * 4, ObjectiveContext(torch.device("cpu"), 4, {"map": (40, 44)}))
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
    where = ObjectiveContext(torch.device("cpu"), 1, {"map": (2, 100, 100)})
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
    where = ObjectiveContext(
        torch.device("cpu"), 1, {"tokens": (6, 15), "heads": (2, 6, 6)}, {"tokens": VIT, "heads": ATTENTION}
    )
    tokens, heads = torch.randn(1, 6, 15), torch.randn(1, 2, 6, 6)
    look = Seen(torch.zeros(1, 3, 8, 8), {"tokens": tokens, "heads": heads})
    assert bind([Neuron(layer="tokens", unit=5)], where)(look) == tokens[0, 5, 2 + 1 * 4 + 2]
    assert bind([Neuron(layer="tokens", unit=5, position=(0,))], where)(look) == tokens[0, 5, 0]
    assert bind([Neuron(layer="heads", unit=1)], where)(look) == heads[0, 1, 4, 4]
    units = NeuronDirection(layer="tokens", units={2: 1.0, 3: 2.0})
    expected = tokens[0, 2, 8] + 2 * tokens[0, 3, 8]
    assert float(bind([units], where)(look)) == pytest.approx(float(expected))


def test_a_box_takes_the_patches_whose_centres_lie_in_it() -> None:
    where = ObjectiveContext(
        torch.device("cpu"), 1, {"tokens": (6, 15), "heads": (2, 6, 6)}, {"tokens": VIT, "heads": ATTENTION}
    )
    tokens = torch.randn(1, 6, 15)
    look = Seen(torch.zeros(1, 3, 8, 8), {"tokens": tokens})
    lower_right = Channel(layer="tokens", unit=1, box=(0.5, 0.5, 1, 1))
    expected = tokens[0, 1, [2 + 4 + 2, 2 + 4 + 3, 2 + 8 + 2, 2 + 8 + 3]].mean()
    assert float(bind([lower_right], where)(look)) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(SelectionError, match="no rows and columns"):
        bind([Channel(layer="heads", unit=1, box=(0, 0, 1, 1))], where)


def test_tokens_at_another_size_are_not_guessed() -> None:
    where = ObjectiveContext(torch.device("cpu"), 1, {"tokens": (6, 20)}, {"tokens": VIT})
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
        bind([FeatureInversion(layer="map", picture="cat")], ObjectiveContext(torch.device("cpu"), 1, SHAPES, {}, flat))
    other = {("cat", "map"): torch.zeros(5, 6, 8)}
    with pytest.raises(AnalysisError, match="shape"):
        bind([Style(layer="map", picture="cat")], ObjectiveContext(torch.device("cpu"), 1, SHAPES, {}, other))
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
