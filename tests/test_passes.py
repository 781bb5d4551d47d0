# ruff: noqa: E501
"""Each pass does what it declares, and the result is the same function as before, as ONNX Runtime says."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from onnxviz import limits
from onnxviz.errors import ModelFileError
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.passes.lift_opset import TARGET


def save(model: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def parse(text: str, folder: Path) -> Path:
    return save(parser.parse_model(text), folder)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, value: str, images: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(array) for array in session(model).run(None, {value: images})]


def input_of(view: GraphView) -> str:
    constant = {tensor.name for tensor in view.original.graph.initializer}
    return next(value.name for value in view.original.graph.input if value.name not in constant)


def agree(view: GraphView, shape: tuple[int, ...], tolerance: float = 1e-5, dtype: type = np.float32) -> None:
    """The normalised graph on four images gives what the file gives on each of them."""
    images = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype(dtype)
    theirs = [run(view.original, input_of(view), images[i : i + 1]) for i in range(4)]
    ours = run(view.proto, view.input_name, images.astype(np.float32) if dtype is np.float16 else images)
    for index, mine in enumerate(ours):
        expected = np.concatenate([parts[index] for parts in theirs]).astype(np.float64)
        assert mine.shape == expected.shape
        assert np.abs(mine - expected).max() <= tolerance * np.abs(expected).max()


def operators(view: GraphView) -> list[str]:
    return [node.op_type for node in view.proto.graph.node]


def said(view: GraphView, words: str) -> bool:
    return any(words in sentence for sentence in view.passes)


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


# --- opsets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "shape"), [(1, "1,5,1,1"), (1, "1,5,2,3"), (2, "1,2,3,4"), (3, "1,2,3,4"), (0, "1,6")]
)
def test_softmax_keeps_its_old_meaning(tmp_path: Path, axis: int, shape: str) -> None:
    path = parse(
        f"""<ir_version: 4, opset_import: ["": 9]> g (float[{shape}] x) => (float[{shape}] y) {{
        y = Softmax <axis = {axis}> (x) }}""",
        tmp_path,
    )
    view = open_model(path)
    sizes = tuple(int(size) for size in shape.split(","))
    image = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    rows = image.reshape(int(np.prod(sizes[:axis])), -1)
    exponentials = np.exp(rows - rows.max(1, keepdims=True))
    expected = (exponentials / exponentials.sum(1, keepdims=True)).reshape(sizes)
    np.testing.assert_allclose(run(view.proto, view.input_name, image)[0], expected, rtol=1e-5)
    assert "Softmax" in operators(view)
    assert view.proto.opset_import[0].version == TARGET


OLD = {
    "upsample nearest": (9, "s = Constant <value = float[4] {1, 1, 2, 3}> () y = Upsample <mode = \"nearest\"> (x, s)"),
    "upsample linear": (9, "s = Constant <value = float[4] {1, 1, 2, 2}> () y = Upsample <mode = \"linear\"> (x, s)"),
    "upsample 7": (7, "y = Upsample <mode = \"nearest\", scales = [1.0, 1.0, 2.0, 2.0]> (x)"),
    "resize 10": (10, "s = Constant <value = float[4] {1, 1, 1.5, 0.5}> () y = Resize <mode = \"nearest\"> (x, s)"),
    "resize 10 linear": (10, "s = Constant <value = float[4] {1, 1, 1.5, 1.5}> () y = Resize <mode = \"linear\"> (x, s)"),
    "pad 2": (7, "y = Pad <mode = \"reflect\", pads = [0, 0, 1, 2, 0, 0, 2, 1]> (x)"),
    "clip 6": (9, "y = Clip <min = -0.5, max = 0.25> (x)"),
    "slice 1": (9, "y = Slice <axes = [2, 3], starts = [1, 0], ends = [6, 100]> (x)"),
    "split 2": (11, "a, b = Split <axis = 1, split = [1, 2]> (x) y = Concat <axis = 1> (b, a)"),
    "reduce": (11, "y = ReduceSum <axes = [2], keepdims = 0> (x)"),
    "squeeze": (11, "a = Unsqueeze <axes = [1]> (x) y = Squeeze <axes = [1]> (a)"),
    "batch norm 7": (7, "s = Constant <value = float[3] {1, 2, 3}> () y = BatchNormalization (x, s, s, s, s)"),
    "average pool": (7, "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)"),
    "prelu 7": (7, "s = Constant <value = float[3, 1, 1] {0.1, 0.2, 0.3}> () y = PRelu (x, s)"),
    "hardmax": (9, "y = Hardmax <axis = 1> (x)"),
    "logsoftmax": (9, "y = LogSoftmax <axis = 2> (x)"),
    "flatten": (9, "y = Flatten <axis = 1> (x)"),
    "pad 19": (19, "p = Constant <value = int64[4] {1, 2, 3, 0}> () a = Constant <value = int64[2] {-1, 2}> () "
               "y = Pad <mode = \"edge\"> (x, p, , a)"),
    "reduce 18": (18, "a = Constant <value = int64[2] {2, -1}> () y = ReduceMean <keepdims = 0> (x, a)"),
    "split 18": (18, "a, b = Split <axis = 2, num_outputs = 2> (x) y = Concat <axis = 2> (b, a)"),
    "split 18 uneven": (18, "a, b = Split <axis = 1, num_outputs = 2> (x) y = Concat <axis = 1> (b, a)"),
    "resize 18": (18, "s = Constant <value = float[2] {2, 3}> () y = Resize <mode = \"linear\", axes = [2, 3]> (x, , s)"),
    "resize 18 sizes": (18, "s = Constant <value = int64[2] {11, 5}> () y = Resize <mode = \"nearest\", axes = [2, 3]> (x, , , s)"),
    "resize 19": (19, "s = Constant <value = int64[4] {1, 3, 11, 5}> () y = Resize <mode = \"cubic\"> (x, , , s)"),
    "gelu 20": (20, "y = Gelu <approximate = \"tanh\"> (x)"),
    "average pool 19": (19, "y = AveragePool <kernel_shape = [2, 2]> (x)"),
    "reshape 21": (21, "s = Constant <value = int64[2] {1, -1}> () y = Reshape (x, s)"),
    "cast 21": (21, "a = Cast <to = 7> (x) y = Cast <to = 1> (a)"),
    "group norm 21": (21, "s = Constant <value = float[3] {1, 2, 3}> () y = GroupNormalization <num_groups = 3> (x, s, s)"),
    "mish 18": (18, "y = Mish (x)"),
}  # fmt: skip


@pytest.mark.parametrize("case", OLD)
def test_operators_of_all_opsets_mean_the_same_afterwards(tmp_path: Path, case: str) -> None:
    opset, body = OLD[case]
    path = parse(
        f"""<ir_version: {10 if opset > 17 else 4}, opset_import: ["": {opset}]>
        g (float[1, 3, 7, 8] x) => (float y) {{ {body} }}""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert not view.refused_operators
    assert view.batch is None, view.passes
    agree(view, (3, 7, 8))


