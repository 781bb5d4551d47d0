"""Shape arithmetic whose result is known becomes a constant.

PyTorch writes `x.view(x.size(0), -1)` as Shape, Gather, Unsqueeze, Concat and Reshape. Each entry of such a shape is a
number, or a free dimension times a number. A Reshape whose target has at most one entry that is not a number gets a
constant target, with 0 where an input dimension is kept and -1 where it follows from the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import UNKNOWN, Dimension, TensorType, skeleton
from onnxviz.graph.structure import attribute, initializers, integers, refill, to_array

_LONGEST = 64
"""Shapes are short; longer integer tensors are data."""
_KINDS: dict[int, type[np.generic]] = {TensorProto.INT32: np.int32, TensorProto.BOOL: np.bool_}
_ROUNDS = 12
"""A Reshape that becomes constant makes the shapes behind it known, and so on."""


@dataclass(frozen=True, slots=True)
class Multiple:
    """A free dimension, or a product of some, times a number."""

    factor: int
    symbols: tuple[str, ...]


def run(draft: Draft) -> str:
    """Make shapes constant, in rounds."""
    for _ in range(_ROUNDS):
        changed = _round(draft)
        draft.shapes_resolved += changed
        if not changed:
            break
        draft.changed()
    draft.drop_unused()
    draft.changed()
    count = draft.shapes_resolved
    return f"computed {count} shapes beforehand" if count else ""


def types_with(draft: Draft, value: str, batch: int) -> dict[str, TensorType]:
    """Return the types of all values if the first dimension of an input is `batch`, shape arithmetic done."""
    trial = Draft(skeleton(draft.model), dict(draft.names), dict(draft.node_names), {})
    for given in trial.graph.input:
        if given.name == value:
            given.type.tensor_type.shape.dim[0].dim_value = batch
    run(trial)
    return trial.types()


def _round(draft: Draft) -> int:
    graph = draft.graph
    types = dict(draft.types())
    constants = initializers(graph)
    known: dict[str, np.ndarray] = {}
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    changed = 0
    for node in graph.node:
        result = _evaluate(node, known, constants, types)
        if result is not None:
            known[node.output[0]] = result
            if all(isinstance(entry, int) for entry in result.reshape(-1)) and node.output[0] not in outputs:
                kind = _KINDS.get(types.get(node.output[0], UNKNOWN).element, np.int64)
                graph.initializer.append(onnx.numpy_helper.from_array(result.astype(kind), node.output[0]))
                changed += 1
                continue
        if node.op_type == "Expand" and not node.domain and node.input[1] in known:
            types[node.output[0]] = _expanded(types.get(node.output[0]), types.get(node.input[0]), known[node.input[1]])
        if node.op_type == "Reshape" and not node.domain and len(node.input) > 1 and node.input[1] not in constants:
            target = _target(node, known.get(node.input[1]), types)
            if target is not None:
                node.input[1] = draft.add_constant(onnx.numpy_helper.from_array(target), node.input[1])
                changed += 1
        kept.append(node)
    if len(kept) < len(graph.node):
        refill(graph.node, kept)
    return changed


def _target(node: NodeProto, entries: np.ndarray | None, types: dict[str, TensorType]) -> np.ndarray | None:
    """Return a constant target for a Reshape whose target shape is partly known."""
    if entries is None or attribute(node, "allowzero", 0):
        return None
    kept = [Multiple(1, (str(size),)) for size in types.get(node.input[0], UNKNOWN).shape or ()]
    target = [
        entry if isinstance(entry, int) else 0 if entry is not None and kept[place : place + 1] == [entry] else -1
        for place, entry in enumerate(entries.reshape(-1))
    ]
    return np.asarray(target, np.int64) if target.count(-1) <= 1 else None


def _expanded(result: TensorType | None, before: TensorType | None, entries: np.ndarray) -> TensorType:
    """Return the type of what Expand makes, where its inputs' sizes say more than shape inference knows."""
    result = result or UNKNOWN
    shape, target = (() if before is None else before.shape), list(entries.reshape(-1))
    if shape is None or len(shape) > len(target):
        return result
    own = [1] * (len(target) - len(shape)) + list(shape)
    sizes = [_wider(size, entry) for size, entry in zip(own, target, strict=True)]
    return TensorType(result.element, tuple(sizes))


def _wider(size: Dimension, entry: Any) -> Dimension:
    if entry == 1 or (isinstance(size, int) and size != 1):
        return size
    if size != 1:
        return None
    if isinstance(entry, Multiple):
        return entry.symbols[0] if entry.factor == 1 and len(entry.symbols) == 1 else None
    return int(entry) if isinstance(entry, int) else None


