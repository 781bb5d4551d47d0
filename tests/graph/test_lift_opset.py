# ruff: noqa: E501
"""Operators of every opset mean after the lift what they meant before, as ONNX Runtime says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxviz.graph import open_model
from onnxviz.graph.passes.lift_opset import TARGET
from tests.normalised import agree, operators, parse, run, said, save, session

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
    "resize 10 smaller": (10, "s = Constant <value = float[4] {1, 1, 0.4, 0.3}> () y = Resize <mode = \"nearest\"> (x, s)"),
    "resize 10 both": (10, "s = Constant <value = float[4] {1, 1, 0.4, 1.7}> () y = Resize <mode = \"nearest\"> (x, s)"),
    "resize 10 linear": (10, "s = Constant <value = float[4] {1, 1, 1.5, 1.5}> () y = Resize <mode = \"linear\"> (x, s)"),
    "resize 10 cubic": (10, "s = Constant <value = float[4] {1, 1, 1.5, 0.7}> () y = Resize <mode = \"cubic\"> (x, s)"),
    "upsample cubic": (9, "s = Constant <value = float[4] {1, 1, 2, 3}> () y = Upsample <mode = \"cubic\"> (x, s)"),
    "upsample 7 cubic": (7, "y = Upsample <mode = \"cubic\", scales = [1.0, 1.0, 2.0, 1.5]> (x)"),
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
