# ruff: noqa: E501
"""The view of a network: layers and their names, selection, roles, channel axes, weights, cost."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from onnxviz.core.errors import ModelFileError, SelectionError
from onnxviz.core.values import PRESETS
from onnxviz.graph import GraphView, open_model


def save(model: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


NETWORK = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, 16, 16] image) => (float[N, 5] probabilities)
<float[4] one = {1, 1, 1, 1}, float k = {6}, float z = {0}> {
 [first] a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, conv1_weight)
 [bn] b = BatchNormalization (a, one, one, one, one)
 [act] c = Clip (b, z, k)
 [second] d = Conv <group = 2> (c, features3_weight, bias8)
 [gate] s = Sigmoid (d)
 [swish] e = Mul (d, s)
 [pool] p = GlobalAveragePool (e)
 [flat] f = Flatten (p)
 [fc] l = Gemm <transB = 1> (f, fc_weight, fc_bias)
 [soft] probabilities = Softmax (l) }"""

WEIGHTS = {
    "conv1_weight": ("conv1.weight", (4, 3, 3, 3)),
    "features3_weight": ("features.3.weight", (8, 2, 1, 1)),
    "bias8": ("features.3.bias", (8,)),
    "fc_weight": ("head.fc.weight", (5, 8)),
    "fc_bias": ("head.fc.bias", (5,)),
}


def network(folder: Path) -> GraphView:
    model = parser.parse_model(NETWORK)
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.values():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    for node in model.graph.node:  # the text format has no names with dots
        for index, name in enumerate(node.input):
            node.input[index] = WEIGHTS[name][0] if name in WEIGHTS else name
    return open_model(save(model, folder))


@pytest.fixture
def view(tmp_path: Path) -> GraphView:
    return network(tmp_path)


# --- layers and selection -------------------------------------------------------------------------------------------


def test_layers_are_the_float_tensors_that_depend_on_the_image(view: GraphView) -> None:
    assert [layer.name for layer in view.layers] == [
        "first", "bn", "act", "second", "gate", "swish", "pool", "flat", "fc", "soft",
    ]  # fmt: skip
    assert [layer.position for layer in view.layers] == list(range(10))
    assert view.layer("second").shape == (None, 8, 8, 8)
    assert view.layer("second").unit_count == 8
    assert view.layer("second").spatial_shape == (8, 8)
    assert (view.input_layout, view.input_channels, view.input_size) == ("NCHW", 3, (16, 16))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("first", "first"), ("a", "first"), ("conv1", "first"), ("features.3", "second"), ("Conv[0]", "first"),
        ("Conv[-1]", "second"), ("first_conv", "first"), ("last_conv", "second"), ("logits", "fc"), ("l", "fc"),
        ("conv1:act", "act"), ("last_conv:act", "swish"), ("Conv[1]:act", "swish"), ("probabilities", "soft"),
        ("pool:act", "pool"),
    ],
)  # fmt: skip
def test_a_layer_is_known_by_many_names(view: GraphView, written: str, name: str) -> None:
    assert view.layer(written).name == name


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("all_convs", ["first", "second"]),
        (["second", "Conv[*", "first"], None),
        (["second", "first", "conv1", "a"], ["first", "second"]),
        ("s*", ["second", "gate", "swish", "soft"]),
        ("f?", ["fc"]),
        ("features.*", ["second"]),
        ("all_convs:act", ["act", "swish"]),
        (["logits", "first_conv"], ["first", "fc"]),
    ],
)
def test_selections_are_in_topological_order_without_repeats(
    view: GraphView, selector: str | list[str], names: list[str] | None
) -> None:
    if names is None:
        with pytest.raises(SelectionError):
            view.select(selector)
    else:
        assert [layer.name for layer in view.select(selector)] == names


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ("frist", "did you mean 'first'"),
        ("seccond:act", "did you mean 'second'"),
        ("al_convs", "'all_convs'"),
        ("Conv[2]", "Conv[0] to Conv[1]"),
        ("Conv[-3]", "2 Conv layers"),
        ("Cnv[0]", "did you mean 'Conv'"),
        ("zzz*", "inspect"),
        ("[" * 50, "inspect"),
        ("", "inspect"),
    ],
)
def test_a_misspelt_layer_is_refused_with_the_nearest(view: GraphView, wrong: str, advice: str) -> None:
    with pytest.raises(SelectionError) as caught:
        view.select(wrong)
    assert advice in str(caught.value)


