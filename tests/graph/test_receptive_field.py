# ruff: noqa: E501
"""Receptive fields against the slow way: change one pixel at a time and see which positions change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, parser

from onnxviz.graph import GraphView, open_model


def view_of(
    body: str, folder: Path, *, size: tuple[int, int] = (11, 13), channels: int = 1, opset: int = 17
) -> GraphView:
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[N, {channels}, {size[0]}, {size[1]}] x) => (float y) <
        float[1, 1, 3, 3] w3 = {{1, 1, 1, 1, 1, 1, 1, 1, 1}},
        float[1, 1, 2, 4] w24 = {{1, 1, 1, 1, 1, 1, 1, 1}},
        float[1, 1, 1, 1] w1 = {{1}},
        float[4, 1, 2, 2] wide = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
        float[1, 1, 5, 5] w5 = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
        float[1] one = {{1}}
        > {{ {body} }}"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return open_model(path)


def changes(view: GraphView, value: str) -> np.ndarray:
    """Return bool [pixel rows, pixel columns, *the value's shape without the batch]: what changes with each pixel."""
    assert view.input_size is not None
    height, width = view.input_size
    images = np.zeros((1 + height * width, view.input_channels, height, width), np.float32)
    for pixel in range(height * width):
        images[1 + pixel, :, pixel // width, pixel % width] = 1
    if view.input_layout == "NHWC":
        images = images.transpose(0, 2, 3, 1)
    model = ModelProto()
    model.CopyFrom(view.proto)
    if value not in {output.name for output in model.graph.output}:
        model.graph.output.append(onnx.ValueInfoProto(name=value))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = np.asarray(session.run([value], {view.input_name: images})[0])
    return (result[1:] != result[:1]).reshape(height, width, *result.shape[1:])


def assert_exact(view: GraphView, name: str, *, mirrored: bool = False) -> None:
    """Every position of the layer sees exactly the box of the pixels that change it."""
    layer = view.layer(name)
    field = view.receptive_field(layer)
    assert field is not None
    changed = changes(view, layer.value)
    assert layer.channel_axis is not None
    changed = changed.any(axis=layer.channel_axis + 1)
    assert view.input_size is not None
    height, width = view.input_size
    for position in np.ndindex(*changed.shape[2:]):
        pixels = np.argwhere(changed[(slice(None), slice(None), *position)])
        seen = field.seen(position)
        if not len(pixels):
            assert seen == (0, 0, 0, 0), position
            continue
        low, high = pixels.min(0), pixels.max(0) + 1
        assert seen == (low[0], low[1], high[0], high[1]), (name, position)
        top, left, bottom, right = field.box(position)
        if mirrored:
            continue  # nominally such padding lies beyond the border
        # The nominal box, cut off at the border, is no smaller than what is seen.
        assert max(top, 0) <= seen[0]
        assert max(left, 0) <= seen[1]
        assert min(bottom, height) >= seen[2]
        assert min(right, width) >= seen[3]


GRAPHS = {
    "one convolution": "y = Conv <pads = [1, 1, 1, 1]> (x, w3)",
    "stride and dilation": "a = Conv <strides = [2, 1], dilations = [1, 2], pads = [1, 0, 0, 2]> (x, w3) y = Conv <pads = [1, 1, 1, 1]> (a, w3)",
    "uneven kernel": "a = Conv <strides = [2, 3]> (x, w24) y = Conv <pads = [0, 1, 1, 2]> (a, w24)",
    "same upper": "y = Conv <auto_pad = \"SAME_UPPER\", strides = [2, 2]> (x, w24)",
    "same lower": "y = Conv <auto_pad = \"SAME_LOWER\", strides = [2, 2]> (x, w24)",
    "valid": "y = Conv <auto_pad = \"VALID\", strides = [2, 2]> (x, w3)",
    "max pool ceil": "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
    "average pool": "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3) y = AveragePool <kernel_shape = [2, 2], pads = [1, 0, 0, 1]> (a)",
    "two paths": "a = Conv <pads = [1, 1, 1, 1]> (x, w3) b = Conv (x, w1) y = Add (a, b)",
    "two paths of other reach": "a = Conv <pads = [2, 2, 2, 2]> (x, w5) b = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (x, w3) y = Concat <axis = 1> (b, a)",
    "pad constant": "p = Constant <value = int64[8] {0, 0, 2, 1, 0, 0, 1, 3}> () a = Pad (x, p) y = Conv (a, w3)",
    "pad reflect": "p = Constant <value = int64[8] {0, 0, 2, 1, 0, 0, 1, 3}> () a = Pad <mode = \"reflect\"> (x, p) y = Conv (a, w1)",
    "pad edge": "p = Constant <value = int64[8] {0, 0, 2, 1, 0, 0, 1, 3}> () a = Pad <mode = \"edge\"> (x, p) y = Conv <strides = [2, 2]> (a, w3)",
    "crop": "p = Constant <value = int64[8] {0, 0, -2, -1, 0, 0, -1, 0}> () a = Pad (x, p) y = Conv (a, w3)",
    "slice": "s = Constant <value = int64[2] {1, -1}> () e = Constant <value = int64[2] {9, -100}> () i = Constant <value = int64[2] {2, 3}> () "
    "t = Constant <value = int64[2] {2, -3}> () a = Slice (x, s, e, i, t) y = Conv (a, w1)",
    "transposed": "y = ConvTranspose <strides = [2, 2], pads = [1, 0, 0, 1]> (x, w3)",
    "transposed with gaps": "y = ConvTranspose <strides = [3, 2]> (x, w24)",
    "transposed deep": "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3) b = ConvTranspose <strides = [2, 2], output_padding = [1, 0]> (a, w3) y = Conv (b, w3)",
    "transposed to a size": "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3) y = ConvTranspose <strides = [2, 2], output_shape = [12, 14]> (a, w3)",
    "resize nearest": "s = Constant <value = float[4] {1, 1, 2, 1.5}> () a = Resize <mode = \"nearest\"> (x, , s) y = Conv <pads = [1, 1, 1, 1]> (a, w3)",
    "resize nearest floor": "s = Constant <value = float[4] {1, 1, 0.6, 2}> () y = Resize <mode = \"nearest\", nearest_mode = \"floor\", coordinate_transformation_mode = \"asymmetric\"> (x, , s)",
    "resize linear": "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3) s = Constant <value = float[4] {1, 1, 2, 2}> () y = Resize <mode = \"linear\"> (a, , s)",
    "resize corners": "s = Constant <value = int64[4] {1, 1, 21, 25}> () y = Resize <mode = \"linear\", coordinate_transformation_mode = \"align_corners\"> (x, , , s)",
    "depth to space": "a = Conv <strides = [2, 2]> (x, wide) y = DepthToSpace <blocksize = 2> (a)",
    "space to depth": "p = Constant <value = int64[8] {0, 0, 0, 0, 0, 0, 1, 1}> () a = Pad (x, p) b = SpaceToDepth <blocksize = 2> (a) y = Relu (b)",
    "concat along rows": "a = Conv (x, w3) b = MaxPool <kernel_shape = [2, 3]> (x) y = Concat <axis = 2> (a, b)",
    "split along columns": "s = Constant <value = int64[2] {6, 7}> () a, b = Split <axis = 3> (x, s) y = Conv (b, w3)",
    "global pool": "a = Conv <strides = [2, 2]> (x, w3) y = GlobalAveragePool (a)",
    "mean over rows": "a = Conv (x, w3) y = ReduceMean <axes = [2], keepdims = 1> (a)",
    "gate": "a = Conv <strides = [2, 2]> (x, w3) p = GlobalAveragePool (a) s = Add (p, one) t = Add (a, one) y = Mul (t, s)",
    "instance norm": "a = Conv (x, w3) m = ReduceMean <axes = [2, 3]> (a) y = Sub (a, m)",
    "transpose twice": "a = Transpose <perm = [0, 2, 3, 1]> (x) b = Relu (a) c = Transpose <perm = [0, 3, 1, 2]> (b) y = Conv <strides = [2, 2]> (c, w3)",
}  # fmt: skip


NEWER = {
    "pad with axes": (18, "p = Constant <value = int64[2] {2, 1}> () a = Constant <value = int64[1] {-1}> () "
                      "q = Pad (x, p, , a) y = Conv (q, w24)"),
    "resize with axes": (18, "s = Constant <value = int64[2] {22, 26}> () r = Resize <mode = \"nearest\", axes = [2, 3]> (x, , , s) "
                         "y = Conv (r, w3)"),
    "resize with one axis": (18, "s = Constant <value = float[1] {2}> () r = Resize <mode = \"nearest\", axes = [3]> (x, , s) "
                             "y = Conv (r, w3)"),
    "resize that smooths": (18, "s = Constant <value = int64[2] {5, 4}> () "
                            "y = Resize <mode = \"linear\", antialias = 1, axes = [2, 3]> (x, , , s)"),
    "resize that keeps the aspect": (18, "s = Constant <value = int64[2] {22, 40}> () y = Resize <mode = \"nearest\", "
                                     "keep_aspect_ratio_policy = \"not_larger\", axes = [2, 3]> (x, , , s)"),
    "reduction with axes": (18, "a = Constant <value = int64[1] {2}> () y = ReduceMax <keepdims = 1> (x, a)"),
    "split by number": (18, "a, b = Split <axis = 2, num_outputs = 2> (x) y = Conv (b, w3)"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEWER)
def test_newer_forms_of_operators_are_read(tmp_path: Path, case: str) -> None:
    opset, body = NEWER[case]
    assert_exact(view_of(body, tmp_path, opset=opset), "y")


@pytest.mark.parametrize("case", GRAPHS)
def test_every_position_sees_exactly_what_changes_it(tmp_path: Path, case: str) -> None:
    view = view_of(GRAPHS[case], tmp_path)
    assert_exact(view, "y", mirrored=case in ("pad reflect", "pad edge"))


def test_dense_layers_see_what_the_map_before_them_sees(tmp_path: Path) -> None:
    view = view_of(
        "a = Conv <strides = [4, 4]> (x, w3) f = Flatten (a) g = ReduceSum <keepdims = 1> (f, k) y = Relu (g) ".replace(
            "g = ReduceSum", "k = Constant <value = int64[1] {1}> () g = ReduceSum"
        ),
        tmp_path,
    )
    assert_exact(view, "y")
    field = view.receptive_field(view.layer("y"))
    assert field is not None
    assert field.box(()) == (0, 0, 11, 11)
    assert field.seen(()) == (0, 0, 11, 11)


def test_the_nominal_box_follows_the_closed_form(tmp_path: Path) -> None:
    """Size and stride of a chain: r += (k - 1) * d * s, s *= stride, start -= pad * s (Araujo et al. 2019)."""
    chain = [(3, 2, 1, 1), (3, 1, 2, 2), (5, 2, 1, 2), (3, 1, 1, 1)]
    body, size, stride, start = "", 1, 1, 0
    for index, (kernel, step, dilation, pad) in enumerate(chain):
        source = "x" if index == 0 else f"a{index}"
        body += (
            f"a{index + 1} = Conv <strides = [{step}, {step}], dilations = [{dilation}, {dilation}], "
            f"pads = [{pad}, {pad}, {pad}, {pad}]> ({source}, w{kernel}) "
        )
        size += (kernel - 1) * dilation * stride
        start -= pad * stride
        stride *= step
    view = view_of(body + "y = Relu (a4)", tmp_path, size=(40, 48))
    field = view.receptive_field(view.layer("y"))
    assert field is not None
    assert field.size == (size, size)
    assert field.stride == (stride, stride)
    for position in [(0, 0), (3, 7), (9, 11)]:
        top, left, bottom, right = field.box(position)
        assert (top, left) == (start + position[0] * stride, start + position[1] * stride)
        assert (bottom - top, right - left) == (size, size)
    with pytest.raises(IndexError):
        field.box((10, 0))
    with pytest.raises(IndexError):
        field.box((0,))


def test_a_layer_in_nhwc_has_the_same_field(tmp_path: Path) -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 9, 10, 3] x) => (float y)
        <float[1, 3, 2, 2] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}> {
        t = Transpose <perm = [0, 3, 1, 2]> (x) a = Conv <strides = [2, 2]> (t, w)
        b = Transpose <perm = [0, 2, 3, 1]> (a) y = Relu (b) }"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    view = open_model(path)
    assert view.input_layout == "NHWC"
    assert view.layer("y").channel_axis == 3
    for name in ("a", "b", "y"):
        assert_exact(view, name)


