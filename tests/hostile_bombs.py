"""Bombs: model files of a few hundred bytes that ask for too much memory or time, and attributes that contradict.

Every function of `BOMBS` and `ATTRIBUTES` returns the bytes of a model with an image input x, [1, 3, 8, 8].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from hostile_parts import HUGE, TERA, Build, content, floats, model, node, numbers, scalar, varint
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

# --- bombs ------------------------------------------------------------------------------------------------------------
#
# Each in several forms: the size is an initializer, is computed from constants (and folded at load), or
# from the image (and known to nobody before the network runs).


def _sizes(form: str, name: str, values: Sequence[int]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Make `name` hold whole numbers."""
    if form == "constant":
        return [], [numbers(name, *values)]
    if form == "folded":
        halves = [[value - value // 2 for value in values], [value // 2 for value in values]]
        return [node("Add", [f"{name}.a", f"{name}.b"], [name])], [
            numbers(f"{name}.a", *halves[0]),
            numbers(f"{name}.b", *halves[1]),
        ]
    offsets = numpy_helper.from_array(np.asarray(values, np.float32), f"{name}.f")
    return [
        node("ReduceMax", ["x"], [f"{name}.m"], keepdims=0),
        node("Sub", [f"{name}.m", f"{name}.m"], [f"{name}.z"]),
        node("Add", [f"{name}.z", f"{name}.f"], [f"{name}.s"]),
        node("Cast", [f"{name}.s"], [name], to=TensorProto.INT64),
    ], [offsets]


def _bomb(
    operator: str,
    inputs: Sequence[str],
    sizes: dict[str, Sequence[int]],
    tensors: Sequence[TensorProto] = (),
    scalars: Sequence[str] = (),
    opset: int = 17,
    **attributes: Any,
) -> dict[str, Build]:
    """Return the forms of one node that makes a huge result of which the output depends."""

    def build(form: str) -> bytes:
        nodes: list[NodeProto] = []
        given = list(tensors)
        for name, values in sizes.items():
            vector = f"{name}.v" if name in scalars else name
            made, constants = _sizes(form, vector, values)
            nodes += made
            given += constants
            if name in scalars:
                given.append(numpy_helper.from_array(np.zeros(0, np.int64), f"{name}.e"))
                nodes.append(node("Reshape", [vector, f"{name}.e"], [name]))
        nodes.append(node(operator, inputs, ["big"], **attributes))
        nodes.append(node("Cast", ["big"], ["big.f"], to=TensorProto.FLOAT))
        nodes.append(node("ReduceMax", ["big.f"], ["big.m"], keepdims=0))
        nodes.append(node("Add", ["x", "big.m"], ["y"]))
        return content(nodes, given, opset=opset)

    forms = ("constant", "folded", "dynamic") if sizes else ("constant",)
    return {f"{operator}-{form}": (lambda form=form: build(form)) for form in forms}


def _labelled(label: str, forms: dict[str, Build]) -> dict[str, Build]:
    return {f"{key}-{label}": build for key, build in forms.items()}


def _asked_sizes() -> dict[str, Build]:
    found: dict[str, Build] = {}
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    for label, size in {"2^40": [1 << 20, 1 << 20], "2^62": [1 << 31, 1 << 31], "2^64": [1 << 32, 1 << 32]}.items():
        found |= _labelled(label, _bomb("ConstantOfShape", ["s"], {"s": size}))
        found |= _labelled(label, _bomb("Expand", ["one", "s"], {"s": size}, [one]))
        found |= _labelled(label, _bomb("Tile", ["one", "s"], {"s": size}, [one]))
        found |= _labelled(label, _bomb("Reshape", ["one", "s"], {"s": size}, [one]))
    found |= _labelled("negative", _bomb("ConstantOfShape", ["s"], {"s": [-1, 5]}))
    found |= _labelled("negative", _bomb("Tile", ["one", "s"], {"s": [-1 << 40, 1 << 40]}, [one]))
    found |= _labelled("all ranks", _bomb("ConstantOfShape", ["s"], {"s": [2] * 63}))
    found |= _labelled("rank 4000", _bomb("ConstantOfShape", ["s"], {"s": [1] * 4000}))
    ends = [scalar("zero", 0), scalar("step", 1)]
    found |= _bomb("Range", ["zero", "e", "step"], {"e": [TERA]}, ends, ["e"])
    found |= _labelled(
        "step 0", _bomb("Range", ["zero", "e", "none"], {"e": [TERA]}, [*ends, scalar("none", 0)], ["e"])
    )
    found |= _bomb("Pad", ["x", "p"], {"p": [0, 0, 0, TERA, 0, 0, TERA, 0]})
    found |= _labelled("negative", _bomb("Pad", ["x", "p"], {"p": [0, 0, 0, -TERA, 0, 0, -TERA, 0]}))
    found |= _labelled("reflect", _bomb("Pad", ["x", "p"], {"p": [0, 0, 0, TERA, 0, 0, TERA, 0]}, mode="reflect"))
    found |= _bomb("Resize", ["x", "", "", "s"], {"s": [1, 3, TERA, TERA]}, mode="linear")
    found |= _labelled("cubic", _bomb("Resize", ["x", "", "", "s"], {"s": [1, 3, 1 << 30, 8]}, mode="cubic"))
    scales = numpy_helper.from_array(np.asarray([1, 1, 1e30, 1e30], np.float32), "scales")
    found |= _labelled("scales", _bomb("Resize", ["x", "", "scales"], {}, [scales], mode="nearest"))
    broken = numpy_helper.from_array(np.asarray([1, 1, np.nan, -np.inf], np.float32), "scales")
    found |= _labelled("nan", _bomb("Resize", ["x", "", "scales"], {}, [broken], mode="linear"))
    found |= _bomb("Upsample", ["x", "scales"], {}, [scales], opset=9)
    pair = numpy_helper.from_array(np.asarray([0, 1], np.float32), "pair")
    found |= _bomb("OneHot", ["i", "d", "pair"], {"d": [TERA]}, [numbers("i", 1, 2, 3), pair], ["d"])
    found |= _bomb("EyeLike", ["c"], {}, [numpy_helper.from_array(np.zeros((1, 1 << 9), np.float32), "c")])
    found |= _bomb("TopK", ["x", "k"], {"k": [HUGE]}, axis=3)
    found |= _labelled("negative", _bomb("TopK", ["x", "k"], {"k": [-5]}, axis=3))
    signal = floats("signal", 1, 8, 1)
    found |= _bomb("DFT", ["signal", "n"], {"n": [HUGE]}, [signal], ["n"])
    found |= _labelled("2^33", _bomb("DFT", ["signal", "n"], {"n": [1 << 33]}, [signal], ["n"]))
    for window in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        found |= _bomb(window, ["n"], {"n": [TERA]}, [], ["n"])
    mel = [scalar("bins", 1 << 20), scalar("rate", 16000)] + [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in {"lo": 0.0, "hi": 8000.0}.items()
    ]
    found |= _bomb("MelWeightMatrix", ["bins", "n", "rate", "lo", "hi"], {"n": [TERA]}, mel, ["n"])
    frames = [floats("frames", 1, 64, 1)]
    found |= _bomb("STFT", ["frames", "step", "", "n"], {"n": [TERA]}, [*frames, scalar("step", 1)], ["n"])
    found |= _labelled("step 0", _bomb("STFT", ["frames", "n", "", "l"], {"n": [0], "l": [8]}, frames, ["n", "l"]))
    found |= _bomb("Slice", ["x", "a", "b", "c", "d"], {"a": [-(1 << 62)], "b": [1 << 62], "c": [3], "d": [1 << 61]})
    found |= _labelled("step 0", _bomb("Slice", ["x", "a", "b", "c", "d"], {"a": [0], "b": [8], "c": [3], "d": [0]}))
    found |= _labelled("axis", _bomb("Slice", ["x", "a", "b", "c", "d"], {"a": [0], "b": [8], "c": [TERA], "d": [1]}))
    found |= _bomb("Trilu", ["x", "k"], {"k": [1 << 62]}, [], ["k"])
    found |= _bomb("Gather", ["x", "i"], {"i": [1 << 31]}, axis=3)
    found |= _bomb("GatherND", ["x", "i"], {"i": [0, -(1 << 40)]})
    found |= _bomb("Unsqueeze", ["x", "a"], {"a": [TERA]})
    found |= _labelled("thousands", _bomb("Unsqueeze", ["x", "a"], {"a": list(range(4000))}))
    found |= _bomb("Squeeze", ["x", "a"], {"a": [TERA]})
    found |= _bomb("Split", ["x", "s"], {"s": [TERA, -TERA + 8]}, axis=3)
    found |= _bomb("CumSum", ["x", "a"], {"a": [TERA]}, [], ["a"])
    found |= _bomb("AffineGrid", ["theta", "s"], {"s": [1, 1, 1 << 20, 1 << 20]}, [floats("theta", 1, 2, 3)], opset=20)
    found |= _bomb("CenterCropPad", ["x", "s"], {"s": [TERA, TERA]}, opset=18, axes=[2, 3])
    columns = floats("columns", 1, 5, 5)
    found |= _bomb("Col2Im", ["columns", "s", "b"], {"s": [1 << 30, 1 << 30], "b": [1, 5]}, [columns], opset=18)
    found |= _bomb("MaxUnpool", ["x", "i", "s"], {"s": [1, 3, TERA, TERA]},
                   [numpy_helper.from_array(np.zeros((1, 3, 8, 8), np.int64), "i")], kernel_shape=[2, 2])  # fmt: skip
    return found


def _attributes() -> dict[str, Build]:
    """Attributes that ask for too much, or that contradict."""
    found: dict[str, Build] = {}

    def add(label: str, operator: str, inputs: Sequence[str] = ("x",), *tensors: TensorProto, opset: int = 17,
            outputs: int = 1, domain: str = "", **attributes: Any) -> None:  # fmt: skip
        def build() -> bytes:
            names = ["big", *(f"extra{index}" for index in range(1, outputs))]
            nodes = [helper.make_node(operator, inputs, names, domain=domain, **attributes)]
            nodes += [node("Cast", ["big"], ["f"], to=TensorProto.FLOAT), node("ReduceMax", ["f"], ["m"], keepdims=0)]
            nodes.append(node("Add", ["x", "m"], ["y"]))
            return content(nodes, tensors, opset=opset, domains=[domain] if domain else [])

        found[f"{operator}-{label}"] = build

    w, wt = floats("w", 2, 3, 3, 3), floats("w", 3, 2, 3, 3)
    for label, change in {
        "pads 2^60": {"pads": [HUGE] * 4},
        "pads 2^40": {"pads": [TERA] * 4},
        "pads 2^19": {"pads": [1 << 19] * 4},
        "pads negative": {"pads": [-5] * 4},
        "strides 0": {"strides": [0, 0]},
        "strides negative": {"strides": [-1, -1]},
        "strides 2^62": {"strides": [1 << 62] * 2},
        "dilations 2^60": {"dilations": [HUGE, HUGE]},
        "dilations 0": {"dilations": [0, 0]},
        "rank": {"kernel_shape": [3, 3, 3], "pads": [1] * 6, "strides": [1] * 3},
        "auto_pad": {"auto_pad": "SAME_UPPER", "strides": [0, 0]},
        "auto_pad unknown": {"auto_pad": "<script>\x1b[31m"},
    }.items():
        kernel = {"kernel_shape": [3, 3], **change}
        add(label, "Conv", ("x", "w"), w, **change)
        add(label, "ConvTranspose", ("x", "w"), wt, **change)
        add(label, "MaxPool", ("x",), **kernel)
        add(label, "AveragePool", ("x",), opset=19, count_include_pad=1, **kernel)
        add(label, "LpPool", ("x",), opset=18, **kernel)
        add(label, "DeformConv", ("x", "w", "o"), w, floats("o", 1, 18, 6, 6), opset=19, **change)
    add("kernel 2^60", "MaxPool", kernel_shape=[HUGE, HUGE], pads=[HUGE] * 4)
    add("kernel 0", "MaxPool", kernel_shape=[0, 0])
    add("kernel 2^15", "AveragePool", kernel_shape=[1 << 15] * 2, pads=[1 << 15] * 4)
    add("group", "Conv", ("x", "w"), w, group=7)
    add("group 0", "Conv", ("x", "w"), w, group=0)
    add("group negative", "Conv", ("x", "w"), w, group=-(1 << 62))
    add("group 2^62", "ConvTranspose", ("x", "w"), wt, group=1 << 62)
    add("output_shape", "ConvTranspose", ("x", "w"), wt, output_shape=[TERA, TERA])
    add("output_padding", "ConvTranspose", ("x", "w"), wt, output_padding=[TERA, TERA])
    add("strides 2^20", "ConvTranspose", ("x", "w"), wt, strides=[1 << 20] * 2)
    add("weights of rank 2", "Conv", ("x", "w"), floats("w", 2, 3))
    add("offset_group 0", "DeformConv", ("x", "w", "o"), w, floats("o", 1, 18, 6, 6), opset=19, offset_group=0)
    add("perm repeated", "Transpose", perm=[0, 0, 0, 0])
    add("perm outside", "Transpose", perm=[0, 1, 2, TERA])
    add("perm of another rank", "Transpose", perm=[1, 0])
    for operator in ("Softmax", "LogSoftmax", "Flatten", "ArgMax", "LayerNormalization", "Hardmax"):
        extra = (floats("s", 8),) if operator == "LayerNormalization" else ()
        add("axis 2^62", operator, ("x", "s") if extra else ("x",), *extra, axis=1 << 62)
        add("axis -2^62", operator, ("x", "s") if extra else ("x",), *extra, axis=-(1 << 62))
    add("axis", "Concat", ("x", "x"), axis=TERA)
    add("axis", "Gather", ("x", "i"), numbers("i", 0), axis=-TERA)
    add("blocksize", "DepthToSpace", blocksize=TERA)
    add("blocksize 0", "DepthToSpace", blocksize=0)
    add("blocksize", "SpaceToDepth", blocksize=-4)
    add("size 2^60", "LRN", size=HUGE)
    add("size 0", "LRN", size=0)
    add("shape 2^62", "RandomNormal", (), shape=[1 << 31, 1 << 31])
    add("shape 2^62", "RandomUniform", (), shape=[1 << 62])
    add("sample_size", "Multinomial", ("p",), floats("p", 1, 4), sample_size=TERA)
    add("num_outputs", "Split", ("x",), opset=18, num_outputs=TERA)
    add("num_outputs 0", "Split", ("x",), opset=18, num_outputs=0)
    add("num_groups 0", "GroupNormalization", ("x", "s", "s"), floats("s", 3), opset=21, num_groups=0)
    add("num_groups", "GroupNormalization", ("x", "s", "s"), floats("s", 3), opset=21, num_groups=TERA)
    add("to unknown", "Cast", to=99999)
    add("to negative", "Cast", to=-1)
    add("block_size", "QuantizeLinear", ("x", "q"), floats("q", 1), opset=21, block_size=TERA)
    add("axis", "QuantizeLinear", ("x", "q"), floats("q", 3), opset=21, axis=TERA)
    add("hundreds", "Einsum", ["x"] * 300, equation=",".join(["abcd"] * 300) + "->a")
    add("outer product", "Einsum", ["x"] * 6, equation="abcd,efgh,ijkl,mnop,qrst,uvwx->abcdefghijklmnopqrstuvwx")
    add(
        "summed outer product",
        "Einsum",
        ["x"] * 12,
        equation=",".join(
            "".join(chr(65 + (4 * i + j) % 26 + (32 if 4 * i + j >= 26 else 0)) for j in range(4)) for i in range(12)
        )
        + "->",
    )
    add("nonsense", "Einsum", equation="->->...,,{}__class__\x00")
    add("long", "Einsum", equation="a" * 100_000 + "->a")
    r, b = floats("r", 1, 4, 4), floats("w", 1, 4, 8)
    sequence = floats("z", 8, 1, 8)
    for operator, gates in {"RNN": 1, "GRU": 3, "LSTM": 4}.items():
        weights = (floats("w", 1, 4 * gates, 8), floats("r", 1, 4 * gates, 4), sequence)
        add("hidden_size 2^40", operator, ("z", "w", "r"), *weights, hidden_size=TERA)
        add("hidden_size 0", operator, ("z", "w", "r"), *weights, hidden_size=0)
        add("activations", operator, ("z", "w", "r"), *weights, hidden_size=4, activations=["__class__"] * gates)
        add("clip", operator, ("z", "w", "r"), *weights, hidden_size=4, clip=float("nan"))
    add("direction", "RNN", ("z", "w", "r"), b, r, sequence, hidden_size=4, direction="import os")
    regions = (numpy_helper.from_array(np.asarray([[0, 0, 1e30, 1e30]], np.float32), "rois"), numbers("batch", 0))
    add("output 2^40", "RoiAlign", ("x", "rois", "batch"), *regions, output_height=TERA, output_width=TERA)
    add("sampling_ratio", "RoiAlign", ("x", "rois", "batch"), *regions, sampling_ratio=1 << 40)
    add("region 1e30", "RoiAlign", ("x", "rois", "batch"), *regions, sampling_ratio=0)
    add("batch 2^40", "RoiAlign", ("x", "rois", "batch"), regions[0], numbers("batch", TERA))
    pooled = numpy_helper.from_array(np.asarray([[0, 0, 0, 1e30, 1e30]], np.float32), "rois")
    add("shape 2^40", "MaxRoiPool", ("x", "rois"), pooled, pooled_shape=[TERA, TERA])
    heads = floats("q", 1, 4, 8)
    for count in (0, HUGE, -3):
        add(f"heads {count}", "Attention", ("q", "q", "q"), heads, opset=23, q_num_heads=count, kv_num_heads=count)
    add("cycle", "TreeEnsembleRegressor", ("t",), floats("t", 1, 2), domain="ai.onnx.ml", n_targets=1,
        nodes_falsenodeids=[0, 0], nodes_featureids=[0, 0], nodes_hitrates=[1.0, 1.0],
        nodes_missing_value_tracks_true=[0, 0], nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ"], nodes_nodeids=[0, 1],
        nodes_treeids=[0, 0], nodes_truenodeids=[1, 0], nodes_values=[0.0, 0.0], target_ids=[0], target_nodeids=[1],
        target_treeids=[0], target_weights=[1.0])  # fmt: skip
    add("targets 2^40", "TreeEnsembleRegressor", ("t",), floats("t", 1, 2), domain="ai.onnx.ml", n_targets=TERA,
        nodes_falsenodeids=[0], nodes_featureids=[1 << 40], nodes_hitrates=[1.0],
        nodes_missing_value_tracks_true=[0], nodes_modes=["LEAF"], nodes_nodeids=[0],
        nodes_treeids=[0], nodes_truenodeids=[0], nodes_values=[0.0], target_ids=[TERA - 1], target_nodeids=[0],
        target_treeids=[0], target_weights=[1.0])  # fmt: skip
    add("imputed", "Imputer", ("t",), floats("t", 1, 2), domain="ai.onnx.ml", imputed_value_floats=[0.0] * 7)
    add("threshold", "NonMaxSuppression", ("boxes", "scores", "most"), floats("boxes", 1, 60, 4),
        floats("scores", 1, 1, 60), numbers("most", 1 << 62))  # fmt: skip
    add("grid nan", "GridSample", ("x", "grid"),
        numpy_helper.from_array(np.full((1, 4, 4, 2), np.nan, np.float32), "grid"))  # fmt: skip
    add("grid 1e38", "GridSample", ("x", "grid"),
        numpy_helper.from_array(np.full((1, 4, 4, 2), 1e38, np.float32), "grid"), mode="bicubic")  # fmt: skip
    add("outside", "ScatterND", ("x", "i", "u"), numpy_helper.from_array(np.asarray([[TERA] * 4], np.int64), "i"),
        floats("u", 1))  # fmt: skip
    add("outside", "ScatterElements", ("x", "i", "u"), numpy_helper.from_array(np.full((1, 1, 1, 1), TERA), "i"),
        floats("u", 1, 1, 1, 1))  # fmt: skip
    add("outside", "GatherElements", ("x", "i"), numpy_helper.from_array(np.full((1, 1, 1, 1), -TERA), "i"))
    add("shape by floats", "Reshape", ("x", "s"), floats("s", 4))
    add("shape by strings", "Reshape", ("x", "s"), helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b"]))
    add("lengths", "ReverseSequence", ("x", "l"), numbers("l", TERA), batch_axis=0, time_axis=3)
    add("exponent", "BitShift", ("s", "s"), numpy_helper.from_array(np.asarray([1 << 63], np.uint64), "s"),
        direction="LEFT")  # fmt: skip
    add("max_gram 2^40", "TfIdfVectorizer", ("i",), numbers("i", 1, 2, 3), max_gram_length=TERA, max_skip_count=TERA,
        min_gram_length=1, mode="TF", ngram_counts=[0, 0], ngram_indexes=[TERA], pool_int64s=[1])  # fmt: skip
    return found


def _doubling(operator: str, times: int, form: str) -> bytes:
    """x doubled many times: Concat with itself, or Tile by two."""
    first = "seed" if form == "constant" else "x"
    nodes, tensors = (
        [],
        [numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "seed"), numbers("two", 1, 1, 1, 2)],
    )
    for index in range(times):
        inputs, name = (first if index == 0 else f"d{index}"), f"d{index + 1}"
        if operator == "Concat":
            nodes.append(node("Concat", [inputs, inputs], [name], axis=3))
        else:
            nodes.append(node("Tile", [inputs, "two"], [name]))
    nodes += [node("ReduceMax", [f"d{times}"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])]
    return content(nodes, tensors)


def _outer_sums() -> bytes:
    """Each Add broadcasts a column against a row: the shape squares."""
    nodes = [node("Reshape", ["x", "column"], ["c0"])]
    tensors = [numbers("column", 192, 1)]
    for index in range(6):
        nodes.append(node("Transpose", [f"c{index}"], [f"r{index}"], perm=[1, 0]))
        nodes.append(node("Add", [f"c{index}", f"r{index}"], [f"a{index}"]))
        tensors.append(numbers(f"s{index}", -1, 1))
        nodes.append(node("Reshape", [f"a{index}", f"s{index}"], [f"c{index + 1}"]))
    nodes += [node("ReduceMax", ["c6"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])]
    return content(nodes, tensors)


def _loop(trips: int, growing: bool = False, depth: int = 1, scanned: int = 0) -> bytes:
    def body(level: int) -> GraphProto:
        inner = [node("Identity", [f"c{level}"], [f"co{level}"])]
        if level > 1:
            inner += [
                helper.make_node("Loop", ["trips", f"c{level}", f"v{level}"], [f"w{level}"], body=body(level - 1))
            ]
        elif growing:
            inner.append(node("Concat", [f"v{level}", f"v{level}"], [f"w{level}"], axis=0))
        else:
            inner.append(node("Neg", [f"v{level}"], [f"w{level}"]))
        outs = [f"co{level}", f"w{level}"]
        if scanned and level == 1:
            inner.append(node("Expand", [f"w{level}", "wide"], ["wide.out"]))
            outs.append("wide.out")
        return helper.make_graph(
            inner,
            "b",
            [
                helper.make_tensor_value_info(f"i{level}", TensorProto.INT64, []),
                helper.make_tensor_value_info(f"c{level}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"v{level}", TensorProto.FLOAT, None),
            ],
            [onnx.ValueInfoProto(name=name) for name in outs],
        )

    tensors = [
        scalar("trips", trips),
        numpy_helper.from_array(np.asarray(True), "go"),
        numbers("wide", 1, 1, scanned, 8),
    ]
    made = ["l", "all"] if scanned else ["l"]
    nodes = [
        node("ReduceMax", ["x"], ["small"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Loop", ["trips", "go", "small"], made, body=body(depth)),
        node("ReduceMax", ["l"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["y"]),
    ]
    return content(nodes, tensors)


def _endless_loop() -> bytes:
    body = helper.make_graph(
        [node("Identity", ["c"], ["co"]), node("Neg", ["v"], ["w"])],
        "b",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
        [onnx.ValueInfoProto(name="co"), onnx.ValueInfoProto(name="w")],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["", "", "x"], ["y"], body=body)]
    return content(nodes)


def _functions(levels: int, calls: int, endless: bool = False) -> bytes:
    """Function i calls function i + 1 several times; the last calls the first if endless."""
    functions = []
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(levels):
        following = f"F{level + 1}" if level + 1 < levels else ("F0" if endless else "")
        nodes = []
        for call in range(calls):
            name = "a" if call == 0 else f"t{call}"
            made = "b" if call == calls - 1 else f"t{call + 1}"
            nodes.append(
                helper.make_node(following, [name], [made], domain="own") if following else node("Relu", [name], [made])
            )
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], nodes, opsets))
    return content([helper.make_node("F0", ["x"], ["y"], domain="own")], domains=["own"], functions=functions)


def _self_call() -> bytes:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], opsets
    )
    return content([helper.make_node("F", ["x"], ["y"], domain="own")], domains=["own"], functions=[function])


