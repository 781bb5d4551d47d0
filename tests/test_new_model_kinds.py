"""Quantised, binarised, token, segmentation and detection models, and models without an image, from file to report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from tiny_models import fill

import onnxviz
from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import gradients_of
from onnxviz.cli import show_model
from onnxviz.core.errors import BatchMixedError, DataError, ModelError
from onnxviz.core.findings import Caveat, Note, PictureMatrix
from onnxviz.core.results import RunResult
from onnxviz.core.values import Layer, Preprocessing, Tokens
from onnxviz.execution.execute import run as execute
from onnxviz.execution.observer import Observer
from onnxviz.graph import open_model
from onnxviz.model.model import load
from onnxviz.model.preprocessing_trials import Probe, Trial
from onnxviz.recipe.recipe import parse_recipe
from tests.cli.test_cli import call

Weights = dict[str, np.ndarray]


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    outputs: Sequence[tuple[str, Sequence[int | str]]],
    weights: Weights,
    shape: Sequence[int | str] = ("n", 3, 16, 16),
    element: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("image", element, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sizes)) for name, sizes in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(text: str, folder: Path) -> RunResult:
    return execute(parse_recipe(text, "r.yaml", folder), folder / "run", device="cpu", observer=Observer()).result


def findings_of(result: RunResult, number: int) -> list[object]:
    return list(result.analyses[number].parts[0].findings)


# --- quantised ------------------------------------------------------------------------------------------------------


def quantised(path: Path) -> Path:
    """Write a network whose scores are rounded to steps of 1e-4 and cut off at 0.0127: all of them, on any image."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["maps"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"], "relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["mean"], "pool"),
        helper.make_node("Conv", ["mean", "v"], ["scores"], "classify"),
        helper.make_node("QuantizeLinear", ["scores", "step", "zero"], ["rounded"], "quantise"),
        helper.make_node("Reshape", ["rounded", "flat"], ["flattened"], "flatten"),
        helper.make_node("DequantizeLinear", ["flattened", "step", "zero"], ["read"], "dequantise"),
        helper.make_node("Softmax", ["read"], ["chances"], "softmax"),
    ]
    weights = {"w": np.abs(normal(4, 3, 3, 3)), "v": np.abs(normal(5, 4, 1, 1)) + 1, "step": np.float32(1e-4)}
    weights |= {"zero": np.int8(0), "flat": np.array([-1, 5], np.int64)}
    return save(path, nodes, [("chances", ("n", 5))], {key: np.asarray(value) for key, value in weights.items()})


def test_a_score_cut_off_by_rounding_still_has_a_slope(tmp_path: Path) -> None:
    model = load(quantised(tmp_path / "q.onnx"), "unit", device="cpu")
    assert model.view.logits.name == "classify"
    image = torch.full((1, 3, 16, 16), 0.5).requires_grad_()
    logits, maps, cut_off = model.differentiable([model.view.logits, "relu", "dequantise"])(image)
    np.testing.assert_allclose(cut_off.detach().numpy(), 0.0127, rtol=1e-6)
    assert float(torch.autograd.grad(cut_off.sum(), maps, retain_graph=True)[0].abs().max()) == 0
    (slopes,) = gradients_of(logits.flatten(1)[:, 2], [maps])
    assert float(GradCamMethod().weighted(maps.detach(), slopes).max()) > 0
    np.testing.assert_allclose(model.probabilities(np.full((1, 3, 16, 16), 0.5, np.float32)), np.full((1, 5), 0.2))


