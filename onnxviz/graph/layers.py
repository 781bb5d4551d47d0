"""The list of layers: which values count, what they are called, what their axes run over; and what nobody knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxviz.core.errors import shorten
from onnxviz.core.values import Layer
from onnxviz.graph.axes import find_axes
from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.layer_names import name_layers
from onnxviz.graph.passes.resolve_shapes import types_with
from onnxviz.graph.selection import LayerNames
from onnxviz.graph.shapes import UNKNOWN, TensorType, TypedGraph
from onnxviz.graph.structure import image_dependent, producers, reads


def _without_needless_freedom(
    draft: Draft, types: Mapping[str, TensorType], dependent: set[str], input_name: str
) -> Mapping[str, TensorType]:
    """Return the types with the sizes that are the same for any number of images, where inference left them free.

    Exporters compute sizes from the batch, as the target of a reshape [batch, -1, channels]; they are found from the
    shapes for two and for three images.
    """
    shape = types[input_name].shape or ()
    if not any(None in _sizes(types[value])[1:] for value in dependent if value in types):
        return types
    if not shape or isinstance(shape[0], int) or not all(isinstance(size, int) for size in shape[1:]):
        return types
    two, three = (types_with(draft, input_name, batch) for batch in (2, 3))
    found = dict(types)
    for value in dependent:
        known, a, b = (kinds.get(value, UNKNOWN).shape for kinds in (types, two, three))
        if known is None or a is None or b is None or not len(known) == len(a) == len(b):
            continue
        same = (one if one == other and isinstance(one, int) else None for one, other in zip(a, b, strict=True))
        sizes = tuple(size if isinstance(size, int) else fixed or size for size, fixed in zip(known, same, strict=True))
        found[value] = TensorType(types[value].element, sizes)
    return found


def _sizes(kind: TensorType) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in kind.shape or ())


def make_layers(
    draft: Draft, types: Mapping[str, TensorType], input_name: str, layout: InputLayout
) -> tuple[tuple[Layer, ...], LayerNames]:
    """List every float tensor that depends on the image and is made by a node, in topological order."""
    graph = draft.graph
    dependent = image_dependent(graph, input_name)
    types = _without_needless_freedom(draft, types, dependent, input_name)
    axes = find_axes(TypedGraph(graph, types), dependent, draft.mixed_batches, input_name, layout)
    listed: list[tuple[NodeProto, str]] = [
        (node, value)
        for node in graph.node
        for value in node.output
        if value in dependent and types.get(value, UNKNOWN).element == TensorProto.FLOAT
    ]
    shown, aliases, naming = name_layers(draft, listed, dependent, _unknown(draft, types, dependent))
    layers = (
        Layer(
            name,
            value,
            node.op_type,
            position,
            _sizes(types[value]),
            axes[value].channel,
            tuple(aliases.get(value, ())),
            axes[value].tokens,
            axes[value].grid,
            axes[value].unplaced,
        )
        for position, ((node, value), name) in enumerate(zip(listed, shown, strict=True))
    )
    return tuple(layers), naming


def _unknown(draft: Draft, types: Mapping[str, TensorType], dependent: set[str]) -> dict[str, str]:
    found = behind_unknown(draft.model.graph, types, dependent)
    makers = producers(draft.model.graph)
    unknown: dict[str, str] = {}
    for value, cause in found.items():
        text = describe(cause, draft.node_names.get(cause.name, ""))
        for name in (draft.node_names.get(makers[value].name, ""), draft.names.get(value, "")):
            if name:
                unknown.setdefault(name, text)
    return unknown


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
