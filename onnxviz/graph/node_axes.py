"""Which axes a node works along, and where it puts those of its first input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from onnxviz.graph.operators import traits_of
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
    """Return where a transpose, a reduction or a normalisation puts axes; None if that is computed, or for others."""
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
    return None


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