def _nested_ifs(depth: int, known: bool) -> bytes:
    """Branches within branches, written as bytes: the message classes would recurse."""
    leaf = helper.make_node("Relu", ["x"], ["o0"])
    graph = helper.make_graph([leaf], "b", [], [onnx.ValueInfoProto(name="o0")])
    inner = graph.SerializeToString()
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "e", [], [onnx.ValueInfoProto(name="e")]).SerializeToString()

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    def branch(name: str, data: bytes) -> bytes:
        return field(5, field(1, name.encode()) + field(6, data) + varint(20 << 3) + varint(AttributeProto.GRAPH))

    for level in range(1, depth + 1):
        body = field(1, b"c") + field(2, f"o{level}".encode()) + field(4, b"If")
        body += branch("then_branch", inner) + branch("else_branch", other)
        inner = field(1, body) + field(2, b"b") + field(12, field(1, f"o{level}".encode()))
    outer = model([node("Relu", ["x"], ["unused"])], outputs=[f"o{depth}"])
    if known:
        outer.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "c"))
    else:
        outer.graph.node.append(node("ReduceMax", ["x"], ["m"], keepdims=0))
        outer.graph.node.append(node("Cast", ["m"], ["c"], to=TensorProto.BOOL))
    # Repeated fields of two messages are joined when they are parsed one behind the other.
    return outer.SerializeToString() + field(7, field(1, body))


