"""Half, bfloat16 and double precision become float32, in which gradients are taken."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from onnxviz.graph.passes import Draft
from onnxviz.graph.shapes import FLOATS, UNKNOWN, TensorType
from onnxviz.graph.structure import attribute, rename_reads, replace_nodes, set_integer, to_array
from onnxviz.tensors import subgraphs

_OTHER = tuple(element for element in FLOATS if element != TensorProto.FLOAT)
_NAMES = {TensorProto.FLOAT16: "half-precision", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "double"}


def run(draft: Draft) -> str:
    """Convert weights, constants, casts and declared types."""
    graph = draft.graph
    weights: dict[str, int] = {}
    for tensor in graph.initializer:
        if tensor.data_type in _OTHER:
            kind = _NAMES[tensor.data_type]
            weights[kind] = weights.get(kind, 0) + 1
            _convert(tensor)
    changed = False
    stack = [graph]
    while stack:
        current = stack.pop()
        for value in (*current.input, *current.output, *current.value_info):
            if value.type.tensor_type.elem_type in _OTHER:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
                changed = True
        for tensor in current.initializer:
            changed |= _convert(tensor)
        for node in current.node:
            changed |= _convert_node(node)
            stack.extend(subgraphs(node))
    draft.changed()
    casts = _drop_casts(draft)
    if not weights and not changed:
        return f"removed {casts} casts from float32 to float32" if casts else ""
    parts = [f"{count} {kind} weights" for kind, count in sorted(weights.items())]
    said = "converted " + (" and ".join(parts) or "other float types") + " to float32"
    return said + (f", removed {casts} casts between float types" if casts else "")


def _convert(tensor: TensorProto) -> bool:
    if tensor.data_type not in _OTHER:
        return False
    with np.errstate(over="ignore"):
        array = to_array(tensor).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return True


def _convert_node(node: NodeProto) -> bool:
    changed = False
    for entry in node.attribute:
        if entry.type == AttributeProto.TENSOR:
            changed |= _convert(entry.t)
    for name in ("to", "dtype"):
        if attribute(node, name) in _OTHER:
            set_integer(node, name, TensorProto.FLOAT)
            changed = True
    return changed


def _keeps_type(node: NodeProto, types: dict[str, TensorType]) -> bool:
    """Whether a node casts float32 to float32."""
    if node.op_type not in ("Cast", "CastLike") or types.get(node.input[0], UNKNOWN).element != TensorProto.FLOAT:
        return False
    if node.op_type == "Cast":
        return bool(attribute(node, "to") == TensorProto.FLOAT)
    return types.get(node.input[1], UNKNOWN).element == TensorProto.FLOAT


def _drop_casts(draft: Draft) -> int:
    """Remove casts from float32 to float32."""
    types = draft.types()
    graph = draft.graph
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if not node.domain and _keeps_type(node, types) and node.output[0] not in outputs:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
            draft.aliases.setdefault(renamed[node.output[0]], []).append(draft.names.get(node.output[0], ""))
        else:
            kept.append(node)
    if renamed:
        rename_reads(kept, renamed)
        replace_nodes(graph, kept)
    return len(renamed)
