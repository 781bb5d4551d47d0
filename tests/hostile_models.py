"""Model files that an attacker might write: each a few hundred bytes that ask for too much, or a graph that is none.

Every function of `SIZES`, `BOMBS` and `GRAPHS` returns the bytes of a model with an image input x, [1, 3, 8, 8].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from hostile_bombs import ATTRIBUTES, BOMBS
from hostile_parts import TERA, Build, content, floats, model, node, numbers, raw_tensor, varint
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

__all__ = [
    "ATTRIBUTES", "BOMBS", "GRAPHS", "NAMES", "SIZES", "TERA", "Build", "content", "expected", "floats", "model",
    "named", "node", "numbers",
]  # fmt: skip

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
