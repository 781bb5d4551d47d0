"""What stands behind an operator that nobody here knows: its type and shape, and so its layers, are unknown too."""

from __future__ import annotations

from collections.abc import Mapping, Set

from onnx import GraphProto, NodeProto

from onnxviz.errors import shorten
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import reads


def behind_unknown(graph: GraphProto, types: Mapping[str, TensorType], dependent: Set[str]) -> dict[str, NodeProto]:
    """Return the values whose type or shape nobody knows -> the first operator on the way to them of which this holds.

    Args:
        graph: the normalised graph, in topological order.
        types: of its values, as far as they are known.
        dependent: identifiers of the values that depend on the image; others are left out.
    """
    found: dict[str, NodeProto] = {}
    for node in graph.node:
        cause = next((found[name] for name in reads(node) if name in found), None)
        for value in node.output:
            kind = types.get(value)
            if value in dependent and (kind is None or not kind.element or kind.shape is None):
                found[value] = cause or node
    return found


def describe(node: NodeProto, name: str) -> str:
    """Return an operator with its domain and its node's name in the file: "com.acme:Frobnicate ('frob')"."""
    operator = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return shorten(operator, 60) + (f" ({shorten(name, 60)!r})" if name else "")
