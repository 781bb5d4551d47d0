# ruff: noqa: E501
"""Each pass does what it declares, and the result is the same function as before, as ONNX Runtime says."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError
from onnxviz.graph import open_model
from tests.normalised import agree, operators, parse, run, said, save, session

# --- weights, functions, training -----------------------------------------------------------------------------------


def test_weights_in_the_list_of_inputs_are_taken_out(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 3, opset_import: ["": 9]>
        g (float[2] w = {1, 2}, float[N, 2] x) => (float[N, 2] y) { y = Mul (x, w) }""",
        tmp_path,
    )
    view = open_model(path)
    assert view.names[view.input_name] == "x"
    assert [view.names[value.name] for value in view.proto.graph.input] == ["x"]
    assert said(view, "took 1 weights out")


def test_functions_are_inlined_also_in_functions(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[N, 3] x) => (float[N, 3] y) { a = own.four (x) y = own.twice (a) }
        <domain: "own", opset_import: ["": 17]> twice (a) => (b) { b = Add (a, a) }
        <domain: "own", opset_import: ["": 17, "own": 1]> four (a) => (c) { b = own.twice (a) c = own.twice (b) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["Add"] * 3
    assert said(view, "inlined 2 functions")
    assert np.array_equal(run(view.proto, view.input_name, np.ones((1, 3), np.float32))[0], np.full((1, 3), 8))


def test_a_function_of_another_opset_keeps_its_meaning(tmp_path: Path) -> None:
    """The function's Softmax flattens, the model's does not; both have functions inside and attributes by reference."""
    path = parse(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[1, 2, 3] x) => (float[1, 2, 3] y) { a = own.outer <k = 1> (x) b = Softmax <axis = 1> (x) y = Add (a, b) }
        <domain: "own", opset_import: ["": 11, "own": 1]> outer <k> (a) => (c) { c = own.inner <n: int = @k> (a) }
        <domain: "own", opset_import: ["": 11]> inner <n> (a) => (b) { b = Softmax <axis: int = @n> (a) }""",
        tmp_path,
    )
    view = open_model(path)
    x = np.random.default_rng(0).normal(size=(1, 2, 3)).astype(np.float32)
    e = np.exp(x)
    wanted = e / e.sum((1, 2), keepdims=True) + e / e.sum(1, keepdims=True)
    np.testing.assert_allclose(run(view.proto, view.input_name, x)[0], wanted, rtol=1e-5)
    assert not view.refused_operators


def test_a_function_with_control_flow_is_inlined(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[N, 3] x, bool c) => (float[N, 3] y) { y = own.choose (x, c) }
        <domain: "own", opset_import: ["": 17]> choose (a, c) => (r) { k = Neg (a)
        r = If (c) <then_branch = t () => (float p) { p = Relu (k) }, else_branch = e () => (float q) { q = Abs (k) }> }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["Neg", "If"]
    x = np.asarray([[1, -2, 3]], np.float32)
    feeds = {view.proto.graph.input[0].name: x, view.proto.graph.input[1].name: np.asarray(False)}
    assert session(view.proto).run(None, feeds)[0].tolist() == [[1, 2, 3]]


def test_a_dropout_that_drops_stays(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) <float r = {0.5}, bool t = {1}, bool f = {0}> {
        a = Dropout <seed = 1> (x, r, t) b = Dropout (a, r, f) y = Relu (b) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["Dropout", "Relu"]


def test_a_function_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    doubling = "".join(
        f'<domain: "own", opset_import: ["": 17, "own": 1]> f{i} (a) => (c) {{ b = own.f{i - 1} (a) c = own.f{i - 1} (b) }}\n'
        for i in range(1, 60)
    )
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N, 3] x) => (float[N, 3] y) {{ y = own.f59 (x) }}
        <domain: "own", opset_import: ["": 17]> f0 (a) => (b) {{ b = Neg (a) }}\n{doubling}""",
        tmp_path,
    )
    with pytest.raises(ModelFileError, match="write out more than"):
        open_model(path)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N, 3] x) => (float[N, 3] y) { y = own.a (x) }
        <domain: "own", opset_import: ["own": 1]> a (x) => (y) { y = own.b (x) }
        <domain: "own", opset_import: ["own": 1]> b (x) => (y) { y = own.a (x) }""",
        tmp_path,
    )
    with pytest.raises(ModelFileError, match="calls itself"):
        open_model(path)


def test_a_dropout_with_two_outputs_goes(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 3, opset_import: ["": 7]> g (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) {
        a = Relu (x) d, mask = Dropout <ratio = 0.5> (a) y = Sigmoid (d) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["Relu", "Sigmoid"]
    assert said(view, "removed 1 Dropout")
    assert view.layer("d") == view.layer("a")
    agree(view, (3, 4, 4))


def test_a_dropout_at_the_end_keeps_the_output(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 13]> g (float[N, 3] x) => (float[N, 3] y) { a = Relu (x) y = Dropout (a) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["Relu", "Identity"]
    agree(view, (3,))


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_other_floats_become_float32(tmp_path: Path, kind: str) -> None:
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g ({kind}[N, 3] x) => ({kind}[N, 3] y) {{
        c = Constant <value = float[3] {{1, 2, 3}}> ()
        k = Cast <to = {getattr(TensorProto, {"double": "DOUBLE"}.get(kind, kind.upper()))}> (c)
        f = Cast <to = 1> (x) r = Relu (f) h = CastLike (r, x) y = Mul (h, k) }}""",
        tmp_path,
    )
    view = open_model(path)
    assert "Cast" not in operators(view)
    assert {tensor.data_type for tensor in view.proto.graph.initializer} == {TensorProto.FLOAT}
    assert view.layers[-1].shape == (None, 3)
    image = np.asarray([[-1, 0.5, 2]], np.float32)
    assert run(view.proto, view.input_name, image)[0].tolist() == [[0, 1, 6]]


