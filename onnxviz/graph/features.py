"""What lies before a layer: the features that it is a weighted sum of, and an activation that bounds it."""

from __future__ import annotations

import math
from typing import Literal

from onnx import NodeProto

from onnxviz.core.values import Layer
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import image_dependent, origin, producers, reads
from onnxviz.graph.view import GraphView

_CLAMPS = ("Clip", "Max", "Min", "Relu")


def features_before(view: GraphView, layer: Layer) -> Layer | None:
    """Return the layer whose units the weights right before another layer read.

    For a classifier's logits these are what it knows of the image when it decides: the pooled features, or the last
    feature map where pooling comes after the weights. Nothing but activations, pooling, biases and changes of form may
    be between these weights and the layer.

    Returns:
        The layer, or None if several values are brought together before weights are met, or the weights read the image.
    """
    graph = view.proto.graph
    made_by, layers = producers(graph), {other.value: other for other in view.layers}
    dependent = image_dependent(graph)
    value, weighted = layer.value, False
    while (node := made_by.get(value)) is not None:
        inputs = list(dict.fromkeys(name for name in reads(node) if name in dependent))
        if len(inputs) != 1:
            return None
        (value,) = inputs
        weighted = weighted or traits_of(node).weight > 0
        found = layers.get(value)
        if weighted and found is not None and found.channel_axis is not None and found.unit_count > 1:
            return found
    return None


def before_bound(view: GraphView, layer: Layer, side: Literal["upper", "lower"]) -> Layer | None:
    """Return what enters the activation that bounds a layer's values from above or below, or None if there is none.

    Between that activation and the layer may be operators that only choose or arrange its values.
    """
    made_by = producers(view.proto.graph)
    value = origin(layer.value, made_by, lambda node: traits_of(node).moves)
    node = made_by.get(value)
    if node is None or not _bounded(node, side):
        return None
    while (node := made_by.get(value)) is not None and (_bounded(node, side) or node.op_type in _CLAMPS):
        value = next((name for name in node.input if name in made_by), "")
    return next((other for other in view.layers if other.value == value), None)


def _bounded(node: NodeProto, side: Literal["upper", "lower"]) -> bool:
    """Whether an operator's values have a greatest one, or a least one."""
    low, high = traits_of(node).bounds
    if side == "upper":
        return high < math.inf or node.op_type in ("Clip", "Min")
    return low > -math.inf or node.op_type in ("Clip", "Max")
