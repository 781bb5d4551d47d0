"""Features of pictures are measured against those of scenes, and held near them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.core.errors import AnalysisError, RecipeError, SelectionError
from onnxviz.core.findings import Finding, TileGrid
from onnxviz.core.values import Target
from onnxviz.data import builtin
from onnxviz.execution.plan import make_plan
from onnxviz.graph import open_model
from onnxviz.graph.features import features_before
from onnxviz.model.model import Model
from onnxviz.optimize.ascent import AscentSettings, maximize
from onnxviz.optimize.dead_leaves import dead_leaves
from onnxviz.optimize.feature_statistics import (
    UsualFeatures,
    layers_read,
    restrained_layers,
    restraint,
    suiting,
    unusualness,
    usual_features,
)
from onnxviz.optimize.regularizers import FeatureStatistics, LpNorm, TotalVariation
from onnxviz.optimize.settings import CLASS_REGULARIZERS, usual
from onnxviz.recipe.recipe import Recipe, parse_recipe

SIDE = 64


@pytest.fixture(scope="module")
def scenes() -> Model:
    shipped = builtin.model("scenes")
    return onnxviz.load(shipped.path, preprocess=shipped.preprocessing, device="cpu")


# --- pictures of nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 50), (64, 48)])
def test_leaves_fill_pictures_of_every_size_and_are_the_same_each_time(size: tuple[int, int]) -> None:
    picture = dead_leaves(3, size)
    assert picture.shape == (3, *size)
    assert picture.dtype == np.float32
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1
    assert np.array_equal(picture, dead_leaves(3, size))


def test_leaves_differ_have_edges_of_all_lengths_and_colours_that_go_together() -> None:
    pictures = np.stack([dead_leaves(seed, (128, 128)) for seed in range(24)])
    assert pictures.mean(axis=(1, 2, 3)).std() > 0.02
    # Amplitudes fall as f to the power of -1 to -1.6, from f to 8 f; those of photographs about to that of -1.2.
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None, :]) * 128
    amplitude = np.abs(np.fft.rfft2(pictures.mean(axis=1) - 0.5)).mean(axis=0)
    low, high = (amplitude[(frequency >= f) & (frequency < 1.4 * f)].mean() for f in (3, 24))
    assert 8 < low / high < 8**1.6
    brightness = pictures.mean(axis=1).std()
    assert 0.1 < brightness < 0.3
    assert (pictures[:, 0] - pictures[:, 2]).std() < brightness


# --- which features --------------------------------------------------------------------------------------------------


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "features", "units"),
    [
        ("squeezenet_fp16.onnx", "fire9/concat_1", 512),
        ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "mobilenet_0.25_224/conv_preds/BiasAdd__1402", 256),
        ("coral_mobilenet_v2_1.0_224_qdq.onnx", None, 1280),
        ("cifar10_resnet20_ts17.onnx", "/Flatten", 64),
        ("caffe_lenet.onnx", "relu1", 500),
        ("vnn_vit_cifar10_pgd_2_3_16.onnx", None, 48),
        ("fer2013_mini_XCEPTION.102-0.66.onnx", None, 128),
        ("ultraface_rfb_320.onnx", None, 0),
        ("fastestdet_coco.onnx", None, 0),
    ],
)
def test_the_features_of_real_classifiers(zoo: Path, file: str, features: str | None, units: int) -> None:
    view = open_model(zoo / "onnx" / file)
    found = features_before(view, view.logits)
    assert (found.unit_count if found else 0) == units
    if features is not None:
        assert found is not None
        assert found.name == features


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "held"),
    [
        ("squeezenet_fp16.onnx", True),
        ("fer2013_mini_XCEPTION.102-0.66.onnx", True),
        ("stm_mobilenet_v1_0.25_224_imagenet.onnx", False),
        ("cifar10_resnet20_ts17.onnx", False),
        ("caffe_lenet.onnx", False),
        ("ultraface_rfb_320.onnx", False),
    ],
)
def test_maps_of_features_are_held_and_pooled_ones_are_not(zoo: Path, file: str, held: bool) -> None:
    view = open_model(zoo / "onnx" / file)
    found = suiting(CLASS_REGULARIZERS, view, (view.logits.name,))
    assert found == (CLASS_REGULARIZERS if held else CLASS_REGULARIZERS[:1])


def test_features_of_an_inner_layer_are_what_its_weights_read(scenes: Model) -> None:
    view = scenes.view
    convs = [layer for layer in view.layers if layer.operator == "Conv"]
    assert features_before(view, convs[0]) is None
    found = features_before(view, convs[3])
    assert found is not None
    assert convs[2].position <= found.position < convs[3].position


# --- how unusual -----------------------------------------------------------------------------------------------------


def given(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def by_hand(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> float:
    statistics = [unit.mean() for unit in features]
    if features[0].size > 1:
        statistics += [np.sqrt(((unit - unit.mean()) ** 2).mean() + 1e-6) for unit in features]
    total = 0.0
    for value, centre, wide in zip(statistics, mean, deviation, strict=True):
        z = abs(value - centre) / wide
        total += z * z / 2 if z <= 3 else 3 * z - 4.5
    return total / len(statistics)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1, 1), (5, 4, 7), (5, 4, 3, 6)])
def test_unusualness_against_loops(shape: tuple[int, ...]) -> None:
    features = 3.0 * given(shape)
    count = 4 if int(np.prod(shape[2:])) == 1 else 8
    usual_ones = UsualFeatures(given((count,), 1), given((count,), 2).abs() + 0.2)
    term = unusualness(features, usual_ones)
    assert term.shape == (5,)
    for value, image in zip(term, features.numpy(), strict=True):
        expected = by_hand(image.reshape(4, -1).astype(float), *(tensor.numpy() for tensor in usual_ones))
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_unusualness_has_finite_slopes_where_features_are_silent_and_waits_for_nothing() -> None:
    silent = torch.zeros(2, 3, 4, 4, requires_grad=True)
    usual_ones = UsualFeatures(torch.ones(6), torch.ones(6))
    (slopes,) = torch.autograd.grad(unusualness(silent, usual_ones).sum(), silent)
    assert bool(torch.isfinite(slopes).all())
    assert float(slopes.abs().max()) > 0
    nowhere = torch.empty(2, 3, 4, 4, device="meta", requires_grad=True)
    far = UsualFeatures(*(tensor.to("meta") for tensor in usual_ones))
    assert torch.autograd.grad(unusualness(nowhere, far).sum(), nowhere)[0].shape == nowhere.shape


def test_scenes_are_usual_and_what_excites_all_features_is_not(scenes: Model) -> None:
    name = restrained(scenes)
    known = usual_features(scenes, name, (SIDE, SIDE))
    assert usual_features(scenes, name, (SIDE, SIDE)) is known
    assert usual_features(scenes, name, (SIDE, 2 * SIDE)) is not known
    with torch.no_grad():
        others = torch.stack([torch.from_numpy(dead_leaves(seed, (SIDE, SIDE))) for seed in range(100, 116)])
        features = scenes.differentiable((name,))(others)[0]
        assert 0.0 < float(unusualness(features, known).mean()) < 0.25
        assert float(unusualness(20.0 * features + 5.0, known).min()) > 2.0


def restrained(model: Model) -> str:
    (name,) = restrained_layers(model.view, (model.view.logits.name,), CLASS_REGULARIZERS)
    held = restraint(model, (model.view.logits.name,), CLASS_REGULARIZERS, (SIDE, SIDE))
    assert held is not None
    with torch.no_grad():
        features = model.differentiable((name,))(torch.rand((2, 3, SIDE, SIDE)))[0]
        usual_term = unusualness(features, usual_features(model, name, (SIDE, SIDE)))
        assert torch.equal(held({name: features}), 0.3 * usual_term)
    return name


# --- what it does ----------------------------------------------------------------------------------------------------


def test_pictures_of_classes_excite_features_less_far_beyond_scenes_and_are_the_class_still(scenes: Model) -> None:
    suits = usual((SIDE, SIDE), 64, classes=True)
    settings = AscentSettings(
        steps=64,
        size=(SIDE, SIDE),
        transforms=suits.transforms,
        regularizers=suits.regularizers,
        optimizer=suits.optimizer,
    )
    logits, name = scenes.view.logits.name, restrained(scenes)
    targets = [Target(logits, unit, focus=2.0) for unit in range(4)]
    known = usual_features(scenes, name, (SIDE, SIDE))

    def far(regularizers: tuple[Any, ...]) -> tuple[np.ndarray, float]:
        made = maximize(scenes, targets, [0] * 4, replace(settings, regularizers=regularizers))
        with torch.no_grad():
            features, scores = scenes.differentiable((name, logits))(torch.from_numpy(made.images))
        return scores.argmax(dim=1).numpy(), float(unusualness(features, known).mean())

    free, held = far(suits.regularizers[:1]), far((*suits.regularizers[:1], FeatureStatistics(weight=0.3)))
    assert held[1] < 0.8 * free[1]
    assert held[0].tolist() == free[0].tolist() == [0, 1, 2, 3]


def test_without_weight_it_changes_nothing(scenes: Model) -> None:
    settings = AscentSettings(steps=4, size=(SIDE, SIDE))
    target = [Target(scenes.view.logits.name, 1)]
    plain = maximize(scenes, target, [0], settings)
    none = maximize(scenes, target, [0], replace(settings, regularizers=(FeatureStatistics(weight=0.0),)))
    some = maximize(scenes, target, [0], replace(settings, regularizers=(FeatureStatistics(weight=1.0),)))
    assert np.array_equal(plain.images, none.images)
    assert not np.array_equal(plain.images, some.images)


def test_the_layer_may_be_named(scenes: Model) -> None:
    view = scenes.view
    logits = (view.logits.name,)
    named = FeatureStatistics(layer="Conv[2]")
    assert layers_read(view, logits, (named, TotalVariation())) == (*logits, view.layer("Conv[2]").name)
    assert layers_read(view, logits, (LpNorm(), TotalVariation())) == logits
    assert layers_read(view, logits, (FeatureStatistics(layer="logits"),)) == logits
    with pytest.raises(SelectionError, match="nothing_like_it"):
        layers_read(view, logits, (FeatureStatistics(layer="nothing_like_it"),))


# --- where there are none --------------------------------------------------------------------------------------------


def featureless(path: Path) -> Model:
    """Save a classifier whose only weights read the image."""
    draws = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["map"], name="conv"),
            helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(draws.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return onnxviz.load(path, preprocess="unit", device="cpu")


def test_a_class_that_reads_the_image_has_no_features_to_hold(tmp_path: Path) -> None:
    model = featureless(tmp_path / "m.onnx")
    logits = (model.view.logits.name,)
    assert features_before(model.view, model.view.logits) is None
    assert suiting(CLASS_REGULARIZERS, model.view, logits) == CLASS_REGULARIZERS[:1]
    named = (FeatureStatistics(layer="conv"), TotalVariation())
    assert suiting(named, model.view, logits) == named
    with pytest.raises(AnalysisError, match=r"(?s)no features .*leave `feature_statistics` out"):
        maximize(
            model, [Target(logits[0], 0)], [0], AscentSettings(steps=1, size=(16, 16), regularizers=CLASS_REGULARIZERS)
        )


def test_features_that_no_scene_excites_count_by_their_activation(tmp_path: Path) -> None:
    """Zero weights before a layer: it is the same for every picture."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "zero"], ["map"], name="conv"),
            helper.make_node("Relu", ["map"], ["active"], name="active"),
            helper.make_node("Conv", ["active", "one"], ["y"], name="classes"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 8, 8])],
        [
            numpy_helper.from_array(np.zeros((2, 3, 1, 1), np.float32), "zero"),
            numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "one"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = onnxviz.load(tmp_path / "m.onnx", preprocess="unit", device="cpu")
    known = usual_features(model, "active", (8, 8))
    assert known.deviation.tolist() == [1.0] * 4


@pytest.mark.zoo
@pytest.mark.parametrize("file", ["cifar10_resnet20_ts17.onnx", "vnn_gtsrb_bnn_48.onnx", "caffe_lenet.onnx"])
def test_real_models_are_held_with_finite_slopes(zoo: Path, file: str) -> None:
    model = onnxviz.load(zoo / "onnx" / file, device="cpu")
    settings = AscentSettings(steps=6, size=model.input_size, regularizers=(FeatureStatistics(weight=1.0),))
    made: Mapping[str, np.ndarray] = vars(maximize(model, [Target(model.view.logits.name, 3)], [0], settings))
    assert np.isfinite(made["images"]).all()
    assert np.isfinite(made["curves"]).all()


# --- in recipes ------------------------------------------------------------------------------------------------------


def recipe(target: str, settings: str) -> Recipe:
    text = f"""
        version: 1
        model: {{builtin: scenes}}
        analyses:
          classes: {{kind: activation_maximization, targets: [{target}], steps: 2, redirect: 0, {settings}}}
    """
    return parse_recipe(textwrap.dedent(text), "r.yaml", Path())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("size: 32", "total variation^2 x 0.5 for classes, none for other units"),
        (
            "size: 32, regularizers: [{kind: feature_statistics, layer: logits}]",
            "feature statistics (layer logits) x 0.3.",
        ),
    ],
)
def test_the_report_says_what_held_pictures_back(scenes: Model, settings: str, words: str) -> None:
    """The features of this model are pooled."""
    assert words in described(scenes, settings)


