"""Where ONNX Runtime and the converted network differ, a third computation says who is off."""

from __future__ import annotations

import re
from pathlib import Path

import faulty_runtime
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz.convert.operators
from onnxviz.convert.operators import Conversion
from onnxviz.core.values import Agreement
from onnxviz.model import judge as judge_module
from onnxviz.model.model import Model, load
from onnxviz.model.parity import check_parity, check_tensors
from onnxviz.model.reference import Allowance

IMAGES = np.random.default_rng(3).uniform(size=(2, 3, 8, 8)).astype(np.float32)


def save(path: Path, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], output: str) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def integer_network(path: Path) -> Path:
    """Pixels to 0..255, times weights of ±127, scaled to class scores: what saturates on x86 without VNNI."""
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((192, 5)) < 0.8, 127, -127).astype(np.int8)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flat"),
        helper.make_node("QuantizeLinear", ["flat", "s", "z"], ["q"], "quantise"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["sums"], "product"),
        helper.make_node("Cast", ["sums"], ["cast"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "s"], ["scaled"], "scaled"),
        helper.make_node("Add", ["scaled", "b"], ["scores"], "scores"),
    ]
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(5, np.float32), "b")]
    tensors += [numpy_helper.from_array(np.float32(1 / 255), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    return save(path, nodes, tensors, "scores")


def float_network(path: Path) -> Path:
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("InstanceNormalization", ["conv", "g", "b"], ["norm"], "norm"),
        helper.make_node("Relu", ["norm"], ["relu"], "relu"),
        helper.make_node("Softmax", ["relu"], ["soft"], "soft", axis=1),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["scores"], "scores"),
    ]
    tensors = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32), "g"),
        numpy_helper.from_array(np.array([0, 1, 0, 1], np.float32), "b"),
    ]
    return save(path, nodes, tensors, "scores")


def verdicts(found: tuple[Agreement, ...], reference: str = "file") -> dict[str, Agreement]:
    return {item.layer: item for item in found if item.reference == reference}


