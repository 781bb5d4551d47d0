"""CoreML's experimental operators become standard ones that compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import onnxviz
from onnxviz.graph import open_model

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ImageScaler": ("ImageScaler", {"scale": 2.5, "bias": [-1.0, 0.5, 3.0]}),
    "Affine": ("Affine", {"alpha": 0.5, "beta": -2.0}),
    "ParametricSoftplus": ("ParametricSoftplus", {"alpha": 0.7, "beta": 1.3}),
    "ScaledTanh": ("ScaledTanh", {"alpha": 1.7, "beta": 0.6}),
    "Crop by its border": ("Crop", {"border": [1, 2, 3, 0]}),
    "Crop to a size": ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 4]}),
}


def model_of(operator: str, attributes: dict[str, Any], opset: int = 8) -> onnx.ModelProto:
    nodes = [
        helper.make_node(operator, ["x"], ["t"], "odd", **attributes),
        helper.make_node("Relu", ["t"], ["y"], "relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def expected(operator: str, given: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """What onnx 1.3 says of these operators."""
    get = given.get
    match operator:
        case "ImageScaler":
            return x * get("scale", 1.0) + np.reshape(given["bias"], (1, 3, 1, 1))
        case "Affine":
            return get("alpha", 1.0) * x + get("beta", 0.0)
        case "ParametricSoftplus":
            return given["alpha"] * np.log1p(np.exp(given["beta"] * x))
        case "ScaledTanh":
            return given["alpha"] * np.tanh(given["beta"] * x)
    left, top, right, bottom = given["border"]
    height, width = given.get("scale", (8 - top - bottom, 9 - left - right))
    return x[:, :, top : top + height, left : left + width]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opset", [5, 8])
def test_the_replacement_computes_the_same(case: str, opset: int) -> None:
    operator, attributes = CASES[case]
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 9)).astype(np.float32)
    (values,) = onnxviz.to_torch(model_of(operator, attributes, opset))(torch.from_numpy(x))
    np.testing.assert_allclose(values.numpy(), np.maximum(expected(operator, attributes, x), 0), rtol=1e-5, atol=1e-6)


def test_layers_behind_it_are_known_and_run_in_onnx_runtime(tmp_path: Path) -> None:
    onnx.save(model_of(*CASES["Crop to a size"]), tmp_path / "m.onnx")
    view = open_model(tmp_path / "m.onnx")
    assert [layer.name for layer in view.layers] == ["odd", "relu"]
    assert view.layer("relu").shape[1:] == (3, 3, 4)
    assert any("1 Crop" in sentence for sentence in view.passes)
    onnxruntime.InferenceSession(view.proto.SerializeToString(), providers=["CPUExecutionProvider"])


def test_in_newer_opsets_the_names_are_left_alone(tmp_path: Path) -> None:
    onnx.save(model_of(*CASES["ImageScaler"], opset=17), tmp_path / "m.onnx")
    assert "ImageScaler" in {node.op_type for node in open_model(tmp_path / "m.onnx").proto.graph.node}


@pytest.mark.zoo
def test_the_style_transfer_network(zoo: Path) -> None:
    view = open_model(zoo / "onnx" / "candy.onnx")
    assert len(view.layers) > 50