def _wide_ifs(levels: int) -> bytes:
    """If nodes one behind another, each with two branches that read the value before it."""
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["c"], to=TensorProto.BOOL)]
    before = "x"
    for level in range(levels):
        graphs = [
            helper.make_graph(
                [node("Neg", [before], [f"{side}{level}"])], side, [], [onnx.ValueInfoProto(name=f"{side}{level}")]
            )
            for side in ("t", "e")
        ]
        nodes.append(helper.make_node("If", ["c"], [f"i{level}"], then_branch=graphs[0], else_branch=graphs[1]))
        before = f"i{level}"
    nodes.append(node("Identity", [before], ["y"]))
    return content(nodes)


def _many_captures(bodies: int, captures: int) -> bytes:
    """Bodies that each read thousands of values from around them."""
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["c"], to=TensorProto.BOOL)]
    nodes += [node("Neg", ["x"], [f"a{index}"]) for index in range(captures)]
    for body in range(bodies):
        graphs = []
        for side in ("t", "e"):
            name = f"{side}{body}"
            inner = [node("Sum", [f"a{index}" for index in range(captures)], [name])]
            graphs.append(helper.make_graph(inner, side, [], [onnx.ValueInfoProto(name=name)]))
        nodes.append(helper.make_node("If", ["c"], [f"i{body}"], then_branch=graphs[0], else_branch=graphs[1]))
    nodes.append(node("Sum", [f"i{body}" for body in range(bodies)], ["y"]))
    return content(nodes)