def test_a_finite_mask_stays_finite(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (double[N, 3] x) => (double[N, 3] y)
        <double[3] mask = {-1.7e308, -1.7e308, -1.7e308}> { a = Add (x, mask) y = Softmax (a) }""",
        tmp_path,
    )
    view = open_model(path)
    result = run(view.proto, view.input_name, np.zeros((1, 3), np.float32))[0]
    np.testing.assert_allclose(result, [[1 / 3] * 3], rtol=1e-6)


# --- constants and shapes -------------------------------------------------------------------------------------------


def test_computed_weights_are_weights(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 3] y)
        <float[6] w = {1, 2, 3, 4, 5, 6}> {
        s = Constant <value = int64[2] {3, 2}> () r = Reshape (w, s) t = Transpose (r) i = Identity (t)
        y = MatMul (x, i) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["MatMul"]
    assert view.weight(view.layer("y")).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert said(view, "folded 2 nodes")


def test_biases_shared_through_identity_become_two_weights(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, 4, 4] x) => (float[N, 1, 4, 4] y)
        <float[1, 1, 1, 1] w = {2}, float[1] b = {3}> {
        c = Identity (b) a = Conv (x, w, b) y = Conv (a, w, c) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["Conv", "Conv"]
    assert view.bias(view.layer("Conv[1]")).tolist() == [3]


@pytest.mark.parametrize(
    ("opset", "weights", "scale", "zero", "attributes"),
    [
        (13, np.asarray([[-128, 0, 127], [5, 6, -7]], np.int8), [[0.5], [0.25]], np.asarray([[3], [-4]], np.int8), "axis = 0"),
        (13, np.asarray([[0, 128, 255], [5, 6, 7]], np.uint8), 0.125, np.uint8(128), "axis = 0"),
        (21, np.arange(8, dtype=np.int16).reshape(2, 4), [[0.5, 1], [2, 4]], np.asarray([[1, 2], [3, 4]], np.int16),
         "axis = 1, block_size = 2"),
    ],
)  # fmt: skip
def test_quantised_weights_become_float_weights(
    tmp_path: Path, opset: int, weights: np.ndarray, scale: object, zero: np.ndarray, attributes: str
) -> None:
    scales, zeros = np.asarray(scale, np.float32), np.asarray(zero)
    blocked = "block" in attributes
    wide = scales.repeat(2, 1) if blocked else scales
    wanted = (weights.astype(np.float32) - (zeros.repeat(2, 1) if blocked else zeros).astype(np.float32)) * wide
    if not blocked:
        scales, zeros = scales.reshape(-1) if scales.ndim else scales, zeros.reshape(-1) if zeros.ndim else zeros
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": {opset}]> g (float[N, 2] x) => (float y) {{
        w = DequantizeLinear <{attributes}> (q, s, z) a = MatMul (x, w)
        k = QuantizeLinear (a, t) y = DequantizeLinear (k, t) }}"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, array in (("q", weights), ("s", scales), ("z", zeros), ("t", np.float32(0.5))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    view = open_model(save(model, tmp_path))
    assert operators(view) == ["MatMul", "QuantizeLinear", "DequantizeLinear"]
    np.testing.assert_array_equal(view.weight(view.layer("a")), wanted.T)


def test_a_branch_with_a_constant_condition_is_written_out(tmp_path: Path) -> None:
    """As PyTorch exports `squeeze`: whether an axis has size 1 is known once shapes are."""
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[1, 1, 6] x) => (float y) {
        r = Relu (x) s = Shape (r) i = Constant <value = int64[1] {1}> () n = Gather (s, i) c = Equal (n, i)
        y = If (c) <then_branch = t () => (float a) { w = Constant <value = float[2] {1, 2}> () k = ReduceSum <keepdims = 0> (w)
        q = Squeeze (r, i) a = Mul (q, k) }, else_branch = e () => (float b) { b = Identity (r) }> }""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert operators(view) == ["Relu", "Squeeze", "Mul"]
    assert said(view, "chose 1 branches whose condition is constant")
    assert view.batch is None
    agree(view, (1, 6))


def test_constants_inside_a_body_are_folded(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x, bool c) => (float[N, 2] y) <float[2] w = {1, 2}> {
        y = If (c) <then_branch = t () => (float a) { k = Neg (w) m = Exp (k) a = Mul (x, m) },
        else_branch = e () => (float b) { b = Identity (x) }> }""",
        tmp_path,
    )
    view = open_model(path)
    branch = next(entry.g for entry in view.proto.graph.node[0].attribute if entry.name == "then_branch")
    assert [node.op_type for node in branch.node] == ["Mul"]
    feeds = {
        view.proto.graph.input[0].name: np.ones((1, 2), np.float32),
        view.proto.graph.input[1].name: np.asarray(True),
    }
    np.testing.assert_allclose(session(view.proto).run(None, feeds)[0], np.exp([[-1, -2]]), rtol=1e-6)


