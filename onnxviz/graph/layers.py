"""The list of layers: which values count, with what they are called and what their axes run over."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto, TensorProto

from onnxviz.core.values import Layer
from onnxviz.graph.axes import find_axes
from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.layer_names import LayerNames, name_layers
from onnxviz.graph.passes.resolve_shapes import types_with
from onnxviz.graph.shapes import UNKNOWN, TensorType, TypedGraph
from onnxviz.graph.structure import image_dependent, producers
from onnxviz.graph.unknown import behind_unknown, describe


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
            axes.channel.get(value),
            tuple(aliases.get(value, ())),
            axes.tokens.get(value, ()),
            axes.grid.get(value),
            axes.unplaced.get(value, ""),
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