def _captured_weight(bodies: int, elements: int) -> bytes:
    """One weight of some megabytes, read within many bodies."""
    tensors = [numpy_helper.from_array(np.zeros(elements, np.float32), "w")]
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["c"], to=TensorProto.BOOL)]
    for body in range(bodies):
        graphs = []
        for side in ("t", "e"):
            inner = [node("ReduceMax", ["w"], [f"{side}{body}"], keepdims=0)]
            graphs.append(helper.make_graph(inner, side, [], [onnx.ValueInfoProto(name=f"{side}{body}")]))
        nodes.append(helper.make_node("If", ["c"], [f"i{body}"], then_branch=graphs[0], else_branch=graphs[1]))
    nodes.append(node("Sum", ["x", *(f"i{body}" for body in range(bodies))], ["y"]))
    return content(nodes, tensors)


def _chain(length: int, operator: str = "Relu", **attributes: Any) -> bytes:
    nodes = [
        node(operator, ["x" if index == 0 else f"a{index}"], [f"a{index + 1}"], **attributes) for index in range(length)
    ]
    nodes.append(node("Identity", [f"a{length}"], ["y"]))
    return content(nodes)


def _folded_often(count: int, size: int) -> bytes:
    """Many constants just below the bound for one."""
    tensors = [numbers("s", size)]
    nodes: list[NodeProto] = []
    for index in range(count):
        nodes.append(node("ConstantOfShape", ["s"], [f"k{index}"]))
        nodes.append(node("Relu", [f"k{index}"], [f"r{index}"]))
        nodes.append(node("ReduceMax", [f"r{index}"], [f"m{index}"], keepdims=0))
    nodes.append(node("Sum", ["x", *(f"m{index}" for index in range(count))], ["y"]))
    return content(nodes, tensors)


