"""The features that a layer is a weighted sum of: what the last weights before it read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import image_dependent, producers, reads

if TYPE_CHECKING:
    from onnxviz.core.values import Layer
    from onnxviz.graph.view import GraphView


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
