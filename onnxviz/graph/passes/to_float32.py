"""Half, bfloat16 and double precision become float32, in which gradients are taken.

Graphs that look at the bits of such numbers (BitCast) stay as they are: their meaning depends on the width.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import FLOATS, UNKNOWN, TensorType
from onnxviz.graph.structure import attribute, set_integer, to_array
from onnxviz.graph.tensors import all_graphs, all_nodes, innermost_tensor

_OTHER = tuple(element for element in FLOATS if element != TensorProto.FLOAT)
_LARGEST = float(np.finfo(np.float32).max)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "precision", "stash_type", "softmax_precision")
_NAMES = {TensorProto.FLOAT16: "half-precision", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "double"}


def run(draft: Draft) -> str:
    """Convert weights, constants, casts and declared types."""
    if any(node.op_type == "BitCast" for node in all_nodes(draft.model)):
        return ""
    weights = Counter(_NAMES[tensor.data_type] for tensor in draft.graph.initializer if tensor.data_type in _OTHER)
    changed = False
    for current in all_graphs(draft.model):
        for value in (*current.input, *current.output, *current.value_info):
            changed |= _convert_type(value.type)
        for tensor in current.initializer:
            changed |= _convert(tensor)
        for node in current.node:
            changed |= _convert_node(node)
    draft.changed()
    casts = _drop_casts(draft)
    if not changed:
        return f"removed {casts} casts from float32 to float32" if casts else ""
    parts = [f"{count} {kind} weights" for kind, count in sorted(weights.items())]
    said = "converted " + (" and ".join(parts) or "other float types") + " to float32"
    return said + (f", removed {casts} casts between float types" if casts else "")


def _convert_type(kind: TypeProto) -> bool:
    """Convert the element type of a tensor, or of the tensors in a sequence or optional."""
    tensor = innermost_tensor(kind)
    if tensor is None or tensor.elem_type not in _OTHER:
        return False
    tensor.elem_type = TensorProto.FLOAT
    return True


def _convert(tensor: TensorProto) -> bool:
    if tensor.data_type not in _OTHER:
        return False
    array = to_array(tensor)
    if tensor.data_type == TensorProto.DOUBLE:  # a mask of -1e308 is finite, and -inf is another thing to a Softmax
        array = np.where(np.isfinite(array), np.clip(array, -_LARGEST, _LARGEST), array)
    array = array.astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return True


def _convert_node(node: NodeProto) -> bool:
    changed = False
    for entry in node.attribute:
        if entry.type == AttributeProto.TENSOR:
            changed |= _convert(entry.t)
        elif entry.type == AttributeProto.TYPE_PROTO:
            changed |= _convert_type(entry.tp)
    for name in _TYPE_ATTRIBUTES:
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
            draft.alias(renamed[node.output[0]], draft.names.get(node.output[0], ""))
        else:
            kept.append(node)
    if renamed:
        draft.rewire(kept, renamed)
    return len(renamed)
