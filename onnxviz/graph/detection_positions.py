"""What the positions of a detector's scores are: of which maps, one behind the other, an output was joined."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxviz.core.errors import SelectionError
from onnxviz.core.values import Layer
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import ancestors, attribute
from onnxviz.graph.view import GraphView

Size = tuple[int | None, int | None]


@dataclass(frozen=True)
class Piece:
    """Some of the positions of a layer, one behind the other.

    Attributes:
        grid: rows and columns of the image that they run over, row by row, None where free; None if nothing says it.
        sources: the values of the layers that the units asked for come from there.
    """

    grid: Size | None
    sources: frozenset[str]


def pieces(view: GraphView, layer: Layer, units: Sequence[int]) -> tuple[Piece, ...]:
    """Return the pieces that a layer's positions are joined of, in order; itself where it is not joined.

    Detectors give all their scales as one list of positions, and boxes beside scores. Joining, changes of form and
    functions of each element are followed back, of the units asked for.
    """
    found = _followed(view, {each.value: each for each in view.layers}, layer, tuple(units))
    own = _grid(layer)
    return (replace(found[0], grid=own),) if own is not None and len(found) == 1 else found


def with_units(view: GraphView, layer: Layer) -> Layer | None:
    """Return the last layer with units of which a layer is another form; None if there is none."""
    layers = {each.value: each for each in view.layers}
    found: Layer | None = layer
    while found is not None and found.channel_axis is None:
        node = view.node(found)
        found = layers.get(node.input[0]) if node.op_type in _FORMS else None
    return found


_FORMS = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def _followed(view: GraphView, layers: dict[str, Layer], layer: Layer, units: tuple[int, ...]) -> tuple[Piece, ...]:
    node = view.node(layer)
    itself = (Piece(_grid(layer), frozenset({layer.value})),)
    given = [layers[name] for name in node.input if name in layers]
    if node.domain or not given or any(each.channel_axis is None for each in given):
        return itself
    if node.op_type == "Concat":
        joined = _joined(view, layers, layer, units) if len(given) == len(node.input) else None
        return joined or itself
    if len(given) != 1 or given[0].value != node.input[0]:
        return itself
    if node.op_type == "Slice":
        moved = _sliced(view, layer, given[0], units)
        return itself if moved is None else _followed(view, layers, given[0], moved)
    alike = given[0].unit_count == layer.unit_count
    if alike and (node.op_type == "Transpose" or (traits_of(node).form == "pointwise" and _same(given[0], layer))):
        return _followed(view, layers, given[0], units) if node.op_type != "Transpose" or _keeps(given[0]) else itself
    if alike and node.op_type == "Reshape" and _runs_over(given[0], layer):
        (piece, *others) = _followed(view, layers, given[0], units)
        return itself if others else (replace(piece, grid=_grid(layer) or given[0].map_shape),)
    return itself


def _joined(
    view: GraphView, layers: dict[str, Layer], layer: Layer, units: tuple[int, ...]
) -> tuple[Piece, ...] | None:
    """Return the pieces of a Concat: of positions one behind the other, of units those that were asked for."""
    node = view.node(layer)
    given = [layers[name] for name in node.input]
    axis = int(attribute(node, "axis", 0)) % len(layer.shape)
    if axis != layer.channel_axis:
        if axis == 0 or any(each.channel_axis != layer.channel_axis for each in given) or len(layer.shape) != 3:
            return None
        return tuple(piece for each in given for piece in _followed(view, layers, each, units))
    found, start = [], 0
    for each in given:
        own = tuple(unit - start for unit in units if start <= unit < start + each.unit_count)
        start += each.unit_count
        found += [_followed(view, layers, each, own)] if own else []
    if not found or any(len(each) != len(found[0]) for each in found):
        return None
    return tuple(
        Piece(same[0].grid or _grid(layer), frozenset().union(*(piece.sources for piece in same)))
        for same in zip(*found, strict=True)
    )


def _sliced(view: GraphView, layer: Layer, given: Layer, units: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return which units of what a Slice takes from these are, where it takes units one after the other."""
    node = view.node(layer)
    numbers = [view.graph.constant(node, place) for place in range(1, len(node.input))]
    if len(numbers) < 3 or any(each is None or each.size != 1 for each in numbers):
        return None
    start, _, axis, *step = (int(each.reshape(-1)[0]) for each in numbers if each is not None)
    if (
        axis % len(layer.shape) != given.channel_axis
        or step not in ([], [1])
        or given.channel_axis != layer.channel_axis
    ):
        return None
    start = min(max(start + given.unit_count, 0) if start < 0 else start, given.unit_count)
    return tuple(unit + start for unit in units)


def _grid(layer: Layer) -> Size | None:
    """Return the rows and columns that a layer's positions run over row by row, if that is known."""
    if layer.map_shape is None or (layer.grid is None) == bool(layer.tokens):
        return None
    plain = layer.grid is None or (
        len(layer.grid.sizes) == 1 and layer.grid.order == (0, 1) and not (layer.grid.before or layer.grid.behind)
    )
    return layer.map_shape if plain else None


def _same(given: Layer, layer: Layer) -> bool:
    return given.shape == layer.shape and given.channel_axis == layer.channel_axis


def _keeps(given: Layer) -> bool:
    """Whether a Transpose of it leaves positions in order: they are on one axis, or are rows and columns."""
    return len(given.shape) == 3 or _grid(given) is not None


def _runs_over(given: Layer, layer: Layer) -> bool:
    """Whether a Reshape makes one axis of the rows and columns of a map, and leaves the units."""
    last = given.channel_axis == 3 and layer.channel_axis == 2
    first = given.channel_axis == layer.channel_axis == 1
    return len(given.shape) == 4 and len(layer.shape) == 3 and (last or first) and _grid(given) is not None


def resolved(found: Sequence[Piece], positions: int, image: tuple[int, int]) -> tuple[tuple[int, int], ...] | None:
    """Return rows and columns of each piece for an image of a size, None unless they are known and make up all."""
    grids = []
    for piece in found:
        if piece.grid is None:
            return None
        rows, columns = piece.grid
        if rows is None or columns is None:
            if len(found) > 1:
                return None
            stride = math.sqrt(image[0] * image[1] / positions)
            rows, columns = round(image[0] / stride), round(image[1] / stride)
        grids.append((rows, columns))
    return tuple(grids) if sum(rows * columns for rows, columns in grids) == positions else None


def last_common_map(view: GraphView, found: Sequence[Piece]) -> Layer | None:
    """Return the last layer with rows and columns of the image that every piece is computed from.

    That is `last_map` where all are computed from that one; None where there is none, or a single piece with another.
    """
    graph = view.proto.graph
    needed = [set(ancestors(graph, sorted(piece.sources))) for piece in found]
    common = needed[0].intersection(*needed[1:])
    with contextlib.suppress(SelectionError):
        (usual,) = view.select("last_map")
        if usual.value in common:
            return usual
    maps = [layer for layer in view.layers if layer.value in common and layer.has_map]
    return max(maps, key=lambda layer: layer.position, default=None) if len(found) > 1 else None
