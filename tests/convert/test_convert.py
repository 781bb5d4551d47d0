"""Conversion against ONNX Runtime, operator by operator, and the fx graphs that are cut from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxviz.convert import Network, extract
from onnxviz.convert import shape_arithmetic as arithmetic
from onnxviz.convert.operators import CONVERTERS
from onnxviz.core.errors import ModelError, UnsupportedOperatorError
from onnxviz.model.ort_session import Session


@dataclass(frozen=True)
class Case:
    """One node with constant inputs behind the image; `shape` is the image's, batch left out."""

    operator: str
    shape: tuple[int, ...] = (4, 9, 11)
    constants: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    positive: bool = False

    def __str__(self) -> str:
        return f"{self.operator}-{self.opset}-{'-'.join(f'{k}={v}' for k, v in self.attributes.items())}"


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(value: float) -> np.ndarray:
    return np.array(value, np.float32)


W, B = weights(6, 4, 3, 3), weights(6)
CASES = [
    Case("Conv", constants=(W, B), attributes={"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("Conv", constants=(W,), attributes={"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", constants=(W,), attributes={"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    Case("Conv", constants=(W,), attributes={"auto_pad": "VALID", "dilations": [2, 2]}),
    Case("Conv", constants=(W, B), attributes={"pads": [0, 1, 2, 0]}),
    Case("Conv", constants=(weights(8, 1, 3, 3),), attributes={"group": 4, "kernel_shape": [3, 3]}, opset=22),
    Case("Conv", shape=(4, 12), constants=(weights(5, 4, 3),), attributes={"pads": [2, 1]}),
    Case("Conv", shape=(2, 5, 6, 7), constants=(weights(3, 2, 3, 3, 3),)),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "dilations": [2, 2]}, opset=22),
    Case("MaxPool", shape=(3, 12), attributes={"kernel_shape": [4]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 0, 0, 1]}),
    Case("AveragePool", attributes={"kernel_shape": [4, 4], "strides": [3, 3], "auto_pad": "SAME_LOWER"}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, opset=19),
    Case("GlobalAveragePool"),
    Case("GlobalAveragePool", shape=(3, 8), opset=22),
    Case("GlobalMaxPool"),
    Case("BatchNormalization", constants=(weights(4), weights(4), weights(4), abs(weights(4)))),
    Case("BatchNormalization", shape=(4,), constants=(weights(4), weights(4), weights(4), abs(weights(4)))),
    Case("InstanceNormalization", constants=(weights(4), weights(4)), attributes={"epsilon": 1e-3}),
    Case("LRN", attributes={"size": 3, "alpha": 0.1}),
    Case("Reshape", constants=(integers(0, -1),)),
    Case("Reshape", constants=(integers(-1, 36, 11),), opset=21),
    Case("Flatten"),
    Case("Flatten", attributes={"axis": 0}),
    Case("Flatten", attributes={"axis": -2}),
    Case("Squeeze", shape=(4, 1, 1), constants=(integers(-1, 2),)),
    Case("Squeeze", shape=(4, 1, 1), attributes={"axes": [2]}, opset=11),
    Case("Unsqueeze", constants=(integers(-1, 1),)),
    Case("Slice", constants=(integers(1, -4), integers(9, -1), integers(2, 3), integers(2, 1))),
    Case("Slice", constants=(integers(-1, 5), integers(-100, 1), integers(3, 2), integers(-1, -2))),
    Case("Slice", constants=(integers(1), integers(2**63 - 1), integers(-1))),
    Case("Slice", constants=(integers(5), integers(3), integers(2))),
    Case("Pad", constants=(integers(0, 0, 1, 2, 0, 1, 0, 3), one(0.5))),
    Case("Pad", constants=(integers(0, 0, -1, 0, 0, 0, 0, -2),)),
    Case("Pad", constants=(integers(0, 0, 2, 1, 0, 0, 3, 0),), attributes={"mode": "reflect"}),
    Case("Pad", constants=(integers(0, 0, 0, 1, 0, 0, 0, 0),), attributes={"mode": "edge"}),
    Case("Pad", constants=(integers(1, 2, 3, 0), None, integers(3, 1)), opset=18),
    Case("Clip", constants=(one(0.0), one(6.0))),
    Case("Clip", constants=(None, one(0.25))),
    Case("Clip", constants=(one(0.0),)),
    Case("Clip", attributes={"min": -0.5, "max": 3.4028234663852886e38}, opset=6),
    Case("Identity", opset=19),
    Case("Dropout", constants=(one(0.5),), opset=22),
    Case("Softmax"),
    Case("Softmax", attributes={"axis": 1}),
    Case("Softmax", attributes={"axis": 2}, opset=11),
    Case("LogSoftmax", opset=9),
    Case("LogSoftmax", attributes={"axis": 1}),
    Case("Gelu", opset=20),
    Case("Gelu", attributes={"approximate": "tanh"}, opset=20),
    *(Case(f"Reduce{name}", attributes={"axes": [2, 3], "keepdims": 0}, positive=True) for name in
      ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "SumSquare")),
    *(Case(f"Reduce{name}", constants=(integers(-1, 1),), opset=18, positive=True) for name in ("Max", "Mean", "L2")),
    Case("ReduceSum", constants=(integers(1),), attributes={"keepdims": 0}),
    Case("ReduceSum", attributes={"noop_with_empty_axes": 1}),
    # Stock converters of an older version that do the newer one.
    Case("Elu", opset=22),
    Case("HardSwish", opset=22),
    Case("ConvTranspose", constants=(weights(4, 3, 3, 3), weights(3)), attributes={"strides": [2, 2]}, opset=22),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}, opset=21),
]  # fmt: skip


