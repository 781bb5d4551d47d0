"""Small models on which the package onnx2torch 1.5.15 goes wrong, in the text form of the onnx package.

docs/onnx2torch.md explains each; tests/convert/test_onnx2torch_faults.py shows that they convert rightly here, and
`python -m benchmarks.stock_onnx2torch faults` says what the installed onnx2torch makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto


@dataclass(frozen=True)
class Fault:
    """One small model.

    Attributes:
        name: what docs/onnx2torch.md calls it.
        opset: opset version of the model.
        text: the graph, as of `onnx.parser`; nodes are named by what they make unless `node_names` says otherwise.
        inputs: values of inputs; standard normal numbers where none are given.
        node_names: position of a node -> its name.
    """

    name: str
    opset: int
    text: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    node_names: Mapping[int, str] = field(default_factory=dict)

    def model(self) -> ModelProto:
        """Return the model."""
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {self.opset}]> {self.text}')
        for index, node in enumerate(model.graph.node):
            node.name = self.node_names.get(index, f"node_{index}")
        return model

    def values(self) -> dict[str, np.ndarray]:
        """Return a value for every input."""
        rng = np.random.default_rng(0)
        given = {}
        for value in self.model().graph.input:
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            given[value.name] = np.asarray(self.inputs.get(value.name, rng.standard_normal(shape))).astype(kind)
        return given

    def arguments(self) -> dict[str, np.ndarray]:
        """Return a value for every input that is no initializer."""
        weights = {tensor.name for tensor in self.model().graph.initializer}
        return {name: value for name, value in self.values().items() if name not in weights}


FAULTS = (
    Fault("cumsum_direction", 14, "g (float[5] x, int64 axis) => (float[5] y) { y = CumSum(x, axis) }", {"axis": 0}),
    Fault("nonzero_layout", 13, "g (float[2,3] x) => (int64[2,n] y) { y = NonZero(x) }", {"x": [[1, 0, 2], [0, 3, 0]]}),
    Fault(
        "layer_norm_outputs",
        17,
        "g (float[2,3] x, float[3] w, float[3] b) => (float[2,3] y, float[2,1] mean, float[2,1] inverse) "
        "{ y, mean, inverse = LayerNormalization(x, w, b) }",
    ),
    Fault(
        "gather_elements_negative",
        13,
        "g (float[3,2] x, int64[1,2] i) => (float[1,2] y) { y = GatherElements <axis = 0> (x, i) }",
        {"i": [[-1, -2]]},
    ),
    Fault(
        "gather_nd_batch",
        13,
        "g (float[2,2,2] x, int64[2,1] i) => (float[2,2] y) { y = GatherND <batch_dims = 1> (x, i) }",
        {"i": [[1], [0]]},
    ),
    Fault(
        "nms_flipped_corners",
        11,
        "g (float[1,3,4] boxes, float[1,1,3] scores) => (int64[n,3] y) "
        "<int64[1] most = {3}, float[1] overlap = {0.5}, float[1] least = {0}> "
        "{ y = NonMaxSuppression(boxes, scores, most, overlap, least) }",
        {"boxes": [[[1, 1, 0, 0], [0, 0.1, 1, 1.1], [0, 10, 1, 11]]], "scores": [[[0.9, 0.75, 0.6]]]},
    ),
    Fault(
        "nms_negative_scores",
        11,
        "g (float[1,2,4] boxes, float[1,1,2] scores) => (int64[n,3] y) <int64[1] most = {3}> "
        "{ y = NonMaxSuppression(boxes, scores, most) }",
        {"boxes": [[[0, 0, 1, 1], [0, 10, 1, 11]]], "scores": [[[-0.5, 0.5]]]},
    ),
    Fault(
        "wide_unsigned",
        14,
        "g (uint32[3] x, uint32[3] z) => (uint32[3] y) { y = Add(x, z) }",
        {"x": [1, 2, 3], "z": [4, 5, 6]},
    ),
    Fault("dropout_mask", 13, "g (float[4,3] x) => (float[4,3] y) { a, mask = Dropout(x) y = Relu(a) }"),
    Fault(
        "max_pool_indices",
        12,
        "g (float[2,1,4,4] x) => (float[2,1,2,2] y) "
        "{ a, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) y = Relu(a) }",
    ),
    Fault(
        "shared_weight",
        13,
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}> "
        "{ v = Identity(w) a = Conv(x, w) y = Conv(a, v) }",
    ),
    Fault("computed_weight", 13, "g (float[1,2,4,4] x, float[2,2,1,1] w) => (float[1,2,4,4] y) { y = Conv(x, w) }"),
    Fault(
        "same_padding",
        13,
        "g (float[1,2,5,5] x) => (float[1,2,3,3] y) <float[2,2,2,2] w = {1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8}> "
        '{ y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w) }',
    ),
    Fault(
        "same_padding_pool",
        12,
        "g (float[1,1,5,5] x) => (float[1,1,3,3] y) "
        '{ y = MaxPool <auto_pad = "SAME_LOWER", kernel_shape = [2,2], strides = [2,2]> (x) }',
    ),
    Fault(
        "average_pool_asymmetric",
        11,
        "g (float[1,1,4,4] x) => (float[1,1,4,4] y) { y = AveragePool <kernel_shape = [2,2], pads = [0,0,1,1]> (x) }",
    ),
    Fault(
        "transposed_output_shape",
        11,
        "g (float[1,1,3,3] x) => (float[1,1,8,8] y) <float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}> "
        "{ y = ConvTranspose <strides = [2,2], output_shape = [8,8]> (x, w) }",
    ),
    Fault("reshape_host", 13, "g (float[2,3] x) => (float[3,2] y) <int64[2] s = {3,2}> { y = Reshape(x, s) }"),
    Fault(
        "slice_host",
        13,
        "g (float[4,3] x) => (float[2,3] y) <int64[1] b = {1}, int64[1] e = {3}> { y = Slice(x, b, e) }",
    ),
    Fault("pad_host", 13, "g (float[2,3] x) => (float[2,5] y) <int64[4] p = {0,1,0,1}> { y = Pad(x, p) }"),
    Fault("squeeze_host", 13, "g (float[2,1,3] x) => (float[2,3] y) <int64[1] a = {1}> { y = Squeeze(x, a) }"),
    Fault("slice_9", 9, "g (float[4,3] x) => (float[2,3] y) { y = Slice <starts = [1], ends = [3]> (x) }"),
    Fault("top_k_1", 9, "g (float[5] x) => (float[2] y, int64[2] i) { y, i = TopK <k = 2> (x) }"),
    Fault("flatten_axis_0", 13, "g (float[2,3] x) => (float[1,6] y) { y = Flatten <axis = 0> (x) }"),
    Fault("flatten_axis_last", 13, "g (float[2,3] x) => (float[6,1] y) { y = Flatten <axis = 2> (x) }"),
    Fault("lrn_even", 13, "g (float[6,6,2,2] x) => (float[6,6,2,2] y) { y = LRN <size = 4, alpha = 1.0> (x) }"),
    Fault("squeeze_negative", 13, "g (float[2,1,1] x) => (float[2] y) <int64[2] a = {-1,-2}> { y = Squeeze(x, a) }"),
    Fault(
        "unsqueeze_negative", 13, "g (float[3] x) => (float[3,1,1] y) <int64[2] a = {-1,-2}> { y = Unsqueeze(x, a) }"
    ),
    Fault(
        "reduce_negative", 13, "g (float[2,3,4] x) => (float[2] y) { y = ReduceMax <axes = [-2,-1], keepdims = 0> (x) }"
    ),
    Fault(
        "reduce_sum_all", 13, "g (float[2,3] x) => (float y) <int64[0] a = {}> { y = ReduceSum <keepdims = 0> (x, a) }"
    ),
    Fault(
        "reduce_integers",
        13,
        "g (int32[2,3] x) => (int32[2,1] y) { y = ReduceL1 <axes = [1]> (x) }",
        {"x": [[1, -2, 3], [4, 5, -6]]},
    ),
    Fault(
        "resize_nearest",
        13,
        "g (float[1,1,5,5] x) => (float[1,1,3,3] y) <float[0] r = {}, float[4] s = {1,1,0.6,0.6}> "
        '{ y = Resize <mode = "nearest"> (x, r, s) }',
    ),
    Fault(
        "resize_asymmetric",
        13,
        "g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[0] r = {}, float[4] s = {1,1,2,2}> "
        '{ y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, r, s) }',
    ),
    Fault(
        "resize_10",
        10,
        'g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> { y = Resize <mode = "linear"> (x, s) }',
    ),
    Fault(
        "resize_cubic",
        13,
        "g (float[1,1,4,4] x) => (float[1,1,8,8] y) <float[0] r = {}, float[4] s = {1,1,2,2}> "
        '{ y = Resize <mode = "cubic", cubic_coeff_a = -0.5> (x, r, s) }',
    ),
    Fault("prelu_last_axis", 16, "g (float[2,3,3] x, float[3] s) => (float[2,3,3] y) { y = PRelu(x, s) }"),
    Fault(
        "is_inf_sign",
        10,
        "g (float[3] x) => (bool[3] y) { y = IsInf <detect_negative = 0> (x) }",
        {"x": [np.inf, -np.inf, 1]},
    ),
    Fault(
        "pow_integer_base",
        15,
        "g (int32[3] x, float[3] p) => (int32[3] y) { y = Pow(x, p) }",
        {"x": [2, 3, 4], "p": [0.5, 2, 1.5]},
    ),
    Fault(
        "clip_integers",
        13,
        "g (int64[3] x) => (int64[3] y) <int64 low = {1}, int64 high = {100000000000}> { y = Clip(x, low, high) }",
        {"x": [0, 16777217, 5]},
    ),
    Fault(
        "range_type",
        11,
        "g (double a, double b, double c) => (double[n] y) { y = Range(a, b, c) }",
        {"a": 0, "b": 1, "c": 0.1},
    ),
    Fault("selu_own_constants", 6, "g (float[3] x) => (float[3] y) { y = Selu <alpha = 2.0, gamma = 1.0> (x) }"),
    Fault(
        "instance_norm_one_pixel",
        6,
        "g (float[2,3,1,1] x) => (float[2,3,1,1] y) <float[3] w = {1,2,3}, float[3] b = {4,5,6}> "
        "{ y = InstanceNormalization(x, w, b) }",
    ),
    Fault("eye_like_wide", 9, "g (float[2,5] x) => (float[2,5] y) { y = EyeLike <k = 3> (x) }"),
    Fault("split_once", 13, "g (float[4,3] x) => (float[4,3] y) { a = Split(x) y = Relu(a) }"),
    Fault(
        "depth_to_space_dcr", 13, "g (float[1,4,2,2] x) => (float[1,1,4,4] y) { y = DepthToSpace <blocksize = 2> (x) }"
    ),
    Fault("dynamic_clip", 13, "g (float[3] x, float low) => (float[3] y) { y = Clip(x, low) }", {"low": 0.1}),
    Fault(
        "training_mode",
        15,
        "g (float[2,2,2,2] x) => (float[2,2,2,2] y) <float[2] w = {1,2}, float[2] b = {0,1}, float[2] m = {1,2}, "
        "float[2] v = {3,4}> { y = BatchNormalization(x, w, b, m, v) }",
    ),
    Fault(
        "batch_norm_7",
        7,
        "g (float[2,2,2,2] x) => (float[2,2,2,2] y) <float[2] w = {1,2}, float[2] b = {0,1}, float[2] m = {1,2}, "
        "float[2] v = {3,4}> { y = BatchNormalization(x, w, b, m, v) }",
    ),
    Fault("reshape_19", 19, "g (float[2,3] x) => (float[3,2] y) <int64[2] s = {3,2}> { y = Reshape(x, s) }"),
    Fault(
        "node_named_like_input",
        13,
        "g (float[3] x) => (float[3] y) { a = Relu(x) y = Add(x, a) }",
        {},
        {0: "x", 1: "sum"},
    ),
    Fault(
        "node_names_meet",
        13,
        "g (float[3] x) => (float[3] y) { a = Relu(x) b = Neg(a) y = Exp(b) }",
        {},
        {0: "n", 1: "n", 2: "n_1"},
    ),
    Fault("node_named_forward", 13, "g (float[3] x) => (float[3] y) { y = Relu(x) }", {}, {0: "forward"}),
    Fault(
        "node_named_initializers",
        13,
        "g (float[3] x) => (float[3] y) <float[3] w = {1,2,3}> { a = Relu(x) y = Add(a, w) }",
        {},
        {0: "initializers", 1: "sum"},
    ),
    Fault(
        "node_name_is_code",
        13,
        "g (float[3] x) => (float[3] y) { y = Relu(x) }",
        {},
        {0: 'training") or exec("raise SystemExit") or getattr(self, "training'},
    ),
    Fault("second_output_only", 13, "g (float[4] x) => (float[2] b) <int64[2] s = {2,2}> { a, b = Split(x, s) }"),
    Fault(
        "outputs_in_order",
        13,
        "g (float[4] x) => (float[2] b, float[4] c, float[2] a) <int64[2] s = {2,2}> { a, b = Split(x, s) c = Neg(x) }",
    ),
    Fault("output_is_input", 13, "g (float[3] x) => (float[3] y, float[3] x) { y = Relu(x) }"),
    Fault(
        "unknown_shape",
        13,
        "g (float[2,2,3,3] x, int64[4] s) => (float[2,2,1,1] y) { a = Reshape(x, s) y = GlobalAveragePool(a) }",
        {"s": [2, 2, 3, 3]},
    ),
)