def garbage(_node: object, _inputs: object, right: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(right.shape).astype(right.dtype)


def slightly(_node: object, _inputs: object, right: np.ndarray) -> np.ndarray:
    """Off by less than the tolerance, which the layers behind may make more of."""
    return (right * np.float32(1 + 4e-4)).astype(right.dtype)


def test_saturated_sums_are_laid_at_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(integer_network(tmp_path / "m.onnx"), "unit")
    right = model.activations(IMAGES, ["scaled", "scores"])
    faulty_runtime.install(monkeypatch, {"MatMulInteger": faulty_runtime.saturated})
    found = verdicts(check_parity(model, model.layers, IMAGES))
    assert found["flat"].off == ""
    for name in ("cast", "scaled", "scores"):
        item = found[name]
        assert item.off == "runtime"
        assert item.holds
        assert item.relative > item.tolerance
        assert item.ours <= 1e-6
        assert item.theirs > 0.01
        assert "exact integers" in item.judged
        assert item.origin == "sums"
        assert "ONNX Runtime is off by" in item.verdict
    assert all(item.holds for item in found.values())
    session = judge_module.Session(model.view.proto, [model.view.layer("scores").value], exact=True)
    (faulty,) = session.run({model.view.input_name: IMAGES})
    assert np.abs(faulty - right["scores"].numpy()).max() > 1, "the stand-in does saturate"


@pytest.mark.parametrize("layer", ["norm", "soft"])
def test_a_layer_that_onnx_runtime_gets_wrong_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    value = model.view.layer(layer).value
    faulty_runtime.install(monkeypatch, {value: garbage})
    found = verdicts(check_parity(model, model.layers, IMAGES))
    behind = {"norm": {"norm", "relu", "soft", "pool", "scores"}, "soft": {"soft"}}[layer]
    assert {name for name, item in found.items() if item.off == "runtime"} == behind
    assert {item.origin for item in found.values() if item.off} == {layer}
    assert all(item.holds for item in found.values())
    assert "standard's definition" in found[layer].judged


def test_our_own_mistake_is_stopped_whoever_else_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong converter agrees with itself in double precision, which must not clear it."""
    monkeypatch.setitem(
        onnxviz.convert.operators.CONVERTERS,  # type: ignore[arg-type]
        "Softmax",
        lambda operation: Conversion(torch.nn.Softmax(int(operation.attributes["axis"]) + 1)),
    )
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    found = verdicts(check_parity(model, model.layers, IMAGES))
    assert {name: item.off for name, item in found.items() if item.off} == {"soft": "ours"}
    assert not found["soft"].holds
    assert found["soft"].ours > 0.01
    assert found["soft"].theirs < 1e-6
    assert re.search(r"the converted network is off by .*standard's definition", found["soft"].verdict)
    faulty_runtime.install(monkeypatch, {model.view.layer("soft").value: garbage})
    both = verdicts(check_parity(model, model.layers, IMAGES))["soft"]
    assert (both.off, both.holds) == ("both", False)


def test_a_wrong_weight_is_ours_although_every_node_is_right_elsewhere(tmp_path: Path) -> None:
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    model.activations(IMAGES, ["conv"])
    weight = next(part for part in onnxviz.to_torch(model).parameters() if part.dim() == 4)
    with torch.no_grad():
        weight[1, 0, 0, 0] += 0.5
    found = verdicts(check_parity(model, ["conv", "relu"], IMAGES))
    assert {name: (item.off, item.origin, item.holds) for name, item in found.items()} == {
        "conv": ("ours", "conv", False),
        "relu": ("ours", "conv", False),
    }


def test_what_has_no_third_computation_is_stopped_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    faulty_runtime.install(monkeypatch, {model.view.layer("norm").value: garbage})
    monkeypatch.setattr(judge_module, "Allowance", lambda: Allowance(10))
    found = verdicts(check_parity(model, ["norm", "pool"], IMAGES))
    for item in found.values():
        assert (item.off, item.holds, item.origin) == ("unknown", False, "norm")
        assert "takes too long" in item.judged
        assert "could not be found" in item.verdict


def test_small_errors_that_grow_are_laid_where_they_arise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The normalisation is off by less than the tolerance; a difference of large numbers behind it makes more of it."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], "conv"),
        helper.make_node("Add", ["conv", "offset"], ["far"], "far"),
        helper.make_node("Sub", ["far", "offset"], ["near"], "near"),
        helper.make_node("ReduceMean", ["near"], ["scores"], "scores", axes=[2, 3], keepdims=0),
    ]
    tensors = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.float32(100), "offset"),
    ]
    model = load(save(tmp_path / "m.onnx", nodes, tensors, "scores"), "unit")
    faulty_runtime.install(monkeypatch, {model.view.layer("far").value: slightly})
    found = verdicts(check_parity(model, model.layers, IMAGES))
    assert found["far"].relative < found["far"].tolerance
    assert found["far"].off == ""
    for name in ("near", "scores"):
        assert (found[name].off, found[name].origin, found[name].holds) == ("runtime", "far", True)
        assert found[name].theirs > found[name].tolerance > found[name].ours
    assert "double precision" in found["near"].judged


def test_tensors_are_judged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    faulty_runtime.install(monkeypatch, {model.view.layer("norm").value: garbage})
    found = verdicts(check_tensors(model, ["conv", "norm", "scores"], [IMAGES]))
    assert {name: item.off for name, item in found.items()} == {"conv": "", "norm": "runtime", "scores": "runtime"}


def test_layers_that_agree_cost_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(_case: object) -> None:
        raise AssertionError("there is nothing to judge")

    model: Model = load(float_network(tmp_path / "m.onnx"), "unit")
    monkeypatch.setattr("onnxviz.model.parity.judge", called)
    assert all(item.off == "" for item in check_parity(model, model.layers, IMAGES))


def test_names_from_a_model_are_shown_as_text() -> None:
    item = Agreement("a", 0.5, 1.0, 1e-3, off="runtime", ours=0.0, theirs=0.5, origin="b\x1b[31m\u202e", judged="how\n")
    assert item.holds
    assert "\x1b" not in item.verdict
    assert "\u202e" not in item.verdict
    assert "\n" not in item.verdict
    assert not Agreement("a", 0.5, 1.0, 1e-3, off="runtime", ours=float("nan"), theirs=0.5).holds
    assert not Agreement("a", 0.5, 1.0, 1e-3, off="unknown").holds
