"""Shape arithmetic in Python numbers against ONNX Runtime: every operator that exporters write, as one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.convert import shape_arithmetic as arithmetic
from onnxviz.core.errors import ModelError

SIZES = (2, 3, 5, 7)
SETTINGS = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 8}


def graph(nodes: Sequence[onnx.NodeProto], constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    """A model of an image of free size whose output `y` is computed by nodes that know its shape `s`."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "c", "h", "w"])
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    nodes = [helper.make_node("Shape", ["x"], ["s"]), *nodes]
    made = helper.make_graph(nodes, "graph", [image], [onnx.ValueInfoProto(name="y")], tensors)
    return onnx.shape_inference.infer_shapes(helper.make_model(made, **SETTINGS))


def agree(model: onnx.ModelProto, sizes: Sequence[int] = SIZES, numbers: bool = True) -> Any:
    """Compare with ONNX Runtime; if `numbers`, nothing but shape arithmetic may have been called."""
    data = np.random.default_rng(0).normal(0, 1, sizes).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": data})[0]
    network = onnxviz.to_torch(model)
    found = network(torch.from_numpy(data))[0]
    np.testing.assert_array_equal(found.numpy(), wanted)
    assert found.numpy().dtype == wanted.dtype
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    np.testing.assert_array_equal(compiled(torch.from_numpy(data))[0].numpy(), wanted)
    if numbers:
        assert not [node for node in network.graph.nodes if node.op == "call_module"]
    return network


