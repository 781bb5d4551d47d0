# ruff: noqa: E501
"""Graphs that were exported for one image run with any number, and sizes can be given for free dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxviz.core.errors import ModelFileError
from onnxviz.graph import open_model
from tests.normalised import input_of, operators, parse, run, said, save

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