@pytest.mark.zoo
def test_classes_told_from_a_map_are_held_near_usual_features_and_the_report_says_so(zoo: Path) -> None:
    model = onnxviz.load(zoo / "onnx" / "squeezenet_fp16.onnx", preprocess="caffe", device="cpu")
    words = "total variation^2 x 0.5, feature statistics x 0.3 for classes, none for other units"
    assert words in described(model, "size: 64")


def described(model: Model, settings: str) -> str:
    analysis = recipe("{layer: logits, units: 0}, {layer: first_conv, units: 0}", settings).analyses["classes"]
    assert isinstance(analysis, ActivationMaximization)
    subject = Subject("model", model.view, model.preprocessing, model.labels, {}, 0)
    place = JobContext(subject, model, lambda done, total, note="": None)
    found: dict[str, list[Finding]] = {}
    jobs = list(analysis.jobs(subject))
    for job in jobs:
        found[job.name] = analysis.run(job, replace(place, found={name: found[name] for name in job.needs}))
    parts = [found[job.name] for job in jobs if not job.intermediate]
    (grid,) = (finding for finding in analysis.combine(parts, subject) if isinstance(finding, TileGrid))
    return grid.description


@pytest.mark.parametrize(
    ("target", "regularizer", "fault"),
    [
        ("{layer: first_conv, units: 0}", "{kind: feature_statistics}", r"conv1: there are no features to keep usual"),
        ("{layer: logits, units: 0}", "{kind: feature_statistics, layer: nope}", r"r.yaml:\d+:\d+: no layer .*'nope'"),
        ("{layer: logits, units: 0}", "{kind: feature_statistic}", r"did you mean 'feature_statistics'"),
    ],
)
def test_faults_are_told_before_anything_runs(target: str, regularizer: str, fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        make_plan(recipe(target, f"regularizers: [{regularizer}]"))