def node(operator: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node with one output."""
    return helper.make_node(operator, list(inputs), [output], **attributes)


I64 = np.int64
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "gather scalar": ([node("Gather", ["s", "i"])], {"i": I64(-1)}),
    "gather vector": ([node("Gather", ["s", "i"])], {"i": np.asarray([3, -2])}),
    "slice": ([node("Slice", ["s", "a", "b"])], {"a": np.asarray([-2]), "b": np.asarray([2**62])}),
    "slice back": (
        [node("Slice", ["s", "a", "b", "z", "t"])],
        {"a": np.asarray([-1]), "b": np.asarray([-(2**62)]), "z": np.asarray([0]), "t": np.asarray([-2])},
    ),
    "concat": ([node("Concat", ["s", "i", "s"], axis=-1)], {"i": np.asarray([9])}),
    "scalar again": ([node("Slice", ["s", "a", "b"], "v"), node("Squeeze", ["v", "a"], "q"),
                      node("Unsqueeze", ["q", "a"])], {"a": np.asarray([0]), "b": np.asarray([1])}),
    "reshape": ([node("Reshape", ["s", "r"], "m"), node("Transpose", ["m"], "t"), node("Reshape", ["t", "f"])],
                {"r": np.asarray([2, -1]), "f": np.asarray([-1])}),
    "as torch pads": (
        [node("Concat", ["s", "o"], "v", axis=0), node("Reshape", ["v", "r"], "m"),
         node("Slice", ["m", "a", "b", "z", "a"], "d"), node("Transpose", ["d"], "t", perm=[1, 0]),
         node("Reshape", ["t", "f"], "p"), node("Cast", ["p"], to=TensorProto.INT64)],
        {"o": np.asarray([1, 2, 3, 4]), "r": np.asarray([-1, 2]), "f": np.asarray([-1]), "a": np.asarray([-1]),
         "b": np.asarray([-(2**62)]), "z": np.asarray([0])},
    ),
    "arithmetic": ([node("Add", ["s", "i"], "a"), node("Sub", ["a", "s"], "b"), node("Mul", ["b", "s"], "c"),
                    node("Div", ["c", "j"], "d"), node("Neg", ["d"], "e"), node("Mod", ["e", "i"], "f"),
                    node("Abs", ["f"], "g"), node("Pow", ["g", "i"])], {"i": I64(3), "j": np.asarray([-2, 3, 4, -5])}),
    "remainder": ([node("Neg", ["s"], "e"), node("Mod", ["e", "i"], fmod=1)], {"i": I64(4)}),
    "negative quotient": ([node("Neg", ["s"], "e"), node("Div", ["e", "i"])], {"i": I64(2)}),
    "extremes": ([node("Min", ["s", "i", "j"], "a"), node("Max", ["a", "k"])],
                 {"i": I64(4), "j": np.asarray([9, 9, 1, 9]), "k": np.asarray([2])}),
    "clip": ([node("Clip", ["s", "i", "j"])], {"i": I64(3), "j": I64(6)}),
    "choice": ([node("ConstantOfShape", ["l"], "k"), node("Mul", ["k", "m"], "n"), node("Equal", ["s", "j"], "e"),
                node("Where", ["e", "n", "s"])], {"l": np.asarray([4]), "m": I64(-1), "j": np.asarray([2, 9, 5, 9])}),
    "logic": ([node("Greater", ["s", "i"], "a"), node("Less", ["s", "j"], "b"), node("And", ["a", "b"], "c"),
               node("Not", ["c"], "d"), node("Or", ["d", "a"], "e"), node("Xor", ["e", "b"])],
              {"i": I64(2), "j": I64(7)}),
    "truth as number": ([node("GreaterOrEqual", ["s", "i"], "a"), node("Cast", ["a"], "b", to=TensorProto.INT64),
                         node("LessOrEqual", ["b", "s"], "d"), node("Cast", ["d"], to=TensorProto.FLOAT)],
                        {"i": I64(3)}),
    "number as truth": ([node("Sub", ["s", "i"], "a"), node("Cast", ["a"], to=TensorProto.BOOL)], {"i": I64(3)}),
    "fractions": ([node("Cast", ["s"], "a", to=TensorProto.FLOAT), node("Mul", ["a", "i"], "b"),
                   node("Div", ["b", "j"], "c"), node("Floor", ["c"], "d"), node("Ceil", ["c"], "e"),
                   node("Round", ["c"], "f"), node("Add", ["d", "e"], "g"), node("Sub", ["g", "f"], "h"),
                   node("Sqrt", ["h"], "k"), node("Concat", ["h", "k", "c"], "l", axis=0),
                   node("Reciprocal", ["l"])], {"i": np.float32(1.7), "j": np.float32(0.3)}),
    "fractions cut": ([node("Cast", ["s"], "a", to=TensorProto.FLOAT), node("Mul", ["a", "i"], "b"),
                       node("Cast", ["b"], to=TensorProto.INT32)], {"i": np.float32(-1.7)}),
    "float powers": ([node("Cast", ["s"], "a", to=TensorProto.FLOAT), node("Pow", ["a", "i"])],
                     {"i": np.float32(2)}),
    "product": ([node("ReduceProd", ["s"], keepdims=0)], {}),
    "sums": ([node("ReduceSum", ["s", "z"], "a", keepdims=1), node("ReduceMax", ["s", "z"], "b", keepdims=1),
              node("ReduceMin", ["s"], "d"), node("Concat", ["a", "b", "d"], axis=0)], {"z": np.asarray([-1])}),
    "sum of a matrix": ([node("Reshape", ["s", "r"], "m"), node("ReduceSum", ["m", "z"], keepdims=0)],
                        {"r": np.asarray([2, 2]), "z": np.asarray([0])}),
    "no axes": ([node("ReduceSum", ["s"], noop_with_empty_axes=1)], {}),
    "range": ([node("Shape", ["s"], "l"), node("Squeeze", ["l"], "q"), node("Range", ["i", "q", "j"], "k"),
               node("Gather", ["s", "k"])], {"i": I64(1), "j": I64(2)}),
    "size": ([node("Size", ["x"])], {}),
    "size of a shape": ([node("Size", ["s"])], {}),
    "part of a shape": ([node("Shape", ["x"], start=-3, end=-1)], {}),
    "expand": ([node("Gather", ["s", "i"], "q"), node("Expand", ["q", "l"])],
               {"i": I64(1), "l": np.asarray([3])}),
    "tile": ([node("Tile", ["s", "l"])], {"l": np.asarray([2])}),
    "identity": ([node("Identity", ["s"], "a"), node("Sign", ["a"])], {}),
    "scatter elements": ([node("ScatterElements", ["s", "i", "u"])],
                         {"i": np.asarray([0, -1]), "u": np.asarray([8, 9])}),
    "scatter": ([node("ScatterND", ["s", "i", "u"])], {"i": np.asarray([[1], [3]]), "u": np.asarray([8, 9])}),
    "scatter sum": ([node("ScatterND", ["s", "i", "u"], reduction="add")],
                    {"i": np.asarray([[1], [1]]), "u": np.asarray([8, 9])}),
    "matrix of columns": ([node("Unsqueeze", ["s", "o"], "a"), node("Concat", ["a", "a"], "b", axis=1),
                           node("Gather", ["b", "i"], axis=1)], {"o": np.asarray([1]), "i": np.asarray([1, 0, -1])}),
    "gather elements": ([node("GatherElements", ["s", "i"])], {"i": np.asarray([1, -1])}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_arithmetic(name: str) -> None:
    nodes, constants = CASES[name]
    if name == "choice":
        nodes[0].attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.asarray([1]))))
    agree(graph(nodes, constants))


def test_split() -> None:
    nodes = [helper.make_node("Split", ["s", "p"], ["a", "b"]), node("Concat", ["b", "a"], axis=0)]
    agree(graph(nodes, {"p": np.asarray([1, 3])}))
    agree(graph([helper.make_node("Split", ["s"], ["a", "b"], num_outputs=2), node("Mul", ["b", "a"])]))


def test_sizes_that_are_free_make_tensors() -> None:
    count = [node("Gather", ["s", "i"], "q")]
    agree(graph([*count, node("Range", ["z", "q", "o"])], {"i": I64(2), "z": I64(0), "o": I64(1)}), numbers=False)
    zeros = [node("Unsqueeze", ["q", "z"], "v"), node("ConstantOfShape", ["v"])]
    agree(graph([*count, *zeros], {"i": I64(2), "z": np.asarray([0])}), numbers=False)


def test_numbers_meet_data() -> None:
    nodes = [
        node("Gather", ["s", "i"], "q"),
        node("Cast", ["q"], "f", to=TensorProto.FLOAT),
        node("Mul", ["x", "f"]),
    ]
    agree(graph(nodes, {"i": I64(2)}), numbers=False)


def test_shapes_of_data_become_arguments() -> None:
    """As torch exports `x.view(n, -1)` and `x[:, :, : h // 2]`: no tensor is made of a shape."""
    nodes = [
        node("Gather", ["s", "two"], "h"),
        node("Div", ["h", "by"], "half"),
        node("Unsqueeze", ["half", "zero"], "end"),
        node("Slice", ["x", "zero", "end", "axis"], "part"),
        node("Gather", ["s", "zero"], "n"),
        node("Concat", ["n", "rest"], "shape", axis=0),
        node("Reshape", ["part", "shape"]),
    ]
    constants = {
        "two": I64(2), "by": I64(2), "zero": np.asarray([0]), "axis": np.asarray([2]), "rest": np.asarray([-1]),
    }  # fmt: skip
    network = agree(graph(nodes, constants), numbers=False)
    assert arithmetic.to_tensor not in [node.target for node in network.graph.nodes]


def test_compilation_for_any_size() -> None:
    nodes, constants = CASES["fractions cut"]
    network = onnxviz.to_torch(graph(nodes, constants))
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for height in (5, 6, 9, 33):
        data = torch.zeros(2, 3, height, 4)
        assert torch.equal(compiled(data)[0], network(data)[0])


def test_a_division_by_zero_is_refused() -> None:
    network = onnxviz.to_torch(graph([node("Sub", ["s", "s"], "z"), node("Div", ["s", "z"])]))
    with pytest.raises(ModelError, match="zero"):
        network(torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize("number", [0.1, 1e-40, -3.4e38, 16777217.0, 1e-46, 5e-46, 1.5, 0.0, float("inf")])
def test_single_precision(number: float) -> None:
    with np.errstate(over="ignore", under="ignore"):
        assert arithmetic.single(number) == float(np.float32(number))


def test_a_device_is_not_waited_for() -> None:
    """Elsewhere than on the host a tensor is filled, not copied; "meta" is elsewhere."""
    made = arithmetic.to_tensor((1, 2, 3), torch.empty(0, device="meta"))
    assert made.device.type == "meta"
    assert made.shape == (3,)
    assert made.dtype == torch.int64