def test_a_large_repeated_number_costs_nothing_and_still_is_a_weight(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 8192] x) => (float[N, 8192] y) <int64[2] s = {8192, 8192}> {
        w = ConstantOfShape <value = float[1] {0.5}> (s) y = MatMul (x, w) }""",
        tmp_path,
    )
    view = open_model(path)
    assert operators(view) == ["ConstantOfShape", "MatMul"]
    assert view.proto.ByteSize() < 1000
    assert view.parameters(view.layer("y")) == 8192 * 8192


@pytest.mark.parametrize(
    "bomb",
    [
        "s = Constant <value = int64[2] {1000000, 1000000}> () c = ConstantOfShape (s)",
        "s = Constant <value = int64[2] {1000000, 1000000}> () o = Constant <value = float[1] {1}> () c = Expand (o, s)",
        "s = Constant <value = int64[1] {1000000000000}> () o = Constant <value = float[1] {1}> () c = Tile (o, s)",
        "a = Constant <value = int64 {0}> () b = Constant <value = int64 {100000000000}> () "
        "d = Constant <value = int64 {1}> () e = Range (a, b, d) c = Cast <to = 1> (e)",
        "p = Constant <value = int64[2] {0, 1000000000000}> () o = Constant <value = float[1] {1}> () c = Pad (o, p)",
        "a = Constant <value = int64 {100000000000}> () d = Constant <value = int64[2] {0, 1}> () c = OneHot (d, a, d)",
    ],
)
def test_constant_bombs_are_not_evaluated(tmp_path: Path, bomb: str) -> None:
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, 1] x) => (float y) {{ {bomb} r = Relu (x)
        q = Cast <to = 1> (c) y = Add (r, q) }}""",
        tmp_path,
    )
    start = time.process_time()
    view = open_model(path)
    assert time.process_time() - start < 5
    assert sum(len(tensor.raw_data) for tensor in view.proto.graph.initializer) < 1000