def test_newer_opsets_keep_what_only_they_can_say(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 10, opset_import: ["": 19]> g (float[1, 3, 7, 8] x) => (float y) {
        p = Constant <value = int64[8] {0, 0, 1, 0, 0, 0, 1, 0}> () a = Pad <mode = "wrap"> (x, p)
        s = Constant <value = int64[2] {5, 4}> () y = Resize <mode = "linear", antialias = 1, axes = [2, 3]> (a, , , s) }""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert not view.refused_operators
    assert [entry.version for entry in view.proto.opset_import] == [19]
    assert view.layer("y").shape == (None, 3, 5, 4)
    agree(view, (3, 7, 8))


def test_what_cannot_be_lifted_is_listed_and_in_nobodys_way(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 4, opset_import: ["": 8]> g (float[N, 3, 7, 8] x) => (float[N, 3, 7, 8] y)
        <float[3, 7, 8] s, float[3, 7, 8] b> { a = Relu (x) y = BatchNormalization <spatial = 0> (a, s, b, s, s) }""",
        tmp_path,
    )
    model = onnx.load(path)
    del model.graph.input[1:], model.graph.value_info[:]
    for name in ("s", "b"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 7, 8), np.float32), name))
    view = open_model(save(model, tmp_path))
    assert [operator for operator, _ in view.refused_operators] == ["BatchNormalization"]
    assert said(view, "lifted opset 8 to 17 (BatchNormalization could not be)")
    assert view.layer("a").shape == (None, 3, 7, 8)
    assert view.proto.graph.node[-1].domain == "opset8"  # nobody can take it for opset 17's


EARLY = {
    "add at an axis": (6, "b = Constant <value = float[3] {1, 2, 3}> () y = Add <broadcast = 1, axis = 1> (x, b)",
                       lambda x: x + np.arange(1, 4).reshape(3, 1, 1)),
    "pow on the right": (1, "b = Constant <value = float[2] {1, 2}> () y = Pow <broadcast = 1> (x, b)",
                         lambda x: x ** np.asarray([1, 2])),
    "reshape 1": (1, "y = Reshape <shape = [0, -1]> (x)", lambda x: x.reshape(len(x), -1)),
    "concat 1": (1, "y = Concat (x, x)", lambda x: np.concatenate([x, x], 1)),
    "cast 1": (1, 'a = Cast <to = "INT32"> (x) y = Cast <to = "FLOAT"> (a)', lambda x: np.trunc(x)),
    "pad 1": (1, "y = Pad <paddings = [0, 0, 1, 0, 0, 0, 0, 2], value = 3.0> (x)",
              lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=3)),
    "clip 1": (1, "y = Clip <max = 0.5> (x)", lambda x: np.minimum(x, 0.5)),
    "prelu 6": (6, "s = Constant <value = float[3] {0.1, 0.2, 0.3}> () y = PRelu (x, s)",
                lambda x: np.where(x < 0, x * np.asarray([0.1, 0.2, 0.3]).reshape(3, 1, 1), x)),
    "split 1": (1, "a, b = Split <axis = 1, split = [1, 2]> (x) y = Concat <axis = 1> (b, a)", lambda x: x[:, [1, 2, 0]]),
    "selu 1": (1, "y = Selu (x)", lambda x: 1.0507 * np.where(x > 0, x, 1.6732 * (np.exp(x) - 1))),
    "lp pool 1": (1, "y = GlobalLpPool <p = 2.0> (x)", lambda x: np.sqrt((x**2).sum((2, 3), keepdims=True))),
    "top k 1": (1, "y, i = TopK <axis = 2, k = 2> (x)", lambda x: -np.sort(-x, 2)[:, :, :2]),
    "gemm 6": (6, "f = Flatten (x) w = Constant <value = float[12, 1] {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}> () "
               "b = Constant <value = float[1] {3}> () y = Gemm <broadcast = 1> (f, w, b)",
               lambda x: x.reshape(len(x), -1).sum(1, keepdims=True) + 3),
    "upsample 1": (1, 'y = Upsample <mode = "nearest", height_scale = 2.0, width_scale = 1.0> (x)', lambda x: x.repeat(2, 2)),
    "dropout 1": (1, "d, m = Dropout <is_test = 1, ratio = 0.7> (x) y = Neg (d)", lambda x: -x),
}  # fmt: skip
"""Opsets that ONNX Runtime knows no more: what the standard of those days says, in numpy."""


@pytest.mark.parametrize("case", EARLY)
def test_operators_of_the_first_opsets_mean_what_they_meant(tmp_path: Path, case: str) -> None:
    opset, body, meaning = EARLY[case]
    path = parse(
        f"""<ir_version: 3, opset_import: ["": {opset}]> g (float[1, 3, 2, 2] x) => (float y) {{ {body} }}""", tmp_path
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert not view.refused_operators
    assert view.batch is None, view.passes
    images = np.random.default_rng(0).uniform(0.1 if "pow" in case else -2, 2, (4, 3, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(run(view.proto, view.input_name, images)[0], meaning(images), rtol=1e-4, atol=1e-5)


def test_bodies_of_control_flow_are_lifted_too(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 6, opset_import: ["": 11]> g (float[N, 4] x, bool c) => (float y) {
        y = If (c) <then_branch = t () => (float a) { s = ReduceSum <axes = [1]> (x) a = Neg (s) },
        else_branch = e () => (float b) { u = Unsqueeze <axes = [0]> (x) b = ReduceMax <axes = [2], keepdims = 0> (u) }> }""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert not view.refused_operators
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for condition, wanted in ((True, -x.sum(1, keepdims=True)), (False, x.max(1)[None])):
        feeds = {view.proto.graph.input[0].name: x, view.proto.graph.input[1].name: np.asarray(condition)}
        assert np.array_equal(session(view.proto).run(None, feeds)[0], wanted)


def test_unknown_operators_are_listed_not_fatal(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17, "com.acme": 1]> g (float[N, 3] x) => (float[N, 3] y) {
        a = Relu (x) y = com.acme.Magic (a) }""",
        tmp_path,
    )
    view = open_model(path)
    assert view.refused_operators == (("Magic", "1 of domain com.acme"),)
    assert [layer.name for layer in view.layers] == ["a", "y"]


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


# --- the batch ------------------------------------------------------------------------------------------------------


BATCHES = {
    "reshape": "s = Constant <value = int64[2] {1, 32}> () y = Reshape (x, s)",
    "reshape minus one": "s = Constant <value = int64[2] {1, -1}> () y = Reshape (x, s)",
    "squeeze all, and back": "p = GlobalAveragePool (x) q = Squeeze (p) a = Constant <value = int64[1] {0}> () "
    "y = Unsqueeze (q, a)",
    "channel shuffle": "s = Constant <value = int64[3] {1, 2, 16}> () a = Reshape (x, s) b = Transpose <perm = [1, 0, 2]> (a) "
    "t = Constant <value = int64[5] {2, -1, 1, 4, 4}> () c = Reshape (b, t) i = Constant <value = int64 {0}> () "
    "j = Constant <value = int64 {1}> () d = Gather <axis = 0> (c, i) e = Gather <axis = 0> (c, j) y = Concat <axis = 1> (e, d)",
    "resize": "s = Constant <value = int64[4] {1, 2, 9, 6}> () y = Resize <mode = \"linear\"> (x, , , s)",
    "expand": "p = GlobalAveragePool (x) s = Constant <value = int64[4] {1, 2, 4, 4}> () y = Expand (p, s)",
    "nhwc dense": "t = Transpose <perm = [0, 2, 3, 1]> (x) w = Constant <value = float[2, 3] {1, 2, 3, 4, 5, 6}> () y = MatMul (t, w)",
    "class token": "s = Constant <value = int64[3] {1, 2, 16}> () q = Reshape (x, s) "
    "k = Constant <value = float[1, 1, 16] {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> () y = Concat <axis = 1> (k, q)",
    "heads behind the batch": "s = Constant <value = int64[3] {2, 4, 4}> () q = Reshape (x, s) k = Transpose <perm = [0, 2, 1]> (q) "
    "a = MatMul (q, k) t = Constant <value = int64[3] {1, 8, 4}> () y = Reshape (a, t)",
    "windows": "s = Constant <value = int64[6] {1, 2, 2, 2, 2, 2}> () q = Reshape (x, s) "
    "p = Transpose <perm = [0, 2, 4, 3, 5, 1]> (q) t = Constant <value = int64[3] {4, 4, 2}> () w = Reshape (p, t) "
    "m = Constant <value = float[4, 1, 1] {1, 2, 3, 4}> () k = Mul (w, m) u = Softmax <axis = 1> (k) "
    "r = Constant <value = int64[4] {1, 4, 4, 2}> () y = Reshape (u, r)",
    "positions first": "s = Constant <value = int64[3] {1, 2, 16}> () q = Reshape (x, s) p = Transpose <perm = [1, 0, 2]> (q) "
    "t = Constant <value = int64[2] {2, 16}> () r = Reshape (p, t) w = Constant <value = float[16, 1] "
    "{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}> () g = Gemm (r, w) u = Constant <value = int64[3] {2, 1, 1}> () "
    "v = Reshape (g, u) y = Transpose <perm = [1, 0, 2]> (v)",
    "channel shuffle by batch": "s = Constant <value = int64[5] {1, 2, 1, 4, 4}> () a = Reshape (x, s) "
    "b = Transpose <perm = [0, 2, 1, 3, 4]> (a) t = Constant <value = int64[4] {1, 2, 4, 4}> () y = Reshape (b, t)",
    "image taken out, and back": "i = Constant <value = int64 {0}> () g = Gather <axis = 0> (x, i) "
    "a = Constant <value = int64[1] {0}> () y = Unsqueeze (g, a)",
    "squeezed and back": "a = Constant <value = int64[1] {0}> () b = Squeeze (x, a) c = Relu (b) y = Unsqueeze (c, a)",
    "slice of all images": "a = Constant <value = int64[2] {0, 1}> () b = Constant <value = int64[2] {0, 1}> () "
    "c = Constant <value = int64[2] {1, 2}> () y = Slice (x, b, c, a)",
    "slice of the last image": "a = Constant <value = int64[1] {0}> () b = Constant <value = int64[1] {-1}> () "
    "c = Constant <value = int64[1] {9}> () y = Slice (x, b, c, a)",
    "tile": "r = Constant <value = int64[4] {1, 2, 1, 1}> () y = Tile (x, r)",
    "twice, apart again": "y0 = Concat <axis = 0> (x, x) r = Relu (y0) s = Constant <value = int64[2] {1, 1}> () "
    "a, b = Split <axis = 0> (r, s) y = Concat <axis = 1> (a, b)",
    "constant of a shape": "s = Shape (x) c = ConstantOfShape <value = float[1] {2}> (s) y = Concat <axis = 1> (x, c)",
    "expand a constant": "k = Constant <value = float[1, 1, 1, 4] {1, 2, 3, 4}> () s = Constant <value = int64[4] {1, 1, 4, 4}> () "
    "e = Expand (k, s) y = Concat <axis = 1> (e, x)",
    "recurrent": "s = Constant <value = int64[3] {1, 8, 4}> () q = Reshape (x, s) p = Transpose <perm = [1, 0, 2]> (q) "
    "w = Constant <value = float[1, 1, 4] {1, 2, 3, 4}> () r = Constant <value = float[1, 1, 1] {0.5}> () "
    "h = Constant <value = float[1, 1, 1] {0.25}> () a, b = RNN <hidden_size = 1> (p, w, r, , , h) "
    "u = Constant <value = int64[2] {1, 1}> () y = Reshape (b, u)",
    "einsum": 'y = Einsum <equation = "nchw,ndhw->ncd"> (x, x)',
    "positions by number": "f = Constant <value = int64[1] {-1}> () a = Reshape (x, f) "
    "i = Constant <value = int64[1, 3] {31, 0, 7}> () y = Gather (a, i)",
    "assigned to a part": "n = Neg (x) s = Constant <value = int64[1] {1}> () a = Constant <value = int64[1] {1}> () "
    "e = Constant <value = int64[1] {2}> () u = Slice (n, s, e, a) "
    "t = Constant <value = int64[3] {1, 1, 16}> () v = Reshape (u, t) "
    "i = Constant <value = int64[1, 1, 2] {0, 1}> () w = Constant <value = int64[3] {1, 2, 16}> () q = Reshape (x, w) "
    "y = ScatterND (q, i, v)",
    "a grid for all": "g = Constant <value = float[1, 1, 2, 2] {0, 0, 0.5, -0.5}> () y = GridSample (x, g)",
    "resize to the nearest": "s = Constant <value = int64[4] {1, 2, 7, 3}> () y = Resize <mode = \"nearest\"> (x, , , s)",
    "attention": "s = Constant <value = int64[3] {1, 2, 16}> () q = Reshape (x, s) k = Transpose <perm = [0, 2, 1]> (q) "
    "a = MatMul (q, k) b = Softmax <axis = -1> (a) y = MatMul (b, q)",
}  # fmt: skip


@pytest.mark.parametrize("case", BATCHES)
def test_a_hard_coded_batch_becomes_free(tmp_path: Path, case: str) -> None:
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 4, 4] x) => (float y) {{ {BATCHES[case]} }}""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert view.batch is None, view.passes
    assert said(view, "freed the batch dimension (was 1)")
    images = np.random.default_rng(0).normal(size=(4, 2, 4, 4)).astype(np.float32)
    theirs = [run(view.original, input_of(view), images[i : i + 1])[0] for i in range(4)]
    ours = run(view.proto, view.input_name, images)[0]
    np.testing.assert_allclose(ours, np.stack(theirs).reshape(ours.shape), rtol=1e-5, atol=1e-6)


