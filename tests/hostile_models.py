"""Model files that an attacker might write: each a few hundred bytes that ask for too much, or a graph that is none.

Every function of `SIZES`, `BOMBS` and `GRAPHS` returns the bytes of a model with an image input x, [1, 3, 8, 8].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

HUGE = 1 << 60
TERA = 1 << 40
Build = Callable[[], bytes]

# --- parts ------------------------------------------------------------------------------------------------------------


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def numbers(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def scalar(name: str, value: int) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.int64), name)


def floats(name: str, *shape: int) -> TensorProto:
    generator = np.random.default_rng(len(name))
    return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)


def raw_tensor(name: str, dims: Sequence[int], data: bytes | None = b"", kind: int = TensorProto.FLOAT) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=dims)
    if data is not None:
        tensor.raw_data = data
    return tensor


def model(
    nodes: Sequence[NodeProto],
    tensors: Sequence[TensorProto] = (),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        list(tensors),
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 22 else 11, functions=list(functions))


def content(*args: Any, **named: Any) -> bytes:
    return model(*args, **named).SerializeToString()


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


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

# --- tensors ----------------------------------------------------------------------------------------------------------


def _with_tensor(tensor: TensorProto) -> bytes:
    made = model([node("Cast", ["t"], ["f"], to=TensorProto.FLOAT), node("ReduceMax", ["f"], ["m"], keepdims=0),
                  node("Add", ["x", "m"], ["y"])])  # fmt: skip
    made.graph.initializer.append(tensor)
    return made.SerializeToString()


def _as_attribute(tensor: TensorProto) -> bytes:
    return content(
        [
            node("Constant", [], ["t"], value=tensor),
            node("ReduceMax", ["t"], ["m"], keepdims=0),
            node("Add", ["x", "m"], ["y"]),
        ]
    )


def _typed(kind: int, dims: Sequence[int], field: str, values: Sequence[Any]) -> bytes:
    tensor = TensorProto(name="t", data_type=kind, dims=dims)
    getattr(tensor, field).extend(values)
    return _with_tensor(tensor)


def _sparse(dims: Sequence[int], indices: np.ndarray, values: int, attribute: bool = False) -> bytes:
    sparse = SparseTensorProto(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(values, np.float32), "t"))
    sparse.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), "t_indices"))
    if attribute:
        made = model([NodeProto(op_type="Constant", output=["t"]), node("ReduceMax", ["t"], ["m"], keepdims=0),
                      node("Add", ["x", "m"], ["y"])])  # fmt: skip
        made.graph.node[0].attribute.append(
            AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
        )
        return made.SerializeToString()
    made = model([node("ReduceMax", ["t"], ["m"], keepdims=0), node("Add", ["x", "m"], ["y"])])
    made.graph.sparse_initializer.append(sparse)
    return made.SerializeToString()


SIZES: dict[str, Build] = {
    "dimension 2^40": lambda: _with_tensor(raw_tensor("t", [TERA])),
    "dimension 2^62": lambda: _with_tensor(raw_tensor("t", [1 << 62])),
    "no data at all": lambda: _with_tensor(raw_tensor("t", [TERA], None)),
    "product overflows": lambda: _with_tensor(raw_tensor("t", [1 << 33, 1 << 33])),
    "product overflows to 0": lambda: _with_tensor(raw_tensor("t", [1 << 32, 1 << 32])),
    "product overflows to 4": lambda: _with_tensor(raw_tensor("t", [(1 << 62) + 1, 4], b"\0" * 16)),
    "huge dimension beside 0": lambda: _with_tensor(raw_tensor("t", [1 << 40, 0])),
    "thousands of dimensions": lambda: _with_tensor(raw_tensor("t", [1] * 5000, b"\0" * 4)),
    "dimension negative": lambda: _with_tensor(raw_tensor("t", [-1, -4], b"\0" * 16)),
    "raw data short": lambda: _with_tensor(raw_tensor("t", [4], b"\0" * 15)),
    "raw data long": lambda: _with_tensor(raw_tensor("t", [4], b"\0" * 17)),
    "raw data of strings": lambda: _with_tensor(raw_tensor("t", [4], b"\0" * 4, TensorProto.STRING)),
    "floats missing": lambda: _typed(TensorProto.FLOAT, [4], "float_data", [1.0]),
    "floats in the field of integers": lambda: _typed(TensorProto.FLOAT, [1], "int64_data", [1]),
    "integers too large for their type": lambda: _typed(TensorProto.INT8, [2], "int32_data", [1 << 30, -(1 << 30)]),
    "half too large": lambda: _typed(TensorProto.FLOAT16, [2], "int32_data", [1 << 30, -1]),
    "booleans that are none": lambda: _typed(TensorProto.BOOL, [2], "int32_data", [7, -1]),
    "strings as numbers": lambda: _typed(TensorProto.FLOAT, [2], "string_data", [b"a", b"b"]),
    "strings": lambda: _typed(TensorProto.STRING, [2], "string_data", [b"\xff\xfe", b"import os"]),
    "complex halves": lambda: _typed(TensorProto.COMPLEX64, [2], "float_data", [1.0, 2.0, 3.0]),
    "int4 short": lambda: _with_tensor(raw_tensor("t", [5], b"\0\0", TensorProto.INT4)),
    "int4 long": lambda: _with_tensor(raw_tensor("t", [5], b"\0\0\0\0", TensorProto.INT4)),
    "int4 typed": lambda: _typed(TensorProto.UINT4, [5], "int32_data", [1, 2]),
    "int4 typed too large": lambda: _typed(TensorProto.UINT4, [5], "int32_data", [1 << 20, -1, 255]),
    "element type unknown": lambda: _with_tensor(raw_tensor("t", [1], b"\0" * 4, 99)),
    "element type 0": lambda: _with_tensor(raw_tensor("t", [1], b"\0" * 4, 0)),
    "both raw and typed": lambda: _typed_and_raw(),
    "sparse outside": lambda: _sparse([4, 4], np.asarray([99]), 1),
    "sparse negative": lambda: _sparse([4, 4], np.asarray([-3]), 1),
    "sparse pairs outside": lambda: _sparse([4, 4], np.asarray([[3, 9]]), 1),
    "sparse of the wrong rank": lambda: _sparse([4, 4], np.asarray([[1, 2, 3]]), 1),
    "sparse count": lambda: _sparse([4, 4], np.asarray([1, 2, 3]), 2),
    "sparse huge": lambda: _sparse([1 << 30, 1 << 30], np.asarray([1]), 1),
    "sparse no values": lambda: _sparse([1 << 20], np.asarray([]), 0),
    "sparse negative dims": lambda: _sparse([-4, -4], np.asarray([1]), 1),
    "sparse attribute huge": lambda: _sparse([1 << 30, 1 << 30], np.asarray([1]), 1, attribute=True),
    "sparse attribute outside": lambda: _sparse([4], np.asarray([[9]]), 1, attribute=True),
    "many sparse": lambda: _many_sparse(64),
    "attribute of 2^40": lambda: _as_attribute(raw_tensor("t", [TERA])),
    "attribute short": lambda: _as_attribute(raw_tensor("t", [9], b"\0" * 4)),
    "input of 2^40": lambda: _declared([1, 3, TERA, TERA]),
    "input of 2^62": lambda: _declared([1 << 62, 3, 1 << 62, 8]),
    "input negative": lambda: _declared([-5, 3, -1, 8]),
    "input of rank 3000": lambda: _declared([1] * 3000),
    "input without shape": lambda: _declared(None),
    "output declared 2^62": lambda: _declared_output([1 << 62, 1 << 62]),
    "value declared 2^62": lambda: _declared_value([1 << 62, 1 << 62]),
}  # fmt: skip


def _typed_and_raw() -> bytes:
    tensor = raw_tensor("t", [2], b"\0" * 8)
    tensor.float_data.extend([1.0] * 999)
    return _with_tensor(tensor)


def _many_sparse(count: int) -> bytes:
    """Each sparse tensor is below the bound for one; together they are gigabytes."""
    names = [f"t{index}" for index in range(count)]
    made = model([*(node("ReduceMax", [name], [f"m.{name}"], keepdims=0) for name in names),
                  node("Sum", ["x", *(f"m.{name}" for name in names)], ["y"])])  # fmt: skip
    for name in names:
        sparse = SparseTensorProto(dims=[15 << 20])
        sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), name))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), f"{name}.i"))
        made.graph.sparse_initializer.append(sparse)
    return made.SerializeToString()


def _declared(shape: Sequence[int] | None) -> bytes:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    return made.SerializeToString()


def _declared_output(shape: Sequence[int]) -> bytes:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, shape))
    return made.SerializeToString()


def _declared_value(shape: Sequence[int]) -> bytes:
    made = model([node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["y"])])
    made.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, shape))
    return made.SerializeToString()


# --- graphs that are none ---------------------------------------------------------------------------------------------


def _changed(change: Callable[[ModelProto], Any]) -> bytes:
    made = model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("Add", ["r", "c"], ["y"]),
        ],
        [floats("w", 3, 3, 3, 3)],
    )
    change(made)
    return made.SerializeToString()


def _typed_input(name: str, kind: onnx.TypeProto) -> Callable[[ModelProto], Any]:
    def change(made: ModelProto) -> None:
        made.graph.input.append(helper.make_value_info(name, kind))

    return change


def _only_input(kind: onnx.TypeProto) -> Callable[[ModelProto], Any]:
    def change(made: ModelProto) -> None:
        made.graph.input[0].CopyFrom(helper.make_value_info("x", kind))

    return change


_FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 3, 8, 8])
_KINDS = {
    "sequence": helper.make_sequence_type_proto(_FLOATS),
    "optional": helper.make_optional_type_proto(_FLOATS),
    "map": helper.make_map_type_proto(TensorProto.INT64, _FLOATS),
    "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [1, 3, 8, 8]),
    "opaque": onnx.TypeProto(opaque_type=onnx.TypeProto.Opaque(domain="<script>", name="__class__")),
    "none": onnx.TypeProto(),
    "strings": helper.make_tensor_type_proto(TensorProto.STRING, [1, 3, 8, 8]),
    "complex": helper.make_tensor_type_proto(TensorProto.COMPLEX64, [1, 3, 8, 8]),
    "element 99": helper.make_tensor_type_proto(99, [1, 3, 8, 8]),
    "nested sequences": helper.make_sequence_type_proto(helper.make_sequence_type_proto(_FLOATS)),
}


def _attribute(index: int, given: AttributeProto) -> Callable[[ModelProto], Any]:
    return lambda made: made.graph.node[index].attribute.append(given)


def _wrong_type(name: str, kind: int, **fields: Any) -> Callable[[ModelProto], Any]:
    def change(made: ModelProto) -> None:
        del made.graph.node[0].attribute[:]
        made.graph.node[0].attribute.append(AttributeProto(name=name, type=kind, **fields))

    return change


def _set(made: Any, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(made, name, value)


def _moved(domain: str, operator: str = "Relu") -> Callable[[ModelProto], Any]:
    def change(made: ModelProto) -> None:
        _set(made.graph.node[1], domain=domain, op_type=operator)
        made.opset_import.add(domain=domain, version=1)

    return change


def _empty(made: ModelProto) -> None:
    made.graph.ClearField("node")
    made.graph.ClearField("output")


GRAPHS: dict[str, Build] = {
    key: (lambda change=change: _changed(change))
    for key, change in {
        "cycle": lambda m: m.graph.node[0].input.__setitem__(0, "y"),
        "own output": lambda m: m.graph.node[1].input.__setitem__(0, "r"),
        "made twice": lambda m: m.graph.node[1].output.__setitem__(0, "c"),
        "makes its input": lambda m: m.graph.node[1].output.__setitem__(0, "x"),
        "made twice in one node": lambda m: m.graph.node[1].output.append("r"),
        "missing input": lambda m: m.graph.node[1].input.__setitem__(0, "nobody"),
        "missing input of an operator that is none": lambda m: (
            _set(m.graph.node[1], op_type="\x1b[31m\u202e" * 1000), m.graph.node[1].input.append("nobody")),
        "cycle of an operator that is none": lambda m: (
            _set(m.graph.node[0], op_type="\x1b[31m\u202e"), m.graph.node[0].input.__setitem__(0, "y")),
        "missing output": lambda m: m.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="nobody")),
        "output is an input": lambda m: m.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="x")),
        "output is a weight": lambda m: m.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="w")),
        "output twice": lambda m: m.graph.output.append(m.graph.output[0]),
        "unknown domain": lambda m: _set(m.graph.node[1], domain="evil.example"),
        "unknown domain imported": _moved("evil"),
        "our own domain": _moved("function", "f0"),
        "domain of kept opsets": _moved("opset99999999999999999999"),
        "domain opset0": _moved("opset0"),
        "unknown operator": lambda m: _set(m.graph.node[1], op_type="Nothing"),
        "operator without name": lambda m: _set(m.graph.node[1], op_type=""),
        "training operator": lambda m: _set(m.graph.node[1], op_type="Adam", domain="ai.onnx.preview.training"),
        "no opset": lambda m: m.ClearField("opset_import"),
        "opset 9999": lambda m: _set(m.opset_import[0], version=9999),
        "opset 2^62": lambda m: _set(m.opset_import[0], version=1 << 62),
        "opset 2^31": lambda m: _set(m.opset_import[0], version=1 << 31),
        "opset 0": lambda m: _set(m.opset_import[0], version=0),
        "opset -1": lambda m: _set(m.opset_import[0], version=-1),
        "opset -2^62": lambda m: _set(m.opset_import[0], version=-(1 << 62)),
        "opsets twice": lambda m: m.opset_import.add(domain="", version=7),
        "opsets twice by both names": lambda m: m.opset_import.add(domain="ai.onnx", version=7),
        "ten thousand opsets": lambda m: [m.opset_import.add(domain=f"d{i}", version=1) for i in range(10_000)],
        "ir_version 0": lambda m: _set(m, ir_version=0),
        "ir_version -5": lambda m: _set(m, ir_version=-5),
        "ir_version 2^62": lambda m: _set(m, ir_version=1 << 62),
        "ir_version 3": lambda m: _set(m, ir_version=3),
        "empty graph": _empty,
        "no graph": lambda m: m.ClearField("graph"),
        "no nodes": lambda m: m.graph.ClearField("node"),
        "no outputs": lambda m: m.graph.ClearField("output"),
        "no inputs": lambda m: m.graph.ClearField("input"),
        "input twice": lambda m: m.graph.input.append(m.graph.input[0]),
        "weight twice": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
        "weight is an input": lambda m: m.graph.input.append(
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1 << 40])),
        "image is a weight": lambda m: m.graph.initializer.append(floats("x", 2, 2)),
        "node without outputs": lambda m: m.graph.node.add(op_type="Relu", input=["c"]),
        "node with unnamed outputs": lambda m: m.graph.node.add(op_type="Relu", input=["c"], output=[""]),
        "node without inputs": lambda m: m.graph.node[1].ClearField("input"),
        "unnamed input": lambda m: m.graph.node[0].input.__setitem__(1, ""),
        "thousands of inputs": lambda m: m.graph.node[2].input.extend(["c"] * 5000),
        "thousands of outputs": lambda m: m.graph.node[1].output.extend([f"o{i}" for i in range(5000)]),
        "attribute twice": _attribute(0, helper.make_attribute("pads", [0, 0, 0, 0])),
        "attribute unknown": _attribute(0, helper.make_attribute("__class__", "os.system")),
        "attribute of 1e6 integers": _wrong_type("pads", AttributeProto.INTS, ints=[1] * 1_000_000),
        "attribute of another type": _wrong_type("pads", AttributeProto.FLOATS, floats=[1.0] * 4),
        "attribute of no type": _wrong_type("pads", AttributeProto.UNDEFINED, ints=[1] * 4),
        "attribute of type 77": _attribute(1, AttributeProto.FromString(
            AttributeProto(name="pads", ints=[1]).SerializeToString() + varint(20 << 3) + varint(77))),
        "attribute by reference": _attribute(
            0, AttributeProto(name="group", type=AttributeProto.INT, ref_attr_name="g")),
        "attribute with a graph": _attribute(1, helper.make_attribute("body", helper.make_graph([], "b", [], []))),
        "attribute with an external tensor": _attribute(1, helper.make_attribute(
            "t", TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL,
                             external_data=[onnx.StringStringEntryProto(key="location", value="/etc/passwd")]))),
        "attribute missing": lambda m: _set(m.graph.node[1], op_type="Cast"),
        "If without branches": lambda m: _set(m.graph.node[1], op_type="If"),
        "Loop without a body": lambda m: (_set(m.graph.node[2], op_type="Loop")),
        "metadata twice": lambda m: [m.metadata_props.add(key="a", value=str(i)) for i in range(3)],
        "a million bytes of metadata": lambda m: m.metadata_props.add(key="names", value="[" * 1_000_000),
        **{f"input of type {key}": _typed_input("other", kind) for key, kind in _KINDS.items()},
        **{f"image of type {key}": _only_input(kind) for key, kind in _KINDS.items()},
    }.items()
}  # fmt: skip

# --- names ------------------------------------------------------------------------------------------------------------

NAMES = (
    "a'b\"c`d",
    "line\nbreak\rand\ttab",
    "nul\0inside",
    "forward",
    "training",
    "__class__",
    "self",
    "import os; os.system('x')",
    "{0.__class__.__mro__}",
    "%s%s%n",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><!--",
    "\u202egnp.exe\u2066",
    "\x1b[31mred\x1b]0;title\x07",
    "L" * 100_000,
    "class",
    "lambda",
    "None",
    "v0",
    "v1",
    "n0",
    "f0",
    "d0",
    "input_0",
    "constant_1",
    "empty",
    "root",
    "Relu_1",
    "../../etc/passwd",
    "C:\\con",
    "a/b.c:0",
    "-rf",
    "=1+1",
    "é\u0301\ufeff",
    "\U0001f4a9" * 50,
    " ",
)
"""Names that are code, paths, markup, control characters, words of Python, or identifiers of ours."""


def named(name: str, opset: int = 17) -> ModelProto:
    """Return a model in which everything that may have a free name is called by it; values differ by a suffix."""
    other = f"{name}\u200b"
    function = helper.make_function(
        "own.domain", name, [name], [other], [helper.make_node("Relu", [name], [other], name=name)],
        [helper.make_opsetid("", opset)])  # fmt: skip
    weight = floats(f"{name}w", 4, 3, 3, 3)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [name, f"{name}w"], [f"{name}c"], name=name, pads=[1, 1, 1, 1]),
            helper.make_node(name, [f"{name}c"], [f"{name}r"], name=name, domain="own.domain"),
            helper.make_node("GlobalAveragePool", [f"{name}r"], [f"{name}p"], name=name),
            helper.make_node("Flatten", [f"{name}p"], [other], name=name),
        ],
        name,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [name, 3, 8, 8])],
        [helper.make_tensor_value_info(other, TensorProto.FLOAT, [name, 4])],
        [weight],
        doc_string=name,
    )
    made = helper.make_model(
        graph,
        functions=[function],
        producer_name=name,
        producer_version=name,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("own.domain", 1)],
        ir_version=8,
        doc_string=name,
    )
    made.metadata_props.add(key=name, value=name)
    for part in made.graph.node:
        part.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", name]))
        part.metadata_props.add(key=name, value=name)
        part.doc_string = name
    return made


def expected(made: ModelProto, images: np.ndarray) -> np.ndarray:
    """Compute what a model of `named` computes, from its weight."""
    weight = numpy_helper.to_array(made.graph.initializer[0])
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight), 0).mean((2, 3))
