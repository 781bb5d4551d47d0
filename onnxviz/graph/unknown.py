"""Operators that nobody here knows; behind one, type and shape, and so the layers, are unknown too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from onnxviz.core.errors import shorten
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import reads


def behind_unknown(graph: GraphProto, types: Mapping[str, TensorType], dependent: Set[str]) -> dict[str, NodeProto]:
    """Return the values of unknown type or shape -> the first operator on the way to them of which this holds.

    Values that do not depend on the image are left out.
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


def foreign_operators(model: ModelProto) -> list[tuple[str, str]]:
    """Return the operators that are none of the standard's in a normalised graph's opset, each with what is known."""
    counts: Counter[tuple[str, str]] = Counter((node.domain, node.op_type) for node in model.graph.node)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    listed = []
    for (domain, operator), count in counts.items():
        if domain.startswith("opset"):
            continue  # listed by the pass that put it there
        if domain:
            listed.append((operator, f"{count} of domain {domain}"))
        else:
            try:
                onnx.defs.get_schema(operator, versions.get("", 1), "")
            except onnx.defs.SchemaError:
                listed.append((operator, f"{count}, not an operator of opset {versions.get('', 1)}"))
    return listed
