"""Cascading randomisation: what is shuffled, and which maps notice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tiny_models import save_model

import onnxviz
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.randomisation import (
    ShuffledWeights,
    Stage,
    in_words,
    similarities,
    weights_from_output,
    with_shuffled,
)
from onnxviz.analyses.attribution.simple_maps import EDGES, simple_maps
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.data import builtin
from onnxviz.data.images import load_batch
from onnxviz.graph.targets import resolve_head


@pytest.fixture(scope="module")
def model() -> onnxviz.Model:
    """The built-in network."""
    known = builtin.model("scenes")
    return onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing, known.labels, "cpu")


def ask(model: onnxviz.Model, count: int = 4, first: int = 0) -> Question:
    images = load_batch(builtin.scenes(count=8), range(first, first + count), model.preprocessing, model.input_size)
    head = resolve_head(model.view, None, model.labels)
    best = model.scores(images, head).argmax(axis=1)
    layers = model.view.select("last_map")
    forward = ForwardPass(model, torch.from_numpy(images), layers, [model.view.logits], to_input=True)
    targets = [ClassTarget(head, int(number)) for number in best]
    return forward.ask(targets, indices=range(first, first + count))


def make(question: Question) -> Mapping[str, npt.NDArray[np.floating]]:
    """Maps of methods that look at the network, and of one that does not."""
    found = {name: methods()[name]().attribute(question).maps[-1].numpy() for name in ("grad_cam", "gradient")}
    return {**found, "edges": simple_maps(question)[EDGES]}


def test_a_map_that_ignores_the_network_stays_and_others_go(model: onnxviz.Model) -> None:
    question = ask(model)
    shuffled = ShuffledWeights(model, [model.view.logits], 3, seed=0)
    found = similarities(question, make(question), make, shuffled)
    last = {name: [by_name[name][-1].rank for by_name in found] for name in found[0]}
    assert last["edges"] == pytest.approx([1.0] * 4)
    assert np.mean(last["grad_cam"]) < 0.5
    assert np.mean(last["gradient"]) < 0.5
    assert all(by_name["edges"][-1].structure == pytest.approx(1) for by_name in found)
    assert len(found[0]["gradient"]) == len(shuffled.stages) == 3


def test_an_image_is_judged_the_same_in_any_batch(model: onnxviz.Model) -> None:
    together, alone = ask(model), ask(model, count=1, first=2)
    shuffled = ShuffledWeights(model, [model.view.logits], 2, seed=0)
    for question in (together, alone):
        question.found = similarities(question, make(question), make, shuffled)  # type: ignore[attr-defined]
    for name in ("grad_cam", "edges"):
        for one, other in zip(together.found[2][name], alone.found[0][name], strict=True):  # type: ignore[attr-defined]
            assert one.rank == pytest.approx(other.rank, abs=1e-3)


def test_weights_are_shuffled_within_their_layer_from_the_output_down(tmp_path: Path) -> None:
    save_model(tmp_path / "tiny.onnx")
    tiny = onnxviz.load(tmp_path / "tiny.onnx", preprocess="unit", device="cpu")
    shuffled = ShuffledWeights(tiny, [tiny.view.logits], 3, seed=5)
    assert shuffled.stages == (Stage(1, 3), Stage(2, 3), Stage(3, 3))
    assert in_words(shuffled.stages) == "1, 2 and 3 of 3 layers"
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tiny.view.proto.graph.initializer}
    order = [[before[name].shape for name in names] for names in weights_from_output(tiny.view, [tiny.view.logits])]
    assert order == [[(6, 4)], [(6, 5, 3, 3)], [(5, 3, 3, 3)]]
    images = torch.rand(2, 3, 16, 16)
    for stage, other in shuffled.models():
        after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in other.view.proto.graph.initializer}
        changed = [before[name].shape for name in before if (before[name] != after[name]).any()]
        assert sorted(changed) == sorted(shape for (shape,) in order[: stage.layers])
        for name, values in before.items():
            assert (np.sort(values.ravel()) == np.sort(after[name].ravel())).all()
        # Both computations have the new weights.
        measured, logits = other.measure(images, other.view.logits), other.view.logits
        found = other.activations(images, logits)[logits.name].numpy()
        np.testing.assert_allclose(measured[logits.name], found, rtol=1e-4, atol=1e-5)
        assert np.abs(found - tiny.measure(images, logits)[logits.name]).max() > 0.1
    assert all(
        (onnx.numpy_helper.to_array(tensor) == before[tensor.name]).all()
        for tensor in tiny.view.proto.graph.initializer
    )


def test_the_order_depends_on_the_seed_only(model: onnxviz.Model) -> None:
    names = {name for group in weights_from_output(model.view, [model.view.logits]) for name in group}
    whole, again = (with_shuffled(model.view, names, 3).proto.SerializeToString(deterministic=True) for _ in range(2))
    assert whole == again
    one = next(iter(names))
    part = with_shuffled(model.view, {one}, 3).proto
    arrays = [
        onnx.numpy_helper.to_array(next(tensor for tensor in proto.graph.initializer if tensor.name == one))
        for proto in (part, with_shuffled(model.view, names, 3).proto, with_shuffled(model.view, {one}, 4).proto)
    ]
    assert (arrays[0] == arrays[1]).all()
    assert (arrays[0] != arrays[2]).any()


def test_what_the_score_does_not_depend_on_is_left_alone(model: onnxviz.Model) -> None:
    layers = [layer for layer in model.view.layers if layer.operator == "Conv"]
    early = weights_from_output(model.view, [layers[1]])
    assert len(early) == 2
    assert len(weights_from_output(model.view, [model.view.logits])) > 2


@pytest.mark.zoo
@pytest.mark.parametrize("file", ["mlperf_tiny_resnet8_cifar10_int8_qdq.onnx", "coral_mobilenet_v1_0.25_128_qdq.onnx"])
def test_weights_of_quantised_networks_are_shuffled_in_both_computations(zoo: Path, file: str) -> None:
    model = onnxviz.load(zoo / "onnx" / file, preprocess="raw", device="cpu")
    images = torch.rand(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    shuffled = ShuffledWeights(model, [model.view.logits], 1, seed=0)
    (pair,) = shuffled.models()
    other, logits = pair[1], model.view.logits
    measured = other.measure(images, logits)[logits.name]
    found = other.activations(images, logits)[logits.name].numpy()
    own = model.measure(images, logits)[logits.name]
    step = np.abs(measured).max()
    assert np.abs(measured - own).max() > 0.1 * step
    assert np.abs(measured - found).max() < 0.1 * step  # roundings differ, and add up


def test_nan_is_no_similarity(model: onnxviz.Model) -> None:
    question = ask(model, count=1)
    shuffled = ShuffledWeights(model, [model.view.logits], 1, seed=0)
    broken = {"broken": np.full((1, 3, 3), np.nan)}
    (found,) = similarities(question, broken, lambda other: broken, shuffled)
    assert math.isnan(found["broken"][0].rank)
