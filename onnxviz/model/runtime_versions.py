"""A model written as the installed ONNX Runtime reads it: exporters are often newer, and few files need that."""

from __future__ import annotations

from functools import lru_cache

import onnx
from onnx import ModelProto, TensorProto

from onnxviz.core.errors import ModelError, shorten
from onnxviz.graph.tensors import all_nodes, subgraphs

_ELEMENTS = {
    9: ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"),
    10: ("UINT4", "INT4"),
    11: ("FLOAT4E2M1",),
    12: ("FLOAT8E8M0",),
    13: ("UINT2", "INT2"),
    14: ("FLOAT6E2M3", "FLOAT6E3M2"),
}
"""IR version -> the element types that it brought: ONNX, docs/IR.md and the release notes."""
_NAMES = dict(TensorProto.DataType.items())
_SINCE = {_NAMES[name]: version for version, names in _ELEMENTS.items() for name in names if name in _NAMES}
_LAST = max(_SINCE, default=0)
_OLD = (8, 17)
"""IR version and opset that every ONNX Runtime reads with which onnxviz works."""


def make_readable(model: ModelProto) -> None:
    """Give a model an IR version and an opset that ONNX Runtime reads, if what it holds means the same there.

    Raises:
        ModelError: if an operator or an element type in it came with a version that ONNX Runtime does not know.
    """
    if model.ir_version > _OLD[0] and model.ir_version > newest_ir_version():
        _lower_ir_version(model, newest_ir_version())
    places = [model, *model.functions]
    declared = [entry for place in places for entry in place.opset_import if entry.domain in ("", "ai.onnx")]
    if any(entry.version > _OLD[1] and entry.version > newest_opset() for entry in declared):
        version, newest = max(entry.version for entry in declared), newest_opset()
        _refuse_newer_operators(model, version, newest)
        for entry in declared:
            entry.version = min(entry.version, newest)


@lru_cache(maxsize=1)
def newest_ir_version() -> int:
    """Return the newest IR version that the installed ONNX Runtime reads, of those that the onnx package knows."""
    return next((version for version in range(onnx.IR_VERSION, _OLD[0], -1) if _reads(version, _OLD[1])), _OLD[0])


@lru_cache(maxsize=1)
def newest_opset() -> int:
    """Return the newest opset that the installed ONNX Runtime reads, of those that the onnx package knows."""
    newest = onnx.defs.onnx_opset_version()
    return next((version for version in range(newest, _OLD[1], -1) if _reads(_OLD[0], version)), _OLD[1])


def _reads(ir_version: int, opset: int) -> bool:
    import onnxruntime

    value = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "graph", [value], [result])
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # every kind of refusal has a class of its own, and none is public
        return False
    return True


def _lower_ir_version(model: ModelProto, newest: int) -> None:
    for element in sorted(element_types(model)):
        since = _SINCE.get(element, model.ir_version if element > _LAST else 0)
        if since > newest:
            name = {number: name for name, number in _NAMES.items()}.get(element, f"element type {element}")
            raise ModelError(
                f"the model holds {name}, which came with IR version {since}; the installed ONNX Runtime reads "
                f"IR version {newest} at most",
                remedy="update onnxruntime, or export with an older element type",
            )
    model.ir_version = newest


def _refuse_newer_operators(model: ModelProto, version: int, newest: int) -> None:
    for node in all_nodes(model):
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, ""):
            continue
        try:
            since = onnx.defs.get_schema(node.op_type, version, "").since_version
        except onnx.defs.SchemaError:
            continue  # not an operator of that opset: ONNX Runtime says so
        if since > newest:
            raise ModelError(
                f"{shorten(node.op_type)} is that of opset {since}; the installed ONNX Runtime knows opset {newest} "
                "at most",
                remedy=f"update onnxruntime, or export for opset {newest}",
            )


def element_types(model: ModelProto) -> set[int]:
    """Return the element types that a model names."""
    nodes = list(all_nodes(model))
    graphs = [model.graph, *(body for node in nodes for body in subgraphs(node))]
    found = {tensor.data_type for graph in graphs for tensor in graph.initializer}
    for graph in graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            found.add(value.type.tensor_type.elem_type)
    for entry in (entry for node in nodes for entry in node.attribute):
        found.add(entry.t.data_type)
        if entry.name in ("to", "dtype", "output_dtype"):
            found.add(int(entry.i))
    return found