def test_a_free_size_gives_the_same_sizes_and_strides(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, {}] x) => (float y)
    <float[1, 1, 3, 3] w = {{1, 1, 1, 1, 1, 1, 1, 1, 1}}> {{
    a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w) y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (a, w) }}"""
    fields = []
    for size in ("h, w0", "64, 64"):
        model = parser.parse_model(text.format(size))
        model.graph.output[0].type.tensor_type.ClearField("shape")
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        view = open_model(path)
        field = view.receptive_field(view.layer("y"))
        assert field is not None
        fields.append((field.size, field.stride, field.box((3, 4))))
    assert fields[0] == fields[1] == ((7, 7), (4, 4), (9, 13, 16, 20))


@pytest.mark.zoo
def test_real_models_have_the_fields_of_the_closed_form(zoo: Path) -> None:
    """Walk back from the last convolution along the longest chain of windows: r = r * stride + (kernel - stride)."""
    expected = {
        # 3x3 stride 2, then (depthwise 3x3, 1x1) with strides 1 2 1 2 1 2 1 1 1 1 1 2 1.
        "stm_mobilenet_v1_0.25_224_imagenet": [(3, 2), *((3, s) for s in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1))],
        # 3x3, then three stages of six 3x3, the second and third beginning with stride 2.
        "cifar10_resnet20_ts17": [(3, 1)] * 7 + [(3, 2)] + [(3, 1)] * 5 + [(3, 2)] + [(3, 1)] * 5,
    }
    for name, chain in expected.items():
        size = 1
        for kernel, stride in reversed(chain):
            size = size * stride + kernel - stride
        view = open_model(zoo / "onnx" / f"{name}.onnx")
        convolutions = [
            layer for layer in view.select("all_convs") if 0 not in layer.shape[2:] and layer.shape[2:] != (1, 1)
        ]
        field = view.receptive_field(convolutions[-1])
        assert field is not None
        assert field.size == (size, size)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["cifar10_resnet20_ts17", "mnist", "caffe_lenet", "mlperf_tiny_resnet8_cifar10"])
def test_no_pixel_outside_the_field_changes_a_real_layer(zoo: Path, name: str) -> None:
    view = open_model(zoo / "onnx" / f"{name}.onnx")
    for layer in view.select("all_convs")[:6]:
        field = view.receptive_field(layer)
        assert field is not None
        changed = changes(view, layer.value).any(axis=2)
        for position in np.ndindex(*changed.shape[2:]):
            pixels = np.argwhere(changed[(slice(None), slice(None), *position)])
            top, left, bottom, right = field.seen(position)
            assert (pixels.min(0) >= (top, left)).all()
            assert (pixels.max(0) < (bottom, right)).all()
