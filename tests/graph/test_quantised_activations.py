"""Networks that ONNX Runtime's own quantiser has made int8: what later layers read of a convolution is its activation.

The quantiser leaves out a Relu or Clip whose range the QuantizeLinear behind it clips to anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxviz
from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import gradients_of
from onnxviz.graph import open_model
from onnxviz.graph.activation import Following

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def network() -> ModelProto:
    """Relu, Relu6, SiLU, and a residual sum with a Relu behind it, each after a convolution; then a dense layer."""
    rng = np.random.default_rng(2)

    def weight(name: str, *shape: int, scale: float = 0.35) -> TensorProto:
        return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)

    def conv(source: str, made: str, **attributes: Any) -> onnx.NodeProto:
        attributes.setdefault("pads", [1, 1, 1, 1])
        return helper.make_node("Conv", [source, f"w_{made}", f"b_{made}"], [made], made, **attributes)

    nodes = [
        conv("image", "rectified"),
        helper.make_node("Relu", ["rectified"], ["r1"], "relu"),
        conv("r1", "bounded", strides=[2, 2]),
        helper.make_node("Clip", ["bounded", "zero", "six"], ["r2"], "relu6"),
        conv("r2", "smooth"),
        helper.make_node("Sigmoid", ["smooth"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["smooth", "gate"], ["r3"], "silu"),
        conv("r3", "linear"),
        helper.make_node("Add", ["linear", "r2"], ["sum"], "sum"),
        helper.make_node("Relu", ["sum"], ["r4"], "summed"),
        helper.make_node("GlobalAveragePool", ["r4"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["scores"], "dense", transB=1),
    ]
    names = ("rectified", "bounded", "smooth", "linear")
    weights = [weight(f"w_{name}", 8, 3 if name == "rectified" else 8, 3, 3) for name in names]
    weights += [weight(f"b_{name}", 8, scale=0.2) for name in names]
    weights += [weight("w", 5, 8), *(numpy_helper.from_array(np.float32(n), k) for k, n in (("zero", 0), ("six", 6)))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        # Ranges that no image reaches the end of: where a pooled value is clipped, its gradient is rightly 0.
        self._rest: Iterator[dict[str, np.ndarray]] = iter([{"image": 1.2 * IMAGES.numpy()}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


@dataclass(frozen=True)
class Way:
    """How the quantiser is told to do it."""

    activations: QuantType
    per_channel: bool = False
    options: dict[str, bool] = field(default_factory=dict)


WAYS = {
    "unsigned": Way(QuantType.QUInt8),
    "signed": Way(QuantType.QInt8),
    "for each channel": Way(QuantType.QInt8, per_channel=True),
    "activations kept": Way(QuantType.QUInt8, options={"QDQKeepRemovableActivations": True}),
    "symmetric": Way(QuantType.QInt8, options={"ActivationSymmetric": True}),
    "a pair for each reader": Way(QuantType.QUInt8, per_channel=True, options={"DedicatedQDQPair": True}),
}


def quantised(way: Way, folder: Path) -> Path:
    onnx.save(network(), folder / "float.onnx")
    quantize_static(
        str(folder / "float.onnx"),
        str(folder / "int8.onnx"),
        _Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=way.per_channel,
        activation_type=way.activations,
        weight_type=QuantType.QInt8,
        extra_options=way.options,
    )
    return folder / "int8.onnx"


def maps(path: Path, layers: list[str]) -> dict[str, np.ndarray]:
    model = onnxviz.load(path, preprocess={"mean": 0, "scale": 255}, device="cpu")
    scores, *activations = model.differentiable(["logits", *layers])(IMAGES)
    return {
        name: GradCamMethod().weighted(values.detach(), slopes).relu().numpy()
        for name, values, slopes in zip(layers, activations, gradients_of(scores[:, 2], activations), strict=True)
    }


@pytest.mark.parametrize("name", WAYS)
def test_maps_of_int8_are_those_of_float32(tmp_path: Path, name: str) -> None:
    path = quantised(WAYS[name], tmp_path)
    layers = ["rectified:act", "bounded:act", "smooth:act", "linear:act"]
    exact, rounded = maps(tmp_path / "float.onnx", layers), maps(path, layers)
    for layer in layers:
        correlation = np.corrcoef(exact[layer].ravel(), rounded[layer].ravel())[0, 1]
        assert correlation > 0.98, (layer, correlation)


@pytest.mark.parametrize("name", WAYS)
def test_the_activation_is_what_later_layers_read(tmp_path: Path, name: str) -> None:
    path = quantised(WAYS[name], tmp_path)
    view = open_model(path)
    kept = [node.op_type for node in onnx.load(path).graph.node].count("Relu")
    assert (kept == 2) == (name in ("activations kept", "symmetric"))
    readers = {value: node for node in view.proto.graph.node for value in node.input}
    for layer in ("rectified", "bounded", "smooth", "linear"):
        activation = view.layer(f"{layer}:act")
        assert activation.operator == "DequantizeLinear"
        assert readers[activation.value].op_type != "QuantizeLinear"
    model = onnxviz.load(path, preprocess={"mean": 0, "scale": 255}, device="cpu")
    found = model.measure(IMAGES.numpy(), ["rectified", "rectified:act", "bounded:act"])
    assert found["rectified"].min() < -0.5
    assert found["rectified:act"].min() == 0
    assert found["bounded:act"].min() == 0
    assert found["bounded:act"].max() <= 6


def test_what_later_layers_read_of_a_residual_sum(tmp_path: Path) -> None:
    view = open_model(quantised(WAYS["unsigned"], tmp_path))
    following = Following(view.graph, {})
    read = next(layer for layer in view.layers if layer.value == following.as_read(view.layer("sum").value))
    assert read.operator == "DequantizeLinear"
    assert following.as_read(read.value) == read.value
    assert following.as_read(view.layer("pool").value) != view.layer("pool").value


def test_a_value_that_others_read_too_stays(tmp_path: Path) -> None:
    """Behind the pair is a part of what leaves the layer, and the gradient of a part."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) { s = Constant <value = float {0.1}> ()
        a = Relu (x) q = QuantizeLinear (a, s) d = DequantizeLinear (q, s) y = Add (a, d) }"""
    )
    onnx.save(proto, tmp_path / "m.onnx")
    view = open_model(tmp_path / "m.onnx")
    assert view.layer("a:act") == view.layer("a")


def test_roundings_that_are_the_same_become_one(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {
        s = Constant <value = float {0.1}> () t = Constant <value = float {0.1}> ()
        u = Constant <value = float {0.2}> ()
        a = Relu (x) q = QuantizeLinear (a, s) d = DequantizeLinear (q, s) p = QuantizeLinear (a, t)
        e = DequantizeLinear (p, t) f = DequantizeLinear (p, u) b = Add (d, e) y = Add (b, f) }"""
    )
    onnx.save(proto, tmp_path / "m.onnx")
    model = onnxviz.load(tmp_path / "m.onnx", preprocess={"mean": 0, "scale": 255}, device="cpu")
    view = model.view
    assert [node.op_type for node in view.proto.graph.node].count("QuantizeLinear") == 1
    assert "merged 2 roundings that are the same as others" in view.passes
    assert view.layer("e") == view.layer("d") != view.layer("f")
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rounded = 0.1 * (images * 10).round()
    np.testing.assert_allclose(model.activations(images, "y")["y"], 4 * rounded, atol=1e-6)
