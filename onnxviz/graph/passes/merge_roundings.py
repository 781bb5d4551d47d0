"""One quantisation instead of several that are the same.

Quantisers write a QuantizeLinear and a DequantizeLinear in front of each reader of a value, so that kernels can be
chosen reader by reader. The value that all of them read exists only once the same ones are one, and so does the
gradient that reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.structure import initializers, to_array

_ROUNDINGS = ("QuantizeLinear", "DequantizeLinear")


def run(draft: Draft) -> str:
    """Let the first QuantizeLinear or DequantizeLinear of the same input, scale and zero point stand for all."""
    graph = draft.graph
    outputs = {value.name for value in graph.output}
    constants = initializers(graph)
    first: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.domain or node.op_type not in _ROUNDINGS:
            kept.append(node)
            continue
        key = _key(node, renamed, constants)
        value = node.output[0]
        if key not in first or value in outputs:
            first.setdefault(key, value)
            kept.append(node)
            continue
        renamed[value] = first[key]
        draft.alias(first[key], draft.names.get(value, ""), draft.node_names.get(node.name, ""))
    if not renamed:
        return ""
    draft.rewire(kept, renamed)
    return f"merged {len(renamed)} roundings that are the same as others"


def _key(node: NodeProto, renamed: Mapping[str, str], constants: Mapping[str, TensorProto]) -> tuple[object, ...]:
    """Return what two roundings have in common if they are the same."""
    source, *parameters = node.input
    attributes = sorted(entry.SerializeToString() for entry in node.attribute)
    known = [constants.get(name) for name in parameters]
    given = (
        name if tensor is None else (tensor.data_type, tuple(tensor.dims), to_array(tensor).tobytes())
        for name, tensor in zip(parameters, known, strict=True)
    )
    return (node.op_type, renamed.get(source, source), *given, *attributes)