def _folded_fanout(width: int) -> bytes:
    """Every product needs two constants and is needed twice: work that grows if anything is computed again."""
    tensors = [floats("k", 64, 64)]
    nodes = [
        node("MatMul", ["k" if i == 0 else f"k{i}", "k" if i == 0 else f"k{i}"], [f"k{i + 1}"]) for i in range(width)
    ]
    nodes += [node("ReduceMax", [f"k{width}"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])]
    return content(nodes, tensors)


def _scan(length: int) -> bytes:
    """A Scan over a range that is long."""
    body = helper.make_graph(
        [node("Add", ["s", "e"], ["so"]), node("Neg", ["e"], ["eo"])],
        "b",
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
         helper.make_tensor_value_info("e", TensorProto.FLOAT, [])],
        [onnx.ValueInfoProto(name="so"), onnx.ValueInfoProto(name="eo")],
    )  # fmt: skip
    tensors = [numbers("n", length)]
    nodes = [
        node("ReduceMax", ["x"], ["z"], keepdims=0),
        node("Expand", ["z", "n"], ["long"]),
        helper.make_node("Scan", ["z", "long"], ["so1", "all"], body=body, num_scan_inputs=1),
        node("Add", ["x", "so1"], ["y"]),
    ]
    return content(nodes, tensors)