def test_one_layer_is_not_several(view: GraphView) -> None:
    with pytest.raises(SelectionError, match="stands for 2 layers"):
        view.layer("all_convs")
    with pytest.raises(SelectionError, match="no layer is selected"):
        view.select([])


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) {
        [same] a = Relu (x) [same] b = Neg (a) [other] c = Abs (b) [same] y = Exp (c) }"""
    )
    model.graph.node[2].name = "same#2"
    view = open_model(save(model, tmp_path))
    names = [layer.name for layer in view.layers]
    assert len(set(names)) == 4
    assert names[0] == "same#1"
    assert names[2] == "same#2"
    assert [view.layer(name).name for name in names] == names


def test_nodes_without_names_are_called_like_their_values(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float z) {
        s = Constant <value = int64[2] {1, 3}> () left, right = Split <axis = 1> (x, s) z = Concat <axis = 1> (right, left) }"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert [(layer.name, layer.shape) for layer in view.layers] == [
        ("left", (None, 1)),
        ("right", (None, 3)),
        ("z", (None, 4)),
    ]


def test_torchscript_paths_become_module_names(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] e) {
        a = Relu (x) b = Neg (a) c = Abs (b) d = Relu (c) e = Exp (d) }"""
    )
    names = [
        "/layer4/layer4.0/conv1/Conv",
        "/layer4/layer4.1/conv2/Conv",
        "/layer4/layer4.1/Add",
        "/layer4/layer4.1/Relu_1",
        "/head/Exp",
    ]
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    view = open_model(save(model, tmp_path))
    assert view.layer("layer4.1.conv2").operator == "Neg"
    assert view.layer("layer4.1").operator == "Relu"
    assert [layer.name for layer in view.layers] == [
        "layer4.0.conv1",
        "layer4.1.conv2",
        "/layer4/layer4.1/Add",
        "layer4.1",
        "head",
    ]
    assert view.layer("/layer4/layer4.1/Relu_1").name == "layer4.1"
    assert view.layer("layer4").name == "layer4.1"
    assert view.layer("layer4/layer4.1/Add").operator == "Abs"
    assert view.layer("head").operator == "Exp"


def test_tensorflow_names_work_without_their_port(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }"""
    )
    model.graph.node[0].output[0] = model.graph.output[0].name = "model/relu:0"
    model.graph.node[0].name = "node"
    view = open_model(save(model, tmp_path))
    assert view.layer("model/relu:0") == view.layer("model/relu") == view.layer("node")


# --- logits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "logits"),
    [
        ("y = Softmax (l)", "l"),
        ("y = LogSoftmax <axis = 1> (l)", "l"),
        ("y = Sigmoid (l)", "l"),
        ("y = Relu (l)", "y"),
        ("s = Softmax (l) y = Identity (s)", "l"),
        ("r = Identity (l) s = Softmax (r) t = Constant <value = int64[3] {-1, 5, 1}> () y = Reshape (s, t)", "l"),
        (
            "a = Constant <value = int64[1] {2}> () u = Unsqueeze (l, a) s = Softmax <axis = 1> (u) y = Squeeze (s, a)",
            "u",
        ),
    ],
)
def test_logits_enter_the_final_softmax(tmp_path: Path, tail: str, logits: str) -> None:
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float y) <float[5, 4] w> {{
        l = Gemm <transB = 1> (x, w) {tail} }}"""
    )
    del model.graph.input[1:], model.graph.value_info[:]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((5, 4), np.float32), "w"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert view.logits.name == logits


# --- channel axes ---------------------------------------------------------------------------------------------------


def axes(view: GraphView) -> dict[str, int | None]:
    return {layer.name: layer.channel_axis for layer in view.layers}


