"""Between which values operators hold their units, whatever the image: the ceiling of a ReLU6, the 0 of a ReLU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx import GraphProto

from onnxviz.graph.structure import attribute, initializers, producers, repeated_number
from onnxviz.graph.value_range import constant

if TYPE_CHECKING:
    from onnxviz.core.values import Layer
    from onnxviz.graph.view import GraphView

Range = tuple[float, float]

_FREE: Range = (-math.inf, math.inf)
_FIXED: dict[str, Range] = {
    "Relu": (0.0, math.inf), "Softplus": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softsign": (-1.0, 1.0), "Erf": (-1.0, 1.0),
}  # fmt: skip
_KEEPS = frozenset(
    ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin", "Reshape",
     "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Slice", "QuantizeLinear",
     "DequantizeLinear"]
)  # fmt: skip
"""What gives means of values that it reads, or some of them, in their own unit (behind its DequantizeLinear)."""
_DEEPEST = 64


def unit_range(view: GraphView, layer: Layer) -> Range:
    """Return the lowest and the highest value that a layer's units can have; infinite where the graph sets no bound.

    Bounds are those of the operators' definitions in the ONNX standard. What pools has the bounds of what it reads, a
    concatenation the widest of its parts.
    """
    return _Bounds(view.proto.graph).of(layer.value)


class _Bounds:
    def __init__(self, graph: GraphProto) -> None:
        self._producers, self._constants = producers(graph), initializers(graph)

    def of(self, value: str, depth: int = 0) -> Range:
        node = self._producers.get(value)
        if node is None or node.domain or depth == _DEEPEST:
            return _FREE
        kind = node.op_type
        if kind in _FIXED:
            return _FIXED[kind]
        if kind == "Clip":
            low, high = (self._number(name) for name in (*node.input[1:], "", "")[:2])
            return -math.inf if low is None else low, math.inf if high is None else high
        if kind == "Concat":
            parts = [self.of(name, depth + 1) for name in node.input]
            return min(low for low, _ in parts), max(high for _, high in parts)
        if kind not in _KEEPS:
            return _FREE
        low, high = self.of(node.input[0], depth + 1)
        border = kind == "AveragePool" and bool(attribute(node, "count_include_pad", 0))
        return (min(low, 0.0), max(high, 0.0)) if border else (low, high)

    def _number(self, name: str) -> float | None:
        """Return the number that a value is; None if it is none, or depends on the image."""
        array = constant(name, self._producers, self._constants, most=1)
        if array is None and name not in self._constants:
            array = repeated_number(self._producers.get(name), self._constants)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