def test_a_model_of_bytes_starts_from_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [helper.make_node("Cast", ["image"], ["x"], "cast", to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    monkeypatch.chdir(tmp_path)
    for element, said in (
        (TensorProto.UINT8, "{preset: raw, confirmed: false}"),
        (TensorProto.INT8, "mean: 128, scale: 1, confirmed: false}"),
    ):
        name = f"m{element}"
        save(Path(f"{name}.onnx"), nodes, [("y", ("n", 4, 14, 14))], {"w": normal(4, 3, 3, 3)}, element=element)
        assert call(monkeypatch, "init", f"{name}.onnx") == 0
        assert said in Path(f"{name}.yaml").read_text("utf-8")
        assert call(monkeypatch, "validate", f"{name}.yaml") == 0
    capsys.readouterr()


# --- binarised ------------------------------------------------------------------------------------------------------


def test_reports_name_the_operator_that_stops_gradients(tmp_path: Path) -> None:
    fill(tmp_path)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["maps"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Sign", ["maps"], ["signs"], "binarise"),
        helper.make_node("Conv", ["signs", "v"], ["deep"], "deep", pads=[1, 1, 1, 1]),
        helper.make_node("Sign", ["deep"], ["last"], "binarise_again"),
        helper.make_node("GlobalAveragePool", ["last"], ["mean"], "pool"),
        helper.make_node("Sign", ["mean"], ["scores"], "binarise_scores"),
    ]
    save(tmp_path / "b.onnx", nodes, [("scores", ("n", 4, 1, 1))], {"w": normal(4, 3, 3, 3), "v": normal(4, 4, 3, 3)})
    text = """\
version: 1
model: {path: b.onnx, preprocess: tf}
data: {photos: {images: photos, limit: 1}}
analyses:
  classes: {kind: activation_maximization, targets: [{layer: logits, units: 0}], steps: 2}
  evidence: {kind: grad_cam, layers: all_convs, data: photos, classes: "top:1"}
"""
    result = run(text, tmp_path)
    flat = [item.text for item in findings_of(result, 0) if isinstance(item, Caveat)]
    assert any("an operator without a slope (Sign " in said for said in flat), flat
    blank = [item.text for item in findings_of(result, 1) if isinstance(item, Caveat | Note)]
    assert any("Grad-CAM cannot explain this network" in said and "without a slope: Sign " in said for said in blank)
    assert any("nothing can be said of output" in said for said in blank)
    assert not any("speaks for" in said for said in blank)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_attention_is_no_map_of_the_image() -> None:
    shown = Layer("conv", "v", "Conv", 0, (None, 8, 7, 5), 1)
    assert shown.has_map
    queries, keys = Tokens(2, 2, 2, before=1), Tokens(3, 2, 2, before=1)
    assert not Layer("attention", "v", "Softmax", 0, (None, 3, 5, 5), 1, tokens=(queries, keys)).has_map
    assert not Layer("heads", "v", "Transpose", 0, (None, 3, 5, 16), 1, tokens=(queries,)).has_map
    assert not Layer("pool", "v", "GlobalAveragePool", 0, (None, 8, 1, 1), 1).has_map
    assert not Layer("dense", "v", "Gemm", 0, (None, 8), 1).has_map


@pytest.mark.zoo
def test_only_the_patches_of_a_vision_transformer_are_drawn(tmp_path: Path, zoo: Path, shared_data: Path) -> None:
    text = f"""\
version: 1
model: {{path: {zoo}/onnx/vnn_vit_cifar10_pgd_2_3_16.onnx, preprocess: {{preset: imagenet, fit: stretch}}}}
data: {{photos: {{images: {shared_data}/cifar10_test/cat, limit: 1}}}}
analyses: {{evidence: {{kind: grad_cam, layers: "*", data: photos, classes: "top:1"}}}}
"""
    found = findings_of(run(text, tmp_path), 0)
    (drawn,) = [item for item in found if isinstance(item, PictureMatrix)]
    view = open_model(zoo / "onnx" / "vnn_vit_cifar10_pgd_2_3_16.onnx")
    shown = [view.layer(name) for name in drawn.columns]
    assert len(shown) > 10
    assert {layer.map_shape for layer in shown} == {(2, 2)}
    assert "Softmax" not in {layer.operator for layer in shown}
    assert min(layer.unit_count for layer in shown) >= 48, "channels, not heads"
    (said,) = [item.text for item in found if isinstance(item, Note) and item.id == "tokens"]
    assert "without 1 in front (class, distillation or register tokens)" in said
    assert sum(map(int, re.findall(r"2 × 2 at (\d+) layer", said))) == sum(layer.grid is not None for layer in shown)


# --- one class for each position ------------------------------------------------------------------------------------


def test_a_segmentation_has_class_pictures_without_a_class_probability(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["scores"], "conv", pads=[1, 1, 1, 1])]
    save(tmp_path / "s.onnx", nodes, [("scores", ("n", 4, 16, 16))], {"w": normal(4, 3, 3, 3)})
    text = """\
version: 1
model: {path: s.onnx, preprocess: unit}
analyses: {classes: {kind: activation_maximization, targets: [{layer: logits, units: 0-1}], steps: 2}}
"""
    result = run(text, tmp_path)
    assert result.verdict == "finished"
    (summary,) = [item.text for item in findings_of(result, 0) if isinstance(item, Note)]
    assert "names the class" not in summary


def test_scores_come_before_boxes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "b"], ["boxes"], "boxes"),
        helper.make_node("Conv", ["image", "s"], ["raw"], "raw"),
        helper.make_node("Softmax", ["raw"], ["scores"], "softmax", axis=1),
    ]
    outputs = [("boxes", ("n", 4, 16, 16)), ("scores", ("n", 2, 16, 16))]
    path = save(tmp_path / "d.onnx", nodes, outputs, {"b": normal(4, 3, 1, 1), "s": normal(2, 3, 1, 1)})
    assert onnxviz.open_model(path).logits.name == "raw"


# --- sizes, batches, inputs -----------------------------------------------------------------------------------------


