"""Which axes a node works along, and where it puts those of its first input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TypedGraph, total
from onnxviz.graph.structure import attribute, constant_input, input_of, integers


@dataclass(frozen=True)
class AxisMap:
    """Where a node puts the axes of its first input.

    Attributes:
        to: axis of the input -> axis of the result, None where the result has none.
        mixed: the input's axes over all positions of which each number of the result is taken.
    """

    to: Mapping[int, int | None]
    mixed: frozenset[int] = frozenset()


def axes_of(node: NodeProto, constants: Mapping[str, TensorProto]) -> tuple[int, ...] | None:
    """Return the axes a node names by attribute or constant input; () if none are named, None if they vary."""
    if node.op_type in ("ArgMax", "ArgMin"):
        return (int(attribute(node, "axis", 0)),)
    listed = attribute(node, "axes")
    if listed is not None:
        return tuple(int(axis) for axis in listed)
    place = 3 if node.op_type in ("Pad", "Slice") else 1
    if not input_of(node, place):
        return ()
    array = constant_input(node, place, constants)
    return None if array is None else tuple(int(axis) for axis in array.reshape(-1))


def named_axis(node: NodeProto, default: int, rank: int) -> int:
    """Return the one axis that a node names, counted from the front."""
    return int(attribute(node, "axis", default)) % rank


def axis_map(node: NodeProto, rank: int, constants: Mapping[str, TensorProto]) -> AxisMap | None:
    """Return where a transpose, squeeze, sum or normalisation puts axes; None if that is computed, or for others."""
    in_place = {axis: axis for axis in range(rank)}
    match traits_of(node).form:
        case "transpose":
            order = integers(node, "perm", range(rank - 1, -1, -1))
            return AxisMap({axis: place for place, axis in enumerate(order)})
        case "along_axis" | "axis_normalisation" | "top_k":
            return AxisMap(in_place, frozenset([named_axis(node, -1, rank)]))
        case "last_normalisation":
            return AxisMap(in_place, frozenset(range(named_axis(node, -1, rank), rank)))
        case "trilu":
            return AxisMap(in_place, frozenset(range(rank - 2, rank)))
        case "cumulative":
            axis = constant_input(node, 1, constants)
            return AxisMap(in_place, frozenset(range(rank) if axis is None else [int(axis.reshape(-1)[0]) % rank]))
        case "reduction":
            return _reduced(node, rank, constants)
        case "reshape":
            return _squeezed(node, rank, constants)
    return None


def _squeezed(node: NodeProto, rank: int, constants: Mapping[str, TensorProto]) -> AxisMap | None:
    """Squeeze and Unsqueeze that name their axes."""
    named = axes_of(node, constants) if node.op_type in ("Squeeze", "Unsqueeze") else None
    if not named:
        return None
    wider = rank if node.op_type == "Squeeze" else rank + len(named)
    left = [axis for axis in range(wider) if axis not in {one % wider for one in named}]
    if node.op_type == "Unsqueeze":
        return AxisMap(dict(enumerate(left)))
    return AxisMap({axis: left.index(axis) if axis in left else None for axis in range(rank)})


def _reduced(node: NodeProto, rank: int, constants: Mapping[str, TensorProto]) -> AxisMap | None:
    named = axes_of(node, constants)
    if named is None:
        return None
    kept_if_none = not named and attribute(node, "noop_with_empty_axes", 0)
    gone = frozenset(axis % rank for axis in named) or frozenset(() if kept_if_none else range(rank))
    if attribute(node, "keepdims", 1):
        return AxisMap({axis: axis for axis in range(rank)}, gone)
    left = [axis for axis in range(rank) if axis not in gone]
    return AxisMap({axis: left.index(axis) if axis in left else None for axis in range(rank)}, gone)


def cuts(node: NodeProto, value: str, graph: TypedGraph) -> dict[int, tuple[int | None, int]] | None:
    """Return where along each axis that a Slice or Split cuts an output begins, and its step; None and 0 are unknown.

    Returns:
        None if it is not known which axes are cut.
    """
    before, after = graph.known_shape(node.input[0]), graph.known_shape(value)
    rank = len(before)
    if node.op_type == "Split":
        axis = named_axis(node, 0, rank)
        earlier = node.output[: list(node.output).index(value)]
        return {axis: (total([(graph.shape(name) or (None,) * rank)[axis] for name in earlier]), 1)}
    starts, ends, steps = (graph.constant(node, index) for index in (1, 2, 4))
    bounds, axes = starts if starts is not None else ends, axes_of(node, graph.constants)
    if bounds is None or axes is None:
        return None
    found: dict[int, tuple[int | None, int]] = {}
    named = [axis % rank for axis in axes or range(bounds.size)]
    for place, (axis, bound) in enumerate(zip(named, map(int, bounds.reshape(-1)), strict=False)):
        size, left, start = before[axis], after[axis], None
        step = int(steps.reshape(-1)[place]) if steps is not None else 0 if input_of(node, 4) else 1
        if isinstance(size, int) and starts is not None:
            start = max(bound + size, 0) if bound < 0 else min(bound, size if step >= 0 else size - 1)
        elif isinstance(size, int) and isinstance(left, int) and bound >= size:
            start = size - left  # it goes to the end
        found[axis] = (start, step)
    return found
