"""Operators with several outputs: each is what ONNX Runtime says on the whole file, whichever of them are read."""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import onnxviz
from onnxviz.core.errors import ModelError
from onnxviz.graph.shapes import TensorType
from onnxviz.model.ort_session import Session
from onnxviz.model.parity import check_parity

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

CASES: dict[str, tuple[int, int, str, str]] = {
    "equal split": (17, 3, "o0, o1, o2 = Split <axis = 1> (c)", ""),
    "split by sizes": (17, 3, "s = Constant <value_ints = [1, 3, 2]> () o0, o1, o2 = Split <axis = 1> (c, s)", ""),
    "split in a number": (18, 3, "o0, o1, o2 = Split <axis = 1, num_outputs = 3> (c)", ""),
    "uneven split in a number": (18, 3, "o0, o1, o2 = Split <axis = 2, num_outputs = 3> (c)", ""),
    "split by an attribute": (11, 3, "o0, o1, o2 = Split <axis = 1, split = [1, 3, 2]> (c)", ""),
    "top": (17, 2, "k = Constant <value_ints = [3]> () o0, i = TopK <axis = 1> (c, k) o1 = Cast <to = 1> (i)", ""),
    "old top": (9, 2, "o0, i = TopK <axis = 1, k = 3> (c) o1 = Cast <to = 1> (i)", ""),
    "recurrent": (
        17,
        3,
        """t = Transpose <perm = [2, 0, 1, 3]> (c) z = Constant <value_ints = [0, 0, -1]> () q = Reshape (t, z)
        n = Constant <value_ints = [1, 8, 48]> () l = Constant <value_ints = [1, 8, 2]> ()
        w = ConstantOfShape <value = float[1] {0.02}> (n) r = ConstantOfShape <value = float[1] {0.1}> (l)
        o0, o1, o2 = LSTM <hidden_size = 2> (q, w, r)""",
        "",
    ),
    "gated": (
        17,
        2,
        """t = Transpose <perm = [2, 0, 1, 3]> (c) z = Constant <value_ints = [0, 0, -1]> () q = Reshape (t, z)
        n = Constant <value_ints = [1, 6, 48]> () l = Constant <value_ints = [1, 6, 2]> ()
        w = ConstantOfShape <value = float[1] {0.02}> (n) r = ConstantOfShape <value = float[1] {0.1}> (l)
        o0, o1 = GRU <hidden_size = 2> (q, w, r)""",
        "",
    ),
    "pooling with places": (
        17, 2, "o0, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) o1 = Cast <to = 1> (i)", "",
    ),
    "normalisation of layers": (
        17,
        3,
        "g = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> () o0, o1, o2 = LayerNormalization (c, g)",
        "",
    ),
    "dropout": (17, 1, "o0, unread = Dropout (c)", ""),
    "dropout and its mask": (17, 2, "o0, i = Dropout (c) o1 = Cast <to = 1> (i)", ""),
    "old dropout": (9, 1, "o0, unread = Dropout <ratio = 0.25> (c)", ""),
    "dynamic quantisation": (
        17, 3, "u, o1, z = DynamicQuantizeLinear (c) o0 = Cast <to = 1> (u) o2 = Cast <to = 1> (z)", "",
    ),
    "function": (
        17,
        3,
        "o0, o1, o2 = own.thirds (c)",
        """<domain: "own", opset_import: ["": 17]> thirds (a) => (p, q, r) { p, b = own.cut (a) q, r = own.cut (b) }
        <domain: "own", opset_import: ["": 17]> cut (a) => (p, q) { p, q = Split <axis = 2> (a) }""",
    ),
    "condition": (
        17,
        2,
        """m = ReduceMean <keepdims = 0> (c) n = Constant <value = float {-1000}> () b = Greater (m, n)
        o0, o1 = If (b) <
            then_branch = yes () => (p, q) { p = Neg (c) q = Abs (c) },
            else_branch = no () => (p, q) { p = Identity (c) q = Identity (c) }>""",
        "",
    ),
    "loop": (
        17,
        2,
        """k = Constant <value_ints = [3]> () b = Constant <value = bool {1}> ()
        o0, o1 = Loop (k, b, c) <body = body
            (int64 i, bool d, float[n, 6, 8, 8] v) => (bool e, float[n, 6, 8, 8] s, float[n, 6, 8, 8] p) {
            e = Identity (d) half = Constant <value = float {0.5}> () s = Mul (v, half) p = Neg (s) }>""",
        "",
    ),
    "scan": (
        17,
        3,
        """o0, o1, o2 = Scan <num_scan_inputs = 1, scan_input_axes = [2], body = body (v, x) => (s, p, q) {
            s = Add (v, x) p = Neg (s) q = Identity (x) }> (first, c)""",
        "",
    ),
    **{
        f"statistics of the batch, {said}": (
            opset,
            count,
            f"""f = Constant <value = float[6] {{1, 2, 3, 4, 5, 6}}> () b = Neg (f) m = Sqrt (f) v = Exp (b)
            o0, {outputs} = BatchNormalization <{attributes}> (c, f, b, m, v)""",
            "",
        )
        for said, opset, count, outputs, attributes in (
            ("by the outputs", 9, 1, "p, q, r, s", "momentum = 0.9"),
            ("by the mode", 15, 3, "o1, o2", "training_mode = 1"),
        )
    },
    "unique numbers": (
        17,
        4,
        """four = Constant <value = float {4}> () m = Mul (x, four) f = Floor (m) o0, i, j, k = Unique (f)
        o1 = Cast <to = 1> (i) o2 = Cast <to = 1> (j) o3 = Cast <to = 1> (k)""",
        "",
    ),
}  # fmt: skip