def test_many_constants_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOLDED_TOTAL_BYTES", 10_000)
    lines = "".join(f"c{i} = ConstantOfShape (s) r{i + 1} = Add (r{i}, c{i}) " for i in range(10))
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, 300] x) => (float y) {{
        s = Constant <value = int64[1] {{300}}> () r0 = Relu (x) {lines} y = Relu (r10) }}""",
        tmp_path,
    )
    assert 0 < operators(open_model(path)).count("ConstantOfShape") < 10


VIEWS = {
    "view(N, -1)": "s = Shape (x) z = Constant <value = int64 {0}> () n = Gather (s, z) a = Constant <value = int64[1] {0}> () "
    "u = Unsqueeze (n, a) m = Constant <value = int64[1] {-1}> () t = Concat <axis = 0> (u, m) y = Reshape (x, t)",
    "view(N, C, H * W)": "s = Shape (x) a = Constant <value = int64[1] {0}> () b = Constant <value = int64[1] {2}> () "
    "c = Slice (s, a, b) k = Constant <value = int64[1] {-1}> () t = Concat <axis = 0> (c, k) y = Reshape (x, t)",
    "view(N * C, H, W)": "s = Shape (x) i = Constant <value = int64 {0}> () j = Constant <value = int64 {1}> () "
    "n = Gather (s, i) c = Gather (s, j) p = Mul (n, c) a = Constant <value = int64[1] {0}> () u = Unsqueeze (p, a) "
    "k = Constant <value = int64[2] {4, 4}> () t = Concat <axis = 0> (u, k) y = Reshape (x, t)",
}


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("batch", ["N", "1"])
def test_shape_arithmetic_becomes_a_constant(tmp_path: Path, case: str, batch: str) -> None:
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[{batch}, 2, 4, 4] x) => (float y) {{ {VIEWS[case]} }}""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert operators(view) == ["Reshape"]
    assert view.batch is None
    agree(view, (2, 4, 4))


# --- bounds and the zoo ---------------------------------------------------------------------------------------------


def test_a_deep_graph_takes_no_recursion_and_little_time(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(5000)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("x5000", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    start = time.process_time()
    view = open_model(save(model, tmp_path))
    assert len(view.layers) == 5000
    assert view.layer("x4000").position == 3999
    assert time.process_time() - start < 15


def test_a_weight_that_is_also_in_a_branch_survives(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float y) <float[2] w = {1, 2}, bool c = {1}> {
        k = Identity (w) a = If (c) <then_branch = t () => (float b) { b = Neg (k) },
        else_branch = e () => (float b) { b = Abs (k) }> y = Add (x, a) }""",
        tmp_path,
    )
    view = open_model(path)
    image = np.ones((1, 2), np.float32)
    assert run(view.proto, view.input_name, image)[0].tolist() == [[0, -1]]


ZOO = {
    "squeezenet_fp16": 2e-3,
    "stm_mobilenet_v1_0.25_224_imagenet": 1e-4,
    "cifar10_resnet20_dynamo20": 1e-5,
    "cifar10_resnet20_ts17": 1e-5,
    "mnist": 1e-5,
    "caffe_lenet": 1e-5,
    "mlperf_tiny_resnet8_cifar10": 1e-5,
    "vnn_cifar10_resnet_4b": 1e-5,
    "fer2013_mini_XCEPTION.102-0.66": 1e-5,
    "espnet_p_2_q_8_camvid": 1e-5,
    "ultraface_rfb_320": 1e-5,
    "fastestdet_coco": 1e-5,
    "vnn_vit_cifar10_pgd_2_3_16": 1e-5,
}


@pytest.mark.zoo
@pytest.mark.parametrize("name", ZOO)
def test_real_models_run_in_batches_with_the_same_result(zoo: Path, name: str) -> None:
    view = open_model(zoo / "onnx" / f"{name}.onnx")
    assert view.batch is None
    assert view.input_size is not None
    assert not view.refused_operators
    assert {tensor.data_type for tensor in view.proto.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    height, width = view.input_size
    shape = (
        (view.input_channels, height, width) if view.input_layout == "NCHW" else (height, width, view.input_channels)
    )
    agree(view, shape, ZOO[name], np.float16 if name == "squeezenet_fp16" else np.float32)


def test_initializers_survive_the_trip(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    view = open_model(
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), tmp_path)
    )
    assert np.array_equal(view.weight(view.layer("y")), weight)
