"""Which operators shape arithmetic knows, and how the attributes and inputs of each are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxviz.convert import shape_arithmetic as arithmetic
from onnxviz.graph.shapes import FLOATS

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of `shapes` and what it is called with: numbers, and things that stand for numbers."""

GROWING = frozenset(["ConstantOfShape", "Expand", "Range", "Tile"])
"""Operators whose results may be longer than what they are made of."""


def call(operator: str, attributes: Mapping[str, Any], inputs: Sequence[Any], outputs: int) -> Call | None:
    """Return how to compute a node with numbers; None if it cannot be.

    Args:
        operator: ONNX operator type.
        attributes: the node's attributes by name.
        inputs: what stands for its inputs; None for those left out.
        outputs: how many outputs it has.
    """
    if operator == "Split":
        sizes = attributes.get("split", _input(inputs, 1))
        return arithmetic.split, (
            inputs[0],
            sizes,
            attributes.get("axis", 0),
            attributes.get("num_outputs", outputs),
        )
    read = _READERS.get(operator)
    if read is not None:
        return read(attributes, inputs)
    function = _SIMPLE.get(operator)
    if function is None or any(value is None for value in inputs):
        return None
    return function, tuple(inputs)


def _input(inputs: Sequence[Any], index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


def _cast(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call | None:
    element = attributes.get("to")
    if element in FLOATS:
        return arithmetic.as_floats, (inputs[0],)
    if element in (TensorProto.INT64, TensorProto.INT32):
        return arithmetic.as_integers, (inputs[0],)
    return (arithmetic.as_truths, (inputs[0],)) if element == TensorProto.BOOL else None


def _clip(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    low, high = (attributes.get(name, _input(inputs, index)) for index, name in ((1, "min"), (2, "max")))
    return arithmetic.clip, (inputs[0], low, high)


def _constant_of_shape(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    value = attributes.get("value")
    return arithmetic.fill, (inputs[0], 0.0 if value is None else np.asarray(value).reshape(-1)[0].item())


def _reduction(kind: str) -> Callable[[Mapping[str, Any], Sequence[Any]], Call]:
    def read(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
        axes = attributes.get("axes")
        axes = tuple(axes) if axes is not None else _input(inputs, 1)
        keep, none_is_none = bool(attributes.get("keepdims", 1)), bool(attributes.get("noop_with_empty_axes", 0))
        return arithmetic.reduce, (inputs[0], axes, kind, keep, none_is_none)

    return read


def _slice(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    if "starts" in attributes:
        axes = attributes.get("axes")
        return arithmetic.select, (
            inputs[0],
            tuple(attributes["starts"]),
            tuple(attributes["ends"]),
            None if axes is None else tuple(axes),
        )
    return arithmetic.select, tuple(inputs)


def _with_axes(function: Callable[..., Any]) -> Callable[[Mapping[str, Any], Sequence[Any]], Call]:
    def read(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
        axes = attributes.get("axes")
        return function, (inputs[0], tuple(axes) if axes is not None else _input(inputs, 1))

    return read


def _reshape(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    shape = tuple(attributes["shape"]) if "shape" in attributes else inputs[1]
    return arithmetic.reshape, (inputs[0], shape, bool(attributes.get("allowzero", 0)))


def _transpose(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    order = attributes.get("perm")
    return arithmetic.transpose, (inputs[0], None if order is None else tuple(order))


def _scatter(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    return arithmetic.scatter, (*inputs[:3], attributes.get("reduction", "none"))


_READERS: Mapping[str, Callable[[Mapping[str, Any], Sequence[Any]], Call | None]] = {
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda attributes, inputs: (arithmetic.concatenate, (attributes.get("axis", 1), *inputs)),
    "ConstantOfShape": _constant_of_shape,
    "Gather": lambda attributes, inputs: (arithmetic.gather, (inputs[0], inputs[1], attributes.get("axis", 0))),
    "Mod": lambda attributes, inputs: (
        arithmetic.remainder if attributes.get("fmod", 0) else arithmetic.modulo, tuple(inputs)
    ),
    "ReduceMax": _reduction("max"),
    "ReduceMin": _reduction("min"),
    "ReduceProd": _reduction("mul"),
    "ReduceSum": _reduction("add"),
    "Reshape": _reshape,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Shape": lambda attributes, inputs: (
        arithmetic.shape_of_numbers, (inputs[0], attributes.get("start", 0), attributes.get("end"))
    ),
    "Slice": _slice,
    "Squeeze": _with_axes(arithmetic.squeeze),
    "Transpose": _transpose,
    "Unsqueeze": _with_axes(arithmetic.unsqueeze),
}  # fmt: skip

_SIMPLE: Mapping[str, Callable[..., Any]] = {
    "Abs": arithmetic.absolute,
    "Add": arithmetic.add,
    "And": arithmetic.both,
    "Ceil": arithmetic.ceiling,
    "Div": arithmetic.divide,
    "Equal": arithmetic.equal,
    "Expand": arithmetic.expand,
    "Floor": arithmetic.floor,
    "GatherElements": arithmetic.gather_elements,
    "Greater": arithmetic.greater,
    "GreaterOrEqual": arithmetic.greater_or_equal,
    "Identity": arithmetic.same,
    "Less": arithmetic.less,
    "LessOrEqual": arithmetic.less_or_equal,
    "Max": arithmetic.maximum,
    "Min": arithmetic.minimum,
    "Mul": arithmetic.multiply,
    "Neg": arithmetic.negate,
    "Not": arithmetic.opposite,
    "Or": arithmetic.either,
    "Pow": arithmetic.power,
    "Range": arithmetic.count,
    "Reciprocal": arithmetic.reciprocal,
    "Round": arithmetic.nearest,
    "Sign": arithmetic.sign,
    "Size": arithmetic.size_of_numbers,
    "Sqrt": arithmetic.square_root,
    "Sub": arithmetic.subtract,
    "Sum": arithmetic.add,
    "Tile": arithmetic.tile,
    "Where": arithmetic.choose,
    "Xor": arithmetic.one_of,
}
"""Operators that are called with their inputs alone."""
