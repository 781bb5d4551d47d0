"""Networks that ONNX Runtime has quantised or optimised are seen as the networks that they were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from benchmarks.quantised_forms import NETWORKS, Network, correlation, describe, forms, maps, outputs_apart, photographs
from benchmarks.quantised_forms import weights_off as count_off
from onnxviz.graph import GraphView
from onnxviz.graph.make_view import make_view
from onnxviz.graph.model_file import from_proto
from onnxviz.model.ort_session import saturates
from onnxviz.model.parity import check_parity

RNG = np.random.default_rng(0)
FEWER = (", uint8, per tensor", ", int8, per channel")
"""Of the quantised forms, those that are tested always; the others with `slow`."""


def compare(network: Network, zoo: Path, data: Path, folder: Path, fewer: bool) -> None:
    plain = network.load(zoo / "onnx" / network.file)
    images = photographs(plain, data / network.images, 4)
    expected = describe(plain.view)
    scores = plain.activations(images, plain.view.logits)[plain.view.logits.name]
    best = scores.flatten(1).argmax(1)
    reference = maps(plain, images, best)
    kept = FEWER if fewer else ("",)
    for called, path in forms(zoo / "onnx" / network.file, folder, plain.encode(images).numpy(), kept):
        model = network.load(path)
        found = describe(model.view)
        assert {name: found[name] for name in expected} == expected, called
        assert count_off(plain.view, model.view, folded=called.startswith("float32")) == 0, called
        assert not model.view.refused_operators, called
        if called.startswith("float32"):
            assert correlation(reference, maps(model, images, best)) > 0.9999, called
        elif "per channel" in called and "dynamic" not in called:  # one scale for all spoils a depthwise network
            assert correlation(reference, maps(model, images, best)) > 0.9, called


@pytest.mark.zoo
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.file.partition(".")[0])
def test_all_forms_of_a_network_are_the_network(zoo: Path, shared_data: Path, tmp_path: Path, network: Network) -> None:
    compare(network, zoo, shared_data, tmp_path, fewer=True)


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.file.partition(".")[0])
def test_every_kind_and_scale_of_a_network_is_the_network(
    zoo: Path, shared_data: Path, tmp_path: Path, network: Network
) -> None:
    compare(network, zoo, shared_data, tmp_path, fewer=False)


@pytest.mark.zoo
@pytest.mark.parametrize("form", ["QOperator, uint8, per channel", "dynamic, int8, per channel"])
def test_integers_are_those_of_the_file(zoo: Path, shared_data: Path, tmp_path: Path, form: str) -> None:
    network = NETWORKS[0]
    plain = network.load(zoo / "onnx" / network.file)
    images = photographs(plain, shared_data / network.images, 4)
    made = dict(forms(zoo / "onnx" / network.file, tmp_path, plain.encode(images).numpy(), [form]))
    model = network.load(made[form])
    agreements = check_parity(model, model.layers, images)
    to_file = [item for item in agreements if item.reference == "file"]
    assert len(to_file) > len(model.layers) / 2  # the rest is made between the file's roundings
    assert all(item.holds for item in agreements)
    if not saturates():
        assert outputs_apart(made[form], model, images) < 1e-6


def quantised_model(computed: bool = False) -> onnx.ModelProto:
    """A QLinearConv of 3 x 3, whose result is pooled as integers, and another of 1 x 1."""
    arrays = {
        "s": np.float32(0.02), "z": np.uint8(118), "w": RNG.integers(-127, 127, (8, 3, 3, 3)).astype(np.int8),
        "ws": RNG.uniform(0.001, 0.01, 8).astype(np.float32), "wz": np.zeros(8, np.int8), "ys": np.float32(0.05),
        "yz": np.uint8(120), "b": RNG.integers(-500, 500, 8).astype(np.int32),
        "v": RNG.integers(0, 255, (5, 8, 1, 1)).astype(np.uint8), "vs": np.float32(0.004), "vz": np.uint8(131),
        "os": np.float32(0.1), "oz": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "ys", "yz", "b"], ["y"], "conv_quant",
                         pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["y"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QLinearConv", ["p", "ys", "yz", "v", "vs", "vz", "os", "oz"], ["o"], "last_quant"),
        helper.make_node("DequantizeLinear", ["o", "os", "oz"], ["r"], "result"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def view_of(proto: onnx.ModelProto) -> GraphView:
    return make_view(from_proto(proto))


def test_a_quantised_convolution_is_one() -> None:
    view = view_of(quantised_model())
    first, last = (layer for layer in view.layers if layer.operator == "Conv")
    assert (first.name, last.name) == ("conv", "last")
    assert view.multiply_adds(first) == 8 * 12 * 12 * 27
    reach = view.receptive_field(first)
    assert reach is not None
    assert reach.size == (3, 3)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised_model().graph.initializer}
    weight, zeroed = view.weight(first), view.weight(last)
    assert weight is not None
    assert zeroed is not None
    assert weight.shape == (8, 3, 3, 3)
    assert np.abs(zeroed).max() <= 0.004 * 131
    bias = view.bias(first)
    assert bias is not None
    assert bias.shape == (8,)
    assert "MaxPool" in {layer.operator for layer in view.layers}
    assert arrays


def test_what_the_network_computes_does_not_depend_on_what_is_asked_for() -> None:
    proto = quantised_model()
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = RNG.uniform(-2, 2, (3, 3, 12, 12)).astype(np.float32)
    (wanted,) = session.run(None, {"x": images})
    given = torch.from_numpy(images)
    alone, *_ = onnxviz.to_torch(proto)(given)
    together = onnxviz.to_torch(proto, ["conv", "pool", "r"])(given)
    assert torch.equal(alone, together[2])
    if not saturates():
        np.testing.assert_array_equal(alone.numpy(), wanted)


def test_gradients_reach_a_convolution_between_roundings() -> None:
    network = onnxviz.to_torch(quantised_model(), ["conv", "r"])
    values = torch.from_numpy(RNG.uniform(-1, 1, (1, 3, 12, 12)).astype(np.float32)).requires_grad_(True)
    conv, result = network(values)
    (gradient,) = torch.autograd.grad(result.sum(), conv, retain_graph=True)
    assert (gradient != 0).any()
    result.sum().backward()
    assert values.grad is not None
    assert (values.grad != 0).any()


def fused(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[object]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_fused_convolution_is_one_and_shapes_behind_it_are_known() -> None:
    weights = {"w": RNG.normal(0, 1, (4, 3, 3, 3)).astype(np.float32), "v": RNG.normal(0, 1, (6, 4, 1, 1))}
    weights["v"] = weights["v"].astype(np.float32)
    view = view_of(
        fused(
            [
                helper.make_node("FusedConv", ["x", "w"], ["a"], "one", domain="com.microsoft", activation="Relu"),
                helper.make_node("Conv", ["a", "v"], ["r"], "two"),
            ],
            weights,
            ["n", 3, 12, 12],
        )
    )
    assert [(layer.name, layer.operator, layer.shape[1:]) for layer in view.layers] == [
        ("one", "Conv", (4, 10, 10)),
        ("a", "Relu", (4, 10, 10)),
        ("two", "Conv", (6, 10, 10)),
    ]
    assert view.multiply_adds(view.layer("one")) == 4 * 100 * 27
    assert not view.refused_operators


def test_pooling_with_channels_last_is_pooling() -> None:
    proto = fused(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node(
                "NhwcMaxPool", ["q"], ["p"], "pool", domain="com.microsoft", kernel_shape=[3, 3], strides=[2, 2]
            ),
            helper.make_node("DequantizeLinear", ["p", "s", "z"], ["r"]),
        ],
        {},
        ["n", 12, 14, 4],
    )
    images = RNG.normal(0, 1, (1, 12, 14, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = onnxviz.to_torch(proto)(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), session.run(None, {"x": images})[0], atol=1e-6)