def pyramid(path: Path) -> Path:
    """Write a network that adds what was halved and doubled again: it takes even sizes only."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["x"], ["half"], "half", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["half", "", "scales"], ["double"], "double", mode="nearest"),
        helper.make_node("Add", ["x", "double"], ["y"], "add"),
    ]
    weights = {"w": normal(4, 3, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    return save(path, nodes, [("y", ("n", 4, "h", "w"))], weights, ("n", 3, "height", "width"))


def test_a_size_that_does_not_fit_an_open_model_is_not_called_its_own(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "p.onnx")
    model = load(path, {"preset": "unit", "size": [15, 15]}, device="cpu")
    with pytest.raises(DataError, match="another `size`, such as a multiple of 32"):
        model.activations(np.zeros((1, 3, 15, 15), np.float32), "add")
    assert model.activations(np.zeros((1, 3, 16, 16), np.float32), "add")["add"].shape == (1, 4, 16, 16)


def test_inspect_names_the_free_dimensions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pyramid(Path("p.onnx"))
    assert onnxviz.open_model("p.onnx").free_dimensions == ("n", "height", "width")
    assert call(monkeypatch, "inspect", "p.onnx", "--no-agreement") == 0
    assert "image: float [n, 3, height, width]" in capsys.readouterr().out
    assert call(monkeypatch, "inspect", "p.onnx", "--size", "height=16", "--size", "width=16") == 0
    capsys.readouterr()
    assert call(monkeypatch, "init", "p.onnx") == 0
    assert "size: [224, 224]" in Path("p.yaml").read_text("utf-8")
    assert call(monkeypatch, "validate", "p.yaml") == 0


def test_layers_that_mix_the_batch_are_said_and_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["x", "apart"], ["pairs"], "pairs"),
        helper.make_node("Relu", ["pairs"], ["active"], "active"),
        helper.make_node("Reshape", ["active", "together"], ["y"], "y"),
    ]
    shapes = {"apart": np.array([-1, 2, 256], np.int64), "together": np.array([-1, 4, 16, 16], np.int64)}
    path = save(tmp_path / "mix.onnx", nodes, [("y", ("n", 4, 16, 16))], {"w": normal(4, 3, 3, 3), **shapes})
    with pytest.raises(BatchMixedError, match="mixes the batch"):
        load(path, "unit", device="cpu").activations(np.zeros((1, 3, 16, 16), np.float32), "pairs")
    assert call(monkeypatch, "inspect", str(path)) == 0
    said = capsys.readouterr().out
    assert "not compared: pairs and 1 more: its tensor mixes the images of a batch" in said


def test_a_model_without_image_gets_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [helper.make_node("Gemm", ["image", "w"], ["y"], "dense")]
    save(Path("t.onnx"), nodes, [("y", ("n", 3))], {"w": normal(4, 3)}, ("n", 4))
    assert call(monkeypatch, "inspect", "t.onnx") == 0
    assert "preprocessing none: the input is no image" in capsys.readouterr().out
    assert call(monkeypatch, "init", "t.onnx") == 2
    assert "the model's input is no image" in capsys.readouterr().err
    assert not Path("t.yaml").exists()


# --- what users type ------------------------------------------------------------------------------------------------


def test_options_that_would_do_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fill(tmp_path))
    Path("empty").mkdir()
    Path("many.txt").write_text("\n".join("abcdefgh"))
    for arguments, said in (
        (("--labels", "labels.txt"), "--labels ranks preprocessings, and there are no pictures"),
        (("--images", "photos", "--agreement"), "--images and --agreement ask for different things"),
        (("--images", "photos", "--layers", "first"), "--images and --layers ask for different things"),
        (("--images", "photos", "--labels", "many.txt"), "8 class names, and the output 'scores' has 4 numbers"),
        (("--images", "empty"), "the folder holds no image"),
    ):
        assert call(monkeypatch, "inspect", "m.onnx", *arguments) == 2
        assert said in capsys.readouterr().err


def test_a_failed_job_sets_what_is_wrong_apart_from_what_to_do() -> None:
    from onnxviz.core.errors import one_line

    assert one_line(ModelError("it broke", where="m.onnx", remedy="mend it")) == "m.onnx: it broke; mend it"


@pytest.mark.parametrize(
    ("by_accuracy", "said"), [(True, "by accuracy on 40 pictures"), (False, "by steadiness and variety only")]
)
def test_a_verdict_without_class_names_says_what_it_rests_on(by_accuracy: bool, said: str) -> None:
    trials = tuple(
        Trial(Preprocessing(name=name, scale=(scale,)), "0..1", 0.9, score, 1.0, score, score, chance, 0.5)
        for name, scale, score, chance in (("unit", 255.0, 0.9, 1.0), ("other", 1.0, 0.1, 0.0))
    )
    console = Console(record=True, width=200)
    show_model._show_advice(console, Probe(trials, 40, 40, 40, None, by_accuracy))
    assert f"the first is clearly ahead, {said}" in console.export_text()