def test_channels_are_followed_through_layouts(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 8, 8, 3] x) => (float y) <float[4, 3, 1, 1] w, float[4, 6] m> {
        pre = Abs (x)
        nchw = Transpose <perm = [0, 3, 1, 2]> (pre) conv = Conv (nchw, w) relu = Relu (conv)
        nhwc = Transpose <perm = [0, 2, 3, 1]> (relu) late = Sigmoid (nhwc) dense = MatMul (late, m)
        s = Constant <value = int64[3] {0, 64, 6}> () tokens = Reshape (dense, s) more = Relu (tokens)
        mean = ReduceMean <axes = [1], keepdims = 0> (more) y = Neg (mean) }"""
    )
    del model.graph.input[1:], model.graph.value_info[:]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 6), np.float32), "m"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert view.input_layout == "NHWC"
    assert axes(view) == {
        "pre": 3, "nchw": 1, "conv": 1, "relu": 1, "nhwc": 3, "late": 3, "dense": 3, "tokens": 2, "more": 2, "mean": 1, "y": 1,
    }  # fmt: skip


def test_a_tensor_whose_first_axis_is_not_the_batch_has_no_units(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 2, 2] x) => (float y) {
        s = Constant <value = int64[3] {-1, 2, 4}> () a = Reshape (x, s) t = Constant <value = int64[4] {-1, 4, 2, 2}> ()
        y = Reshape (a, t) }"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    view = open_model(save(model, tmp_path))
    assert axes(view) == {"a": None, "y": 1}


# --- weights and cost -----------------------------------------------------------------------------------------------


def probe(view: GraphView, name: str, images: np.ndarray) -> np.ndarray:
    model = ModelProto()
    model.CopyFrom(view.proto)
    value = view.layer(name).value
    model.graph.output.append(onnx.ValueInfoProto(name=value))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([value], {view.input_name: images})[0])


def test_a_grouped_convolution_has_its_weights(view: GraphView) -> None:
    layer = view.layer("second")
    weight, bias = view.weight(layer), view.bias(layer)
    assert weight is not None
    assert bias is not None
    assert weight.shape == (8, 2, 1, 1)
    assert view.groups(layer) == 2
    assert view.strides(view.layer("first")) == (2, 2)
    assert view.kernel(view.layer("first")) == (3, 3)
    images = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    before = probe(view, "act", images)
    expected = np.concatenate(
        [np.einsum("oi,nihw->nohw", weight[4 * g : 4 * g + 4, :, 0, 0], before[:, 2 * g : 2 * g + 2]) for g in (0, 1)],
        axis=1,
    )
    np.testing.assert_allclose(probe(view, "second", images), expected + bias[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_has_its_scale_in_its_weights(tmp_path: Path, transposed: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 4) if transposed else (4, 5)).astype(np.float32)
    bias = rng.normal(size=(1, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed, alpha=0.5, beta=2.0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    view = open_model(
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), tmp_path)
    )
    layer = view.layer("y")
    x = rng.normal(size=(3, 4)).astype(np.float32)
    own, shift = view.weight(layer), view.bias(layer)
    assert own is not None
    assert shift is not None
    np.testing.assert_allclose(x @ own.T + shift, probe(view, "y", x), rtol=1e-5, atol=1e-6)


def test_a_matmul_has_the_add_behind_it_for_a_bias(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 3] y)
        <float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[1, 3] b = {7, 8, 9}> { m = MatMul (x, w) y = Add (m, b) }"""
    )
    view = open_model(save(model, tmp_path))
    assert view.weight(view.layer("m")).tolist() == [[1, 4], [2, 5], [3, 6]]  # type: ignore[union-attr]
    assert view.bias(view.layer("m")).tolist() == [7, 8, 9]  # type: ignore[union-attr]
    assert view.weight(view.layer("y")) is None


def test_a_transposed_convolution_has_output_channels_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 1, 1)).astype(np.float32)  # 2 groups of 2 in, 3 out
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 2, 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    view = open_model(
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), tmp_path)
    )
    own = view.weight(view.layer("y"))
    assert own is not None
    assert own.shape == (6, 2, 1, 1)
    x = rng.normal(size=(1, 4, 2, 2)).astype(np.float32)
    expected = np.concatenate(
        [np.einsum("oi,nihw->nohw", own[3 * g : 3 * g + 3, :, 0, 0], x[:, 2 * g : 2 * g + 2]) for g in (0, 1)], 1
    )
    np.testing.assert_allclose(probe(view, "y", x), expected, rtol=1e-5, atol=1e-6)


def test_cost_counts_products(view: GraphView) -> None:
    assert view.multiply_adds(view.layer("first")) == 4 * 8 * 8 * 3 * 3 * 3
    assert view.multiply_adds(view.layer("second")) == 8 * 8 * 8 * 2
    assert view.multiply_adds(view.layer("fc")) == 5 * 8
    assert view.multiply_adds(view.layer("pool")) == 0
    assert view.parameters(view.layer("first")) == 4 * 3 * 9
    assert view.parameters(view.layer("fc")) == 45


