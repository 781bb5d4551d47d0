"""Which layers stand behind an activation that bounds their values from above."""

from __future__ import annotations

from onnxviz.core.values import Layer
from onnxviz.graph.structure import producers
from onnxviz.graph.view import GraphView

_ARRANGING = frozenset(
    ["MaxPool", "Identity", "Dropout", "Reshape", "Transpose", "Cast", "QuantizeLinear", "DequantizeLinear"]
)
_BOUNDED = frozenset(["Clip", "Min", "Sigmoid", "HardSigmoid", "Tanh", "Softsign", "Softmax", "Sign", "Erf"])
"""Operators whose values have a greatest one that many inputs reach."""


def before_ceiling(view: GraphView, layer: Layer) -> Layer | None:
    """Return what enters the activation that bounds a layer's values from above, or None if there is none.

    Between that activation and the layer may be operators that only choose or arrange its values.
    """
    made_by = producers(view.proto.graph)
    value = layer.value
    while (node := made_by.get(value)) is not None and node.op_type in _ARRANGING:
        value = node.input[0]
    if node is None or node.op_type not in _BOUNDED:
        return None
    while (node := made_by.get(value)) is not None and node.op_type in _BOUNDED | {"Max", "Relu"}:
        value = next((name for name in node.input if name in made_by), "")
    return next((other for other in view.layers if other.value == value), None)