def _evaluate(
    node: NodeProto, known: dict[str, np.ndarray], constants: dict[str, TensorProto], types: dict[str, TensorType]
) -> np.ndarray | None:
    """Return the node's result as an array of int, Multiple and None (unknown), or None if it is no shape."""
    if node.domain:
        return None
    if node.op_type == "Shape":
        shape = types.get(node.input[0], UNKNOWN).shape
        if shape is None:
            return None
        part = shape[slice(int(attribute(node, "start", 0)), attribute(node, "end"))]
        return np.array([Multiple(1, (size,)) if isinstance(size, str) else size for size in part], object)
    rule = _RULES.get(node.op_type)
    if rule is None or not any(name in known for name in node.input):
        return None
    named = [name for name in node.input if name]
    inputs = [_read(name, known, constants) for name in named]
    # An input left out in front of another would shift that to its place.
    if any(entry is None for entry in inputs) or list(node.input[: len(named)]) != named:
        return None
    try:
        result = rule(node, [entry for entry in inputs if entry is not None])
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError):
        return None  # inconsistent: shape inference and ONNX Runtime say what is wrong with it
    return result if result is None or result.size <= _LONGEST else None


def _read(name: str, known: dict[str, np.ndarray], constants: dict[str, TensorProto]) -> np.ndarray | None:
    if name in known:
        return known[name]
    tensor = constants.get(name)
    if tensor is None or tensor.data_type not in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL):
        return None
    return to_array(tensor).astype(object) if math.prod(tensor.dims) <= _LONGEST else None


def _axes(node: NodeProto, inputs: list[np.ndarray]) -> tuple[int, ...]:
    if len(inputs) > 1:
        return tuple(int(entry) for entry in inputs[1].reshape(-1))
    return integers(node, "axes")


def _gather(node: NodeProto, inputs: list[np.ndarray]) -> np.ndarray:
    taken = inputs[0].take(inputs[1].astype(np.int64), axis=int(attribute(node, "axis", 0)))
    return np.asarray(taken, object)


def _squeeze(node: NodeProto, inputs: list[np.ndarray]) -> np.ndarray:
    axes = _axes(node, inputs)
    return inputs[0].squeeze(axis=axes) if axes else inputs[0].squeeze()


def _slice(node: NodeProto, inputs: list[np.ndarray]) -> np.ndarray | None:
    if inputs[0].ndim != 1:
        return None
    if len(inputs) > 2:
        start, end = (int(entry.reshape(-1)[0]) for entry in inputs[1:3])
        step = int(inputs[4].reshape(-1)[0]) if len(inputs) > 4 else 1
    else:
        start, end, step = integers(node, "starts")[0], integers(node, "ends")[0], 1
    if step < 0 and end < -len(inputs[0]):
        return inputs[0][start::step]
    return inputs[0][start:end:step]


def _times(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    a = a if isinstance(a, Multiple) else Multiple(a, ())
    b = b if isinstance(b, Multiple) else Multiple(b, ())
    if a.factor * b.factor == 0:
        return 0
    return Multiple(a.factor * b.factor, tuple(sorted(a.symbols + b.symbols)))


def _over(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if abs(a) < 1 << 52 else None
    if isinstance(a, Multiple) and isinstance(b, int) and b > 0 and a.factor % b == 0:
        return Multiple(a.factor // b, a.symbols)
    if isinstance(a, Multiple) and isinstance(b, Multiple) and a.symbols == b.symbols and a.factor % b.factor == 0:
        return a.factor // b.factor
    return None


def _plus(sign: int) -> Callable[[Any, Any], Any]:
    def add(a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return a + sign * b
        return a if b == 0 and isinstance(a, Multiple) else None

    return add


def _equal(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, int) or isinstance(b, int):  # no free dimension is negative, as the -1 of `expand(batch, -1, -1)`
        return False if any(isinstance(entry, int) and entry < 0 for entry in (a, b)) else None
    return True if a == b and a is not None else None


def _where(_: NodeProto, inputs: list[np.ndarray]) -> np.ndarray:
    choose = np.frompyfunc(lambda wanted, one, other: None if wanted is None else one if wanted else other, 3, 1)
    return np.asarray(choose(*inputs), object)


def _by_entry(combine: Callable[[Any, Any], Any]) -> Callable[[NodeProto, list[np.ndarray]], np.ndarray]:
    def rule(_: NodeProto, inputs: list[np.ndarray]) -> np.ndarray:
        return np.asarray(np.frompyfunc(combine, 2, 1)(*inputs[:2]), object)

    return rule


_RULES: dict[str, Callable[[NodeProto, list[np.ndarray]], np.ndarray | None]] = {
    "Gather": _gather,
    "Unsqueeze": lambda node, inputs: np.expand_dims(inputs[0], _axes(node, inputs)),
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Concat": lambda node, inputs: np.concatenate(inputs, axis=int(attribute(node, "axis", 0))),
    "Cast": lambda node, inputs: inputs[0] if attribute(node, "to") in (TensorProto.INT64, TensorProto.INT32) else None,
    "Reshape": lambda _, inputs: inputs[0].reshape([int(entry) for entry in inputs[1].reshape(-1)]),
    "Identity": lambda _, inputs: inputs[0],
    "Mul": _by_entry(_times),
    "Div": _by_entry(_over),
    "Add": _by_entry(_plus(1)),
    "Equal": _by_entry(_equal),
    "Where": _where,
    "Sub": _by_entry(_plus(-1)),
}