def test_the_share_of_work_is_that_of_all_layers_before(view: GraphView) -> None:
    costs = [4 * 8 * 8 * 3 * 3 * 3, 8 * 8 * 8 * 2, 5 * 8]
    assert view.share_of_work([view.layer("first")]) == costs[0] / sum(costs)
    assert view.share_of_work([view.layer("pool"), view.layer("first")]) == sum(costs[:2]) / sum(costs)
    assert view.share_of_work([view.layer("fc")]) == 1.0


def test_the_card_says_what_is_known(view: GraphView) -> None:
    card = view.card("mine", PRESETS["caffe"])
    assert (card.alias, card.file, card.opset) == ("mine", "m.onnx", "ai.onnx 17")
    assert card.inputs == ("image: float [N, 3, 16, 16]",)
    assert card.outputs == ("probabilities: float [N, 5]",)
    assert (
        card.preprocessing
        == "caffe: BGR, (0..255 minus 104/117/123) divided by 1, short side resized, centre 0.875 kept of "
        "images that are large enough"
    )
    each = view.card("mine", dataclasses.replace(PRESETS["caffe"], mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0)))
    assert "BGR, (0..255 minus 0) divided by 1, short" in each.preprocessing, "what is alike is said once"
    rows = {row.name: row for row in card.layers}
    assert rows["second"].receptive_field == (3, 3)
    assert rows["fc"].receptive_field is None
    assert card.multiply_adds == 6912 + 1024 + 40
    assert card.parameters == 108 + 4 + 16 + 8 + 40 + 5 + 2
    assert view.receptive_field(view.layer("pool")).seen((0, 0)) == (0, 0, 16, 16)  # type: ignore[union-attr]


# --- what is no good model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = Reshape (x)", "has 1 inputs"),
        ("y, z = Relu (x)", "has 2 outputs"),
        ("y = Transpose <perm = 3> (x)", "attribute 'perm' of type INT"),
        ("y = Cast (x)", "lacks its attribute 'to'"),
        ("y = Concat <axis = 0, axis = 1> (x)", "attribute 'axis' twice"),
        ("y = Where (x, , x)", "lacks its input"),
    ],
)
def test_a_node_that_breaks_the_standard_is_refused(tmp_path: Path, body: str, words: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float y) {{ {body} }}'
    path = save(parser.parse_model(text), tmp_path)
    with pytest.raises(ModelFileError) as caught:
        open_model(path)
    assert words in str(caught.value)
    assert "m.onnx" in str(caught.value)


def test_a_model_without_image_input_is_refused(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (string[N] x) => (string[N] y) { y = Identity (x) }'
    )
    with pytest.raises(ModelFileError, match="no image input"):
        open_model(save(model, tmp_path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_contradictory_graph_never_shows_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    """Attributes and constants take any value; the result is a view or a ModelFileError."""
    integer = st.sampled_from([-9, -2, -1, 0, 1, 2, 3, 7, 1 << 33])
    few = st.lists(integer, min_size=0, max_size=5)
    rank = data.draw(st.integers(1, 4))
    nodes = []
    value = "x"
    constants = []
    for index in range(data.draw(st.integers(1, 4))):
        operator = data.draw(st.sampled_from(["Conv", "MaxPool", "Reshape", "Transpose", "Slice", "Squeeze", "Pad", "Softmax",
                                              "Gather", "Concat", "Flatten", "ReduceMean", "Split", "Resize", "Tile"]))  # fmt: skip
        numbers = data.draw(few)
        name = f"c{index}"
        constants.append(numpy_helper.from_array(np.asarray(numbers, np.int64), name))
        out = f"v{index}"
        attributes: dict[str, object] = {}
        inputs = [value, name]
        if operator == "Conv":
            inputs = [value, "w"]
            attributes = {"strides": data.draw(few), "pads": data.draw(few), "group": data.draw(integer)}
        elif operator == "MaxPool":
            inputs, attributes = [value], {"kernel_shape": data.draw(few), "dilations": data.draw(few)}
        elif operator == "Transpose":
            inputs, attributes = [value], {"perm": numbers}
        elif operator in ("Softmax", "Flatten"):
            inputs, attributes = [value], {"axis": data.draw(integer)}
        elif operator in ("Gather", "Concat", "Split"):
            inputs = [value, name] if operator != "Concat" else [value, value]
            attributes = {"axis": data.draw(integer)}
        elif operator == "ReduceMean":
            inputs, attributes = [value], {"axes": numbers}
        elif operator == "Slice":
            inputs = [value, name, name, name]
        elif operator == "Resize":
            inputs = [value, "", "", name]
        nodes.append(helper.make_node(operator, inputs, [out], **{k: v for k, v in attributes.items() if v != []}))
        value = out
    constants.append(numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8][:rank])],
        [onnx.ValueInfoProto(name=value)],
        constants,
    )
    path = save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", data.draw(st.sampled_from([13, 17])))], ir_version=7
        ),
        tmp_path,
    )
    with contextlib.suppress(ModelFileError):
        view = open_model(path)
        view.card("m", PRESETS["unit"])
        with contextlib.suppress(SelectionError):
            view.receptive_field(view.logits)