def model_of(case: Case) -> ModelProto:
    names = ["image"]
    initializers = []
    for index, constant in enumerate(case.constants):
        names.append(f"c{index}" if constant is not None else "")
        if constant is not None:
            initializers.append(numpy_helper.from_array(constant, f"c{index}"))
    node = helper.make_node(case.operator, names, ["result"], "n0", **case.attributes)
    return make_model([node], ["result"], ("n", *case.shape), initializers, case.opset)


def make_model(
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    shape: tuple[int | str, ...],
    initializers: list[TensorProto] | None = None,
    opset: int = 17,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers or [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator_agrees_with_onnx_runtime(case: Case) -> None:
    model = model_of(case)
    network = Network(model, {}).cut(["result"])
    session = Session(model, ["result"], exact=True)
    for batch in (1, 3):
        image = np.random.default_rng(batch).normal(size=(batch, *case.shape)).astype(np.float32)
        image = abs(image) + 0.1 if case.positive else image
        (theirs,) = session.run({"image": image})
        (ours,) = network(torch.from_numpy(image))
        assert tuple(ours.shape) == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_every_converter_of_ours_has_a_case() -> None:
    """A case here, in `operators`, or a node test of the onnx package, all of which run (test_node_tests)."""
    from benchmarks.backend_tests import node_tests

    named = {case.operator for case in CASES}
    named |= {node.op_type for test in node_tests() for node in test.model.graph.node}
    for path in Path(__file__).with_name("operators").glob("test_*.py"):
        named |= set(re.findall(r"""["'](\w+)["']""", path.read_text(encoding="utf-8")))
    assert {key.rpartition(":")[2] for key in CONVERTERS} <= named


def test_local_response_of_even_size_is_onnx_s_not_pytorch_s() -> None:
    """ONNX: channels c - floor((size - 1) / 2) to c + ceil((size - 1) / 2). ONNX Runtime has no even size."""
    case = Case("LRN", attributes={"size": 4, "alpha": 0.1, "beta": 0.5, "bias": 2.0})
    image = np.random.default_rng(0).normal(size=(2, *case.shape)).astype(np.float32)
    (ours,) = Network(model_of(case), {}).cut(["result"])(torch.from_numpy(image))
    for channel in range(4):
        window = image[:, max(channel - 1, 0) : channel + 3]
        expected = image[:, channel] / np.sqrt(2.0 + 0.1 / 4 * (window**2).sum(1))
        np.testing.assert_allclose(ours[:, channel].numpy(), expected, rtol=1e-5)


def test_squeeze_without_axes_never_takes_the_batch() -> None:
    (ours,) = Network(model_of(Case("Squeeze", shape=(4, 1, 1))), {}).cut(["result"])(torch.ones(1, 4, 1, 1))
    assert ours.shape == (1, 4)


def test_conversion_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    gemm = helper.make_node("Gemm", ["image", "w"], ["result"], "n0")
    Network(make_model([gemm], ["result"], ("n", 4), [numpy_helper.from_array(weights(4, 3), "w")]), {})
    assert torch.equal(before, torch.get_rng_state())


def test_a_second_output_that_nobody_reads_does_not_take_the_first_image() -> None:
    drop = helper.make_node("Dropout", ["image"], ["dropped", "mask"], "n0")
    model = make_model([drop, helper.make_node("Relu", ["dropped"], ["result"], "n1")], ["result"], ("n", 4), opset=13)
    (result,) = Network(extract(model, ["result"]), {}).cut(["result"])(torch.ones(3, 4))
    assert result.shape == (3, 4)


def test_outputs_come_in_order_and_repeated() -> None:
    nodes = [helper.make_node("Relu", ["image"], ["a"], "n0"), helper.make_node("Neg", ["a"], ["b"], "n1")]
    network = Network(make_model(nodes, ["b"], ("n", 4)), {}).cut(["b", "a", "b"])
    b, a, again = network(torch.ones(2, 4))
    assert a[0, 0] == 1
    assert b[0, 0] == again[0, 0] == -1


def test_split_gives_each_of_its_outputs() -> None:
    split = helper.make_node("Split", ["image"], ["a", "b"], "n0", axis=1)
    network = Network(make_model([split], ["a", "b"], ("n", 4), opset=13), {}).cut(["b"])
    (b,) = network(torch.arange(8.0).reshape(2, 4))
    assert b.tolist() == [[2, 3], [6, 7]]


def test_a_shared_weight_is_stored_once() -> None:
    nodes = [helper.make_node("Add", ["image", "w"], ["a"], "n0"), helper.make_node("Mul", ["a", "w"], ["b"], "n1")]
    network = Network(make_model(nodes, ["b"], ("n", 4), [numpy_helper.from_array(weights(4), "w")]), {})
    assert len(list(network.cut(["b"]).buffers())) == 1


def test_all_operators_that_do_not_convert_are_listed_at_once_and_only_where_needed() -> None:
    nodes = [
        helper.make_node("Relu", ["image"], ["a"], "n0"),
        helper.make_node("Exotic", ["a"], ["b"], "n1", domain="custom"),
        helper.make_node("Stranger", ["b"], ["c"], "n2", domain="custom"),
        helper.make_node("Unrelated", ["a"], ["d"], "n3", domain="custom"),
    ]
    model = make_model(nodes, ["c", "d"], ("n", 4))
    model.opset_import.add(domain="custom", version=1)
    network = Network(model, {"b": "scope/exotic", "c": "scope/stranger"})
    assert network.cut(["a"])(torch.ones(1, 4))[0].sum() == 4
    with pytest.raises(UnsupportedOperatorError) as caught:
        network.cut(["a", "c"])
    assert caught.value.operators == {"custom:Exotic": ("scope/exotic",), "custom:Stranger": ("scope/stranger",)}


def test_what_the_model_does_not_compute_is_refused() -> None:
    network = Network(make_model([helper.make_node("Relu", ["image"], ["a"], "n0")], ["a"], ("n", 4)), {})
    with pytest.raises(ModelError, match="nowhere"):
        network.cut(["nowhere"])


def test_shape_arithmetic_is_computed_in_python() -> None:
    """View(x.shape[0] * 2, -1): Shape, Gather, Mul, Unsqueeze, Concat, Reshape, as exporters write it."""
    constants = {"zero": np.array(0, np.int64), "two": np.array(2, np.int64), "axes": integers(0), "rest": integers(-1)}
    nodes = [
        helper.make_node("Shape", ["image"], ["s"], "n0"),
        helper.make_node("Gather", ["s", "zero"], ["batch"], "n1", axis=0),
        helper.make_node("Mul", ["batch", "two"], ["double"], "n2"),
        helper.make_node("Unsqueeze", ["double", "axes"], ["vector"], "n3"),
        helper.make_node("Concat", ["vector", "rest"], ["wanted"], "n4", axis=0),
        helper.make_node("Reshape", ["image", "wanted"], ["result"], "n5"),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    network = Network(make_model(nodes, ["result"], ("n", 4, 6), initializers), {}).cut(["result"])
    assert not list(network.buffers()), "no number of a shape is on the device"
    for batch in (1, 3):
        assert network(torch.ones(batch, 4, 6))[0].shape == (2 * batch, 12)


def test_a_shape_may_become_part_of_the_computation() -> None:
    """values / number of channels, where the number comes from Shape; the first input is of no use and not given."""
    nodes = [
        helper.make_node("Shape", ["image"], ["s"], "n0"),
        helper.make_node("Gather", ["s", "one"], ["count"], "n1", axis=0),
        helper.make_node("Cast", ["count"], ["number"], "n2", to=TensorProto.FLOAT),
        helper.make_node("Div", ["image", "number"], ["result"], "n3"),
    ]
    model = make_model(nodes, ["result"], ("n", 4), [numpy_helper.from_array(np.array(1, np.int64), "one")])
    model.graph.input.insert(0, helper.make_tensor_value_info("unused", TensorProto.FLOAT, (1,)))
    (result,) = Network(model, {}).cut(["result"])(None, torch.ones(2, 4))
    assert result.eq(0.25).all()


@pytest.mark.parametrize(("dividend", "quotient"), [((7, -7), (3, -3)), (7.0, 3.5)])
def test_division_of_shapes_rounds_towards_zero(dividend: Any, quotient: Any) -> None:
    found = arithmetic.call("Div", {}, (dividend, 2), 1)
    assert found is not None
    function, arguments = found
    assert function(*arguments) == quotient


def test_what_depends_on_no_input_is_computed_once() -> None:
    nodes = [
        helper.make_node("Exp", ["w"], ["weight"], "n0"),
        helper.make_node("Mul", ["image", "weight"], ["result"], "n1"),
    ]
    network = Network(make_model(nodes, ["result"], ("n", 4), [numpy_helper.from_array(weights(4), "w")]), {})
    cut = network.cut(["result"])
    assert [node.op for node in cut.graph.nodes if node.op == "call_module"] == ["call_module"]
    np.testing.assert_allclose(cut(torch.ones(1, 4))[0][0].numpy(), np.exp(weights(4)), rtol=1e-6)


def test_the_network_is_frozen_and_no_deeper_than_asked() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "n0"),
        helper.make_node("Conv", ["a", "v"], ["b"], "n1"),
    ]
    initializers = [
        numpy_helper.from_array(weights(5, 4, 1, 1), "w"),
        numpy_helper.from_array(weights(3, 5, 1, 1), "v"),
    ]
    network = Network(make_model(nodes, ["b"], ("n", 4, 6, 6), initializers), {})
    short, whole = network.cut(["a"]), network.cut(["b"])
    assert sum(p.numel() for p in short.parameters()) == 20
    assert not any(p.requires_grad for p in whole.parameters())
    assert next(iter(short.parameters())).data_ptr() == next(iter(whole.parameters())).data_ptr()


def test_extraction_keeps_what_is_needed_only() -> None:
    nodes = [
        helper.make_node("Add", ["image", "w"], ["a"], "n0"),
        helper.make_node("Mul", ["image", "v"], ["b"], "n1"),
    ]
    initializers = [numpy_helper.from_array(weights(4), name) for name in ("w", "v")]
    cut = extract(make_model(nodes, ["a", "b"], ("n", 4), initializers), ["b"])
    assert [node.name for node in cut.graph.node] == ["n1"]
    assert [tensor.name for tensor in cut.graph.initializer] == ["v"]
    with pytest.raises(ValueError, match="nothing"):
        extract(cut, ["nothing"])