WITHOUT_AN_AXIS = {
    "squeeze all": "p = GlobalAveragePool (x) y = Squeeze (p)",
    "image taken out": "i = Constant <value = int64 {0}> () y = Gather <axis = 0> (x, i)",
}


@pytest.mark.parametrize("case", WITHOUT_AN_AXIS)
def test_an_output_keeps_the_shape_that_the_file_gives_it(tmp_path: Path, case: str) -> None:
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 4, 4] x) => (float y) {{ {WITHOUT_AN_AXIS[case]} }}""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert view.batch == 1
    assert said(view, "left the batch at 1: the output 'y' has no axis for the images")
    image = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        run(view.proto, view.input_name, image)[0], run(view.original, input_of(view), image)[0]
    )


MIXING = {
    "mean over images": "y = ReduceMean <axes = [0, 2, 3]> (x)",
    "reshape that joins": "s = Constant <value = int64[3] {2, 1, 16}> () t = Transpose <perm = [1, 0, 2, 3]> (x) "
    "a = Reshape (t, s) y = ReduceMax <axes = [0, 1]> (a)",
    "softmax over images": "y = Softmax <axis = 0> (x)",
    "weights by image": "s = Constant <value = int64[4] {2, 1, 4, 4}> () w = Reshape (x, s) z = Constant <value = int64[4] {1, 1, 8, 4}> () "
    "a = Reshape (x, z) y = Conv (a, w)",
    "statistics over images": "o = Constant <value = float[2] {1, 1}> () "
    "y, m, v = BatchNormalization <training_mode = 1> (x, o, o, o, o)",
    "positions through all images": "y, i = MaxPool <kernel_shape = [2, 2]> (x)",
    "quantised by the whole batch": "q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)",
    "unknown operator": "y = CumSum (x, k)",
}