def test_a_layer_without_positions_has_no_field(tmp_path: Path) -> None:
    nothing = numpy_helper.from_array(np.asarray([-2], np.int64), "at")
    node = helper.make_node("Slice", ["x", "at", "at", "at"], ["y"])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph([node], "g", [image], [onnx.ValueInfoProto(name="y")], [nothing])
    view = open_model(
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path)
    )
    assert view.receptive_field(view.layer("y")) is None
    assert view.card("m", PRESETS["unit"]).layers[0].receptive_field is None


# --- the zoo --------------------------------------------------------------------------------------------------------


KNOWN = [
    ("squeezenet_fp16", "conv10", "Conv"),
    ("squeezenet_fp16", "last_conv", "Conv"),
    ("squeezenet_fp16", "conv10:act", "Relu"),
    ("squeezenet_fp16", "fire9/concat", "Concat"),
    ("squeezenet_fp16", "fire9/concat_1", "Concat"),
    ("squeezenet_fp16", "logits", "GlobalAveragePool"),
    ("squeezenet_fp16", "first_conv:act", "Relu"),
    ("cifar10_resnet20_dynamo20", "layer2.0.bn1", "Conv"),
    ("cifar10_resnet20_dynamo20", "linear", "Gemm"),
    ("cifar10_resnet20_dynamo20", "logits", "Gemm"),
    ("cifar10_resnet20_ts17", "layer2.0.conv1", "Conv"),
    ("cifar10_resnet20_ts17", "layer3", "Relu"),
    ("cifar10_resnet20_ts17", "logits", "Gemm"),
    ("mnist", "Convolution28", "Conv"),
    ("mnist", "Convolution28:act", "Relu"),
    ("mnist", "logits", "Add"),
    ("caffe_lenet", "conv1", "Conv"),
    ("caffe_lenet", "logits", "Gemm"),
    ("vnn_cifar10_resnet_4b", "layer1.0.conv1", "Conv"),
    ("csinva_mnist_lenet32", "logits", "Gemm"),
    ("stm_mobilenet_v1_0.25_224_imagenet", "mobilenet_0.25_224/conv1_relu/Relu6", "Clip"),
    ("stm_mobilenet_v1_0.25_224_imagenet", "first_conv:act", "Clip"),
    ("mlperf_tiny_resnet8_cifar10", "model/dense/BiasAdd", "Add"),
]


@pytest.mark.zoo
@pytest.mark.parametrize(("model", "name", "operator"), KNOWN)
def test_users_find_layers_of_real_models(zoo: Path, model: str, name: str, operator: str) -> None:
    assert open_model(zoo / "onnx" / f"{model}.onnx").layer(name).operator == operator


@pytest.mark.zoo
def test_every_model_of_the_zoo_opens(zoo: Path) -> None:
    for path in sorted((zoo / "onnx").glob("*.onnx")):
        view = open_model(path)
        names = [layer.name for layer in view.layers]
        assert len(names) == len(set(names)) > 0
        assert all(view.layer(name).name == name for name in names)
        card = view.card("m", PRESETS["unit"])
        assert len(card.layers) == len(names)


@pytest.mark.zoo
def test_known_costs(zoo: Path) -> None:
    """SqueezeNet 1.1 has 1,235,496 parameters and about 0.35 G multiply-adds (its authors' figures)."""
    card = open_model(zoo / "onnx" / "squeezenet_fp16.onnx").card("m", PRESETS["caffe"])
    assert card.parameters == 1_235_496
    assert card.multiply_adds == 349_151_936


@pytest.mark.zoo
def test_the_last_convolution_is_the_last_with_a_map(zoo: Path) -> None:
    """The last of this network's convolutions makes the logits, behind the pooling."""
    view = open_model(zoo / "onnx" / "stm_mobilenet_v1_0.25_224_imagenet.onnx")
    assert view.layer("last_conv").spatial_shape == (7, 7)
    assert view.layer("Conv[-1]").spatial_shape == (1, 1)
