"""Which layers stand behind an activation that bounds their values from above."""

from __future__ import annotations

import math

from onnx import NodeProto

from onnxviz.core.values import Layer
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import origin, producers
from onnxviz.graph.view import GraphView


def before_ceiling(view: GraphView, layer: Layer) -> Layer | None:
    """Return what enters the activation that bounds a layer's values from above, or None if there is none.

    Between that activation and the layer may be operators that only choose or arrange its values.
    """
    made_by = producers(view.proto.graph)
    value = origin(layer.value, made_by, lambda node: traits_of(node).moves)
    node = made_by.get(value)
    if node is None or not _bounded(node):
        return None
    while (node := made_by.get(value)) is not None and (_bounded(node) or node.op_type in ("Max", "Relu")):
        value = next((name for name in node.input if name in made_by), "")
    return next((other for other in view.layers if other.value == value), None)


def _bounded(node: NodeProto) -> bool:
    """Whether an operator's values have a greatest one."""
    return traits_of(node).bounds[1] < math.inf or node.op_type in ("Clip", "Min")