@pytest.mark.parametrize("case", MIXING)
def test_a_batch_that_is_mixed_stays_as_it_is(tmp_path: Path, case: str) -> None:
    path = parse(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1, 2, 4, 4] x) => (float y) <int64 k = {{0}}> {{ {MIXING[case]} }}""",
        tmp_path,
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert view.batch == 1
    assert said(view, "left the batch at 1")
    image = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    ours, theirs = run(view.proto, view.input_name, image), run(view.original, input_of(view), image)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)


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


# --- given sizes ----------------------------------------------------------------------------------------------------


FREE = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, height, ?] x) => (float y) {
    s = Shape (x) a = Constant <value = int64[1] {2}> () b = Constant <value = int64[1] {4}> () h = Slice (s, a, b)
    p = ReduceProd <axes = [0]> (h) k = Constant <value = int64[2] {-1, 3}> () t = Concat <axis = 0> (k, p)
    r = Reshape (x, t) y = ReduceMean <axes = [2], keepdims = 0> (r) }"""


def free(folder: Path) -> Path:
    model = parser.parse_model(FREE)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return save(model, folder)


def test_sizes_of_free_dimensions_may_be_given(tmp_path: Path) -> None:
    view = open_model(free(tmp_path), sizes={"height": 8, "x:3": 6})
    assert view.input_size == (8, 6)
    assert view.layer("r").shape == (None, 3, 48)
    assert operators(view) == ["Reshape", "ReduceMean"]
    assert said(view, "set height to 8, x:3 to 6")
    images = np.random.default_rng(0).random((2, 3, 8, 6), dtype=np.float32)
    np.testing.assert_allclose(run(view.proto, view.input_name, images)[0], images.mean((2, 3)), rtol=1e-5)
    assert open_model(free(tmp_path)).input_size is None


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"hight": 8}, "did you mean 'height'"),
        ({"zzz": 8}, "'N', 'x:0', 'height', 'x:2', 'x:3'"),
        ({"x:1": 8}, "no free dimension 'x:1'"),
        ({"height": 0}, "no size"),
        ({"height": True}, "no size"),
        ({"height": 1 << 40}, "no size"),
    ],
)
def test_a_size_for_no_free_dimension_is_refused(tmp_path: Path, sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        open_model(free(tmp_path), sizes=sizes)
    assert words in str(caught.value)


def test_numbers_of_any_kind_may_be_the_input(tmp_path: Path) -> None:
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (bool[N, 4] mask, int64[N, 5] tokens) => (float[N, 4] y) {
        y = Cast <to = 1> (mask) }""",
        tmp_path,
    )
    assert open_model(path).names[open_model(path).input_name] == "mask"
    path = parse(
        """<ir_version: 8, opset_import: ["": 17]> g (int64[N, 5] tokens, float[N, 3, 8, 8] image) => (float y) {
        y = Relu (image) }""",
        tmp_path,
    )
    assert open_model(path).names[open_model(path).input_name] == "image"
