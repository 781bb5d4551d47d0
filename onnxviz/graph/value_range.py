"""Between which bounds a value lies by the operators that made it, and whether an activation is among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import attribute, constant_value, initializers, producers, repeated_number, to_array

_ACTIVATED = frozenset(["Softmax", "Sigmoid", "HardSigmoid", "LogSoftmax", "Exp"])
"""What makes probabilities, or their logarithms, of scores."""
_COMBINES = frozenset(["Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "Concat", "Where"])
_CHANGES = frozenset(["Clip", "Exp", "Log", "Neg", "Reciprocal", "ReduceSum", "Relu"])
_CONSTANT = 1 << 16
"""Elements of the largest constant that is read; a larger one counts as without bounds."""
_ROUNDING = 1e-5


@dataclass(frozen=True)
class ValueRange:
    """What holds of every number of a value.

    Attributes:
        low: no number is below it.
        high: no number is above it.
        activated: whether a Softmax, Sigmoid or exponential is among what made it, later than any weights.
    """

    low: float = -math.inf
    high: float = math.inf
    activated: bool = False

    @property
    def is_probability(self) -> bool:
        """Whether all numbers are in 0..1."""
        return self.low >= -_ROUNDING and self.high <= 1 + _ROUNDING


def range_of(value: str, graph: GraphProto) -> ValueRange:
    """Return the bounds of a value by interval arithmetic, up to the nearest operators with weights."""
    made_by, constants = producers(graph), initializers(graph)
    reached, stack = set[str](), [value]
    while stack:
        name = stack.pop()
        node = made_by.get(name)
        if name in reached or node is None:
            continue
        reached.add(name)
        if _is_followed(node):
            stack += node.input
    found: dict[str, ValueRange] = {}

    def known(name: str) -> ValueRange:
        if name not in found:
            array = constant(name, made_by, constants)
            found[name] = ValueRange()
            if array is not None and array.dtype.kind in "fiu" and array.size and np.isfinite(array).all():
                found[name] = ValueRange(float(array.min()), float(array.max()))
        return found[name]

    for node in graph.node:
        if node.op_type != "Constant" and reached.intersection(node.output):
            made = _range(node, [known(name) for name in node.input], made_by, constants)
            found.update((name, made) for name in node.output[: traits_of(node).sloped_outputs])
    return known(value)


def constant(
    name: str, made_by: Mapping[str, NodeProto], constants: Mapping[str, TensorProto], most: int = _CONSTANT
) -> np.ndarray | None:
    """Return a constant's numbers, or None if it is none, holds text, or has more than `most` elements."""
    tensor, maker = constants.get(name), made_by.get(name)
    if tensor is None and maker is not None and maker.op_type == "Constant":
        tensor = constant_value(maker)
    if tensor is None:
        repeated = repeated_number(maker, constants)
        return repeated if repeated is not None and repeated.size <= most else None
    return None if tensor.data_type == TensorProto.STRING or math.prod(tensor.dims) > most else to_array(tensor)


def clip_bounds(
    node: NodeProto, made_by: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]
) -> tuple[float, float]:
    """Return between which bounds a Clip keeps its numbers; infinite where it has none or computes it."""
    bounds = [float(attribute(node, "min", -math.inf)), float(attribute(node, "max", math.inf))]
    for place, name in enumerate(node.input[1:3]):
        array = constant(name, made_by, constants) if name else None
        if array is not None and array.size == 1:
            bounds[place] = float(array.reshape(-1)[0])
    return bounds[0], bounds[1]


def _range(
    node: NodeProto, inputs: list[ValueRange], made_by: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]
) -> ValueRange:
    operator, traits = node.op_type, traits_of(node)
    if not _is_followed(node) or not inputs:
        return ValueRange(*traits.bounds, operator in _ACTIVATED)
    first = inputs[0]
    if traits.keeps:
        padded = operator == "AveragePool" and attribute(node, "count_include_pad", 0)
        return replace(first, low=min(first.low, 0.0), high=max(first.high, 0.0)) if padded else first
    if operator in _CHANGES:
        return _changed(operator, first, clip_bounds(node, made_by, constants))
    used = inputs[1:] if operator == "Where" else inputs
    low, high = _combined(operator, used)
    if operator == "Div" and first.low >= 0 and _is_part_of(node.input[0], made_by.get(node.input[1]), inputs[1]):
        low, high = 0.0, 1.0
    activated = any(each.activated for each in used)
    if operator == "Mul" and any(not each.activated and math.inf in (-each.low, each.high) for each in used):
        activated = False  # a gate: scores without bounds, weighed by a sigmoid
    return ValueRange(low, high, activated)


def _is_followed(node: NodeProto) -> bool:
    """Whether the bounds of the inputs say something of those of the result."""
    return bool(traits_of(node).keeps) or (not node.domain and node.op_type in _COMBINES | _CHANGES)


def _is_part_of(part: str, whole: NodeProto | None, total: ValueRange) -> bool:
    """Whether a number that is not negative is divided by a sum of itself and others that are not negative."""
    if whole is None or whole.domain or whole.op_type not in ("ReduceSum", "Add", "Sum"):
        return False
    return part in whole.input and total.low >= 0


def _changed(operator: str, first: ValueRange, bounds: tuple[float, float]) -> ValueRange:
    low, high, activated = first.low, first.high, first.activated
    match operator:
        case "Clip":
            low, high = (min(max(edge, bounds[0]), bounds[1]) for edge in (low, high))
        case "Relu":
            low, high = max(low, 0.0), max(high, 0.0)
        case "Neg":
            low, high = -high, -low
        case "Exp":
            return ValueRange(_exp(low), _exp(high), True)
        case "Log":
            low, high = (math.log(edge) if edge > 0 else -math.inf for edge in (low, high))
        case "Reciprocal":
            low, high = _reciprocal(first)
        case _:  # a sum over an unknown number of elements
            low, high = (0.0 if low >= 0 else -math.inf), (0.0 if high <= 0 else math.inf)
    return ValueRange(low, high, activated)


def _combined(operator: str, parts: list[ValueRange]) -> tuple[float, float]:
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    match operator:
        case "Add" | "Sum":
            return sum(lows), sum(highs)
        case "Mean":
            return sum(lows) / len(parts), sum(highs) / len(parts)
        case "Sub":
            return lows[0] - highs[1], highs[0] - lows[1]
        case "Max":
            return max(lows), max(highs)
        case "Min":
            return min(lows), min(highs)
        case "Mul":
            return _product(parts[0], (lows[1], highs[1]))
        case "Div":
            return _product(parts[0], _reciprocal(parts[1]))
        case _:
            return min(lows), max(highs)


def _product(first: ValueRange, second: tuple[float, float]) -> tuple[float, float]:
    edges = [a * b if a and b else 0.0 for a in (first.low, first.high) for b in second]
    return min(edges), max(edges)


def _reciprocal(of: ValueRange) -> tuple[float, float]:
    if of.low > 0:
        return 1 / of.high, 1 / of.low
    if of.high < 0:
        return 1 / of.high, 1 / of.low
    return (0.0 if of.low >= 0 else -math.inf), math.inf


def _exp(edge: float) -> float:
    return math.exp(edge) if edge < 700 else math.inf