def _sequence_of_recurrence(steps: int) -> bytes:
    tensors = [numbers("n", steps, 1, 8), floats("w", 1, 4, 8), floats("r", 1, 4, 4)]
    nodes = [
        node("ReduceMax", ["x"], ["z"], keepdims=0),
        node("Expand", ["z", "n"], ["long"]),
        node("RNN", ["long", "w", "r"], ["", "h"], hidden_size=4),
        node("ReduceMax", ["h"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["y"]),
    ]
    return content(nodes, tensors)


BOMBS: dict[str, Build] = {
    **_asked_sizes(),
    "Concat doubled 60 times": lambda: _doubling("Concat", 60, "dynamic"),
    "Concat doubled 60 times-constant": lambda: _doubling("Concat", 60, "constant"),
    "Concat doubled 25 times": lambda: _doubling("Concat", 25, "dynamic"),
    "Tile doubled 60 times": lambda: _doubling("Tile", 60, "dynamic"),
    "Tile doubled 60 times-constant": lambda: _doubling("Tile", 60, "constant"),
    "broadcast sums": _outer_sums,
    "Loop 2^62": lambda: _loop(1 << 62),
    "Loop endless": _endless_loop,
    "Loop growing": lambda: _loop(1 << 62, growing=True),
    "Loop nested": lambda: _loop(100_000, depth=5),
    "Loop nested 20": lambda: _loop(2, depth=20),
    "Loop scanned": lambda: _loop(1 << 62, scanned=1 << 22),
    "Loop negative": lambda: _loop(-5),
    "Scan of 2^33": lambda: _scan(1 << 33),
    "Scan of 2^24": lambda: _scan(1 << 24),
    "RNN of 2^24 steps": lambda: _sequence_of_recurrence(1 << 24),
    "functions 60 deep": lambda: _functions(60, 2),
    "functions 2000 deep": lambda: _functions(2000, 1),
    "functions in a ring": lambda: _functions(3, 1, endless=True),
    "function of itself": _self_call,
    "If 1000 deep": lambda: _nested_ifs(1000, known=False),
    "If 30 deep": lambda: _nested_ifs(30, known=False),
    "If 30 deep, constant": lambda: _nested_ifs(30, known=True),
    "If 24 deep": lambda: _nested_ifs(24, known=False),
    "If 12 deep": lambda: _nested_ifs(12, known=False),
    "If 300 in a row": lambda: _wide_ifs(300),
    "bodies that capture thousands": lambda: _many_captures(10, 1000),
    "bodies that share a weight": lambda: _captured_weight(200, 1 << 20),
    "folded often": lambda: _folded_often(300, 7 << 20),
    "folded products": lambda: _folded_fanout(300),
    "20,000 nodes in a chain": lambda: _chain(20_000),
    "Transpose 5,000 times": lambda: _chain(5_000, "Transpose", perm=[0, 1, 3, 2]),
    "100,001 nodes": lambda: _chain(100_001),
}  # fmt: skip
ATTRIBUTES: dict[str, Build] = _attributes()