def model(case: str) -> ModelProto:
    """A convolution, the operator, an addition of 0.25 behind each of its outputs, and the sum of their means."""
    opset, count, body, functions = CASES[case]
    own = ', "own": 1' if functions else ""
    functions = functions.replace('opset_import: ["": 17]', 'opset_import: ["": 17, "own": 1]')
    before = "first = ReduceSum <axes = [2], keepdims = 0> (c)" if case == "scan" and opset < 13 else ""
    if case == "scan":
        before = "axis = Constant <value_ints = [2]> () first = ReduceSum <keepdims = 0> (c, axis)"
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}{own}]>
        g (float[n, 3, 8, 8] x) => (float y) {{ c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, weight)
        {before} {body} }} {functions}"""
    )
    graph = proto.graph
    weight = np.random.default_rng(0).normal(size=(6, 3, 3, 3)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    graph.initializer.append(helper.make_tensor("quarter", TensorProto.FLOAT, (), [0.25]))
    del graph.output[:]
    for index in range(count):
        graph.node.append(helper.make_node("Add", [f"o{index}", "quarter"], [f"r{index}"], f"r{index}"))
    return proto


def read(case: str, wanted: tuple[int, ...]) -> ModelProto:
    """The same where only some of the outputs are read."""
    proto = model(case)
    kept = [
        node
        for node in proto.graph.node
        if not (node.name.startswith("r") and node.name[1:].isdigit() and int(node.name[1:]) not in wanted)
    ]
    casts = {f"o{index}" for index in range(CASES[case][1]) if index not in wanted}
    kept = [node for node in kept if not (node.op_type == "Cast" and node.output[0] in casts)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    proto.graph.output.extend(helper.make_tensor_value_info(f"r{index}", TensorProto.FLOAT, None) for index in wanted)
    return proto


def on_the_whole_file(proto: ModelProto, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, {"x": images})]


def subsets(count: int) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1)))


@pytest.mark.parametrize("case", CASES)
def test_each_output_is_what_the_whole_file_gives(tmp_path: Path, case: str) -> None:
    for wanted in subsets(CASES[case][1]):
        proto = read(case, wanted)
        expected = on_the_whole_file(proto, IMAGES.numpy())
        path = tmp_path / "m.onnx"
        onnx.save(proto, path)
        loaded = onnxviz.load(path, preprocess={"mean": 0, "scale": 255}, device="cpu")
        for index, value in zip(wanted, expected, strict=True):
            layer = loaded.view.layer(f"r{index}")
            given = {loaded.view.input_name: IMAGES.numpy()}
            (cut,) = Session(loaded.view.original, [layer.value], exact=True).run(given)
            np.testing.assert_allclose(cut, value, rtol=1e-5, atol=1e-5)
            (measured,) = Session(loaded.view.proto, [layer.value], exact=True).run(given)
            np.testing.assert_allclose(measured, value, rtol=1e-5, atol=1e-5)
            (converted,) = onnxviz.to_torch(loaded, [layer])(IMAGES)
            np.testing.assert_allclose(converted.numpy(), value, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_split_is_measured_as_that_part(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(read("equal split", (0, 1, 2)), path)
    loaded = onnxviz.load(path, preprocess={"mean": 0, "scale": 255}, device="cpu")
    expected = on_the_whole_file(read("equal split", (0, 1, 2)), IMAGES.numpy())
    for index, value in enumerate(expected):
        name = f"r{index}"
        np.testing.assert_allclose(loaded.measure(IMAGES.numpy(), name)[name], value, atol=1e-5)
    assert all(item.holds for item in check_parity(loaded, ["r0", "r1"], IMAGES))


def test_a_tensor_of_another_shape_than_the_graph_gives_is_never_returned() -> None:
    proto = read("equal split", (0,))
    types = {"r0": TensorType(TensorProto.FLOAT, (None, 6, 8, 8))}
    with pytest.raises(ModelError, match=r"gives half the shape 2 × 2 × 8 × 8, where the graph says \? × 6 × 8 × 8"):
        Session(proto, ["r0"], types=types, names={"r0": "half"}).run({"x": IMAGES.numpy()})


def test_at_any_size_shapes_are_those_of_the_images() -> None:
    proto = read("equal split", (0,))
    images = np.zeros((1, 3, 12, 20), np.float32)
    assert Session(proto, ["r0"], any_size=True).run({"x": images})[0].shape == (1, 2, 12, 20)
