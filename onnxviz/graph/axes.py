"""What each axis of a value runs over: units, rows and columns of a map, the tokens of a grid of patches, heads.

Meanings are carried from the image through the graph, in its order. Reshapes are followed by their sizes: axes that are
merged or split are matched from the left where the batch stays the first axis, else from the right. Where a meaning
cannot be followed it is dropped, and found again where a sum or product joins the value with one that has it, as the
residuals around the windows of a Swin transformer do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.batch import axes_of
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.operators import CHANNELS_AT_ONE
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import attribute, consumers, initializers, integers, reads, to_array
from onnxviz.values import Tokens

CHANNELS_FIRST = CHANNELS_AT_ONE | {"ConvInteger", "DeformConv", "QLinearConv"}
"""Operators whose first input and output have their channels at axis 1, as the ONNX standard says."""
_FORM_ONLY = frozenset(["Reshape", "Flatten", "Squeeze", "Unsqueeze"])

Shape = tuple[object, ...]


@dataclass(frozen=True)
class Meaning:
    """What an axis runs over.

    Attributes:
        kind: "head" is the first and "part" another of the axes that the units were split into.
        tokens: the grid of a "tokens" axis; its `axis` means nothing here.
        unknown: where tokens were added whose number is not known yet.
    """

    kind: Literal["row", "column", "tokens", "channel", "head", "part"]
    tokens: Tokens | None = None
    unknown: Literal["", "before", "behind"] = ""

    def of_length(self, length: object) -> Meaning | None:
        """Return the same for an axis whose length is now known; None if that is too short for the grid."""
        if not self.unknown or self.tokens is None or not isinstance(length, int):
            return self
        extra = length - self.tokens.height * self.tokens.width - self.tokens.before - self.tokens.behind
        if extra < 0:
            return None
        grid = replace(self.tokens, **{self.unknown: getattr(self.tokens, self.unknown) + extra})
        return Meaning("tokens", grid)


Meanings = tuple[Meaning | None, ...]
_CHANNEL, _ROW, _COLUMN = Meaning("channel"), Meaning("row"), Meaning("column")
_UNITS = ("channel", "head", "part")


@dataclass(frozen=True)
class Axes:
    """Where the units of each value are, and which of its axes run over tokens."""

    channel: dict[str, int | None]
    tokens: dict[str, tuple[Tokens, ...]]


def find_axes(
    graph: GraphProto,
    types: Mapping[str, TensorType],
    dependent: set[str],
    mixed: set[str],
    input_name: str,
    layout: InputLayout,
) -> Axes:
    """Find what the axes of all values that depend on the image run over.

    Args:
        graph: the normalised graph.
        types: of all its values.
        dependent: values that depend on the image.
        mixed: values whose first axis is not simply the batch: they have no units.
        input_name: the image.
        layout: NCHW, NHWC or other.
    """
    walk = _Walk(types, initializers(graph), {}, mixed)
    readers = consumers(graph)
    axes = Axes({}, {})
    image: Meanings = {
        "NCHW": (None, _CHANNEL, _ROW, _COLUMN),
        "NHWC": (None, _ROW, _COLUMN, _CHANNEL),
    }.get(layout, ())
    steps = [(input_name, image)]
    for value, given in steps:
        _settle(walk, axes, value, given, readers.get(value, ()))
    for node in graph.node:
        for value in node.output:
            if value in dependent:
                _settle(walk, axes, value, walk.meanings(node, value), readers.get(value, ()))
    return axes


def _settle(walk: _Walk, axes: Axes, value: str, found: Meanings, readers: Sequence[NodeProto]) -> None:
    """Decide which axis holds the units, and note the tokens."""
    shape = walk.shape(value)
    if shape is None:
        axes.channel[value] = None
        return
    rank = len(shape)
    meanings = list(found) if len(found) == rank else [None] * rank
    meanings = [meaning and meaning.of_length(size) for meaning, size in zip(meanings, shape, strict=True)]
    if rank > 1 and any(node.op_type in CHANNELS_FIRST and node.input[0] == value for node in readers):
        meanings = [None if meaning is not None and meaning.kind in _UNITS else meaning for meaning in meanings]
        meanings[1] = _CHANNEL
    walk.known[value] = tuple(meanings)
    if rank < 2 or value in walk.mixed:
        axes.channel[value] = None
        return
    chosen = _units(meanings)
    if chosen is None:
        # Nothing to go by: vectors have their units at axis 1, sequences last, maps as ONNX's operators want them.
        order = [2, 1] if rank == 3 else [1, *range(rank - 1, 1, -1)]
        chosen = next((axis for axis in order if meanings[axis] is None), order[0])
        if meanings[chosen] is None:
            meanings[chosen] = _CHANNEL
            walk.known[value] = tuple(meanings)
    axes.channel[value] = chosen
    tokens = tuple(
        replace(meaning.tokens, axis=axis)
        for axis, meaning in enumerate(meanings)
        if meaning is not None and meaning.tokens is not None and not meaning.unknown and axis != chosen
    )
    if tokens:
        axes.tokens[value] = tokens


def _units(meanings: Sequence[Meaning | None]) -> int | None:
    for kind in ("channel", "head", "part"):
        for axis, meaning in enumerate(meanings):
            if axis and meaning is not None and meaning.kind == kind:
                return axis
    return None


@dataclass(frozen=True)
class _Walk:
    """What is known when a node is reached."""

    types: Mapping[str, TensorType]
    constants: Mapping[str, TensorProto]
    known: dict[str, Meanings]
    mixed: set[str]

    def shape(self, value: str) -> Shape | None:
        return self.types.get(value, TensorType(0, None)).shape

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        name = node.input[index] if index < len(node.input) else ""
        return to_array(self.constants[name]) if name in self.constants else None

    def meanings(self, node: NodeProto, value: str) -> Meanings:
        """Return what the axes of one output of a node run over."""
        out = self.shape(value)
        source = next((name for name in reads(node) if name in self.known), None)
        if out is None or source is None or node.domain:
            return ()
        before, given = self.shape(source), self.known[source]
        if before is None or len(given) != len(before):
            return ()
        if node.op_type in CHANNELS_FIRST:
            return self._windowed(given, before, out)
        if node.op_type in ("MatMul", "Gemm"):
            return self._product(node, out)
        if node.op_type == "Transpose":
            return tuple(given[axis] for axis in integers(node, "perm", range(len(before) - 1, -1, -1)))
        if node.op_type in ("Squeeze", "Unsqueeze") and (named := self._named(node, max(len(before), len(out)))):
            if node.op_type == "Squeeze":
                return tuple(meaning for axis, meaning in enumerate(given) if axis not in named)
            rest = iter(given)
            return tuple(None if axis in named else next(rest, None) for axis in range(len(out)))
        if node.op_type in _FORM_ONLY:
            return reshaped(given, before, out)
        if node.op_type == "Concat":
            return self._concatenated(node, out)
        if node.op_type in ("Slice", "Split", "Gather", "Pad"):
            return self._cut(node, value, given, before, out)
        if node.op_type.startswith("Reduce") or node.op_type in ("ArgMax", "ArgMin"):
            return self._reduced(node, given, before, out)
        if node.op_type == "Einsum":
            return (*([None] * (len(out) - 1)), _CHANNEL)
        return self._joined(node, out)

    def _named(self, node: NodeProto, rank: int) -> set[int]:
        named = axes_of(node, lambda index: self.constant(node, index))
        return {axis % rank for axis in named or ()}

    def _windowed(self, given: Meanings, before: Shape, out: Shape) -> Meanings:
        if len(out) != len(before):
            return (None, _CHANNEL, *([None] * (len(out) - 2)))
        kept = (
            None if meaning is None or (meaning.tokens is not None and size != was) else meaning
            for meaning, was, size in zip(given[2:], before[2:], out[2:], strict=True)
        )
        return (None, _CHANNEL, *(meaning if meaning in (_ROW, _COLUMN) or _is_tokens(meaning) else None
                                  for meaning in kept))  # fmt: skip

    def _product(self, node: NodeProto, out: Shape) -> Meanings:
        """Weights put units at the last axis; a product of two activations has rows of one and columns of the other."""
        rank = len(out)
        left, right = (self._aligned(name, rank) for name in node.input[:2])
        if node.op_type == "Gemm":
            return (None, _CHANNEL)
        if right is None and left is not None and rank > 1:
            positions = tuple(None if _is_units(meaning) else meaning for meaning in left[:-1])
            return (*positions, _CHANNEL)
        if left is None and right is not None and rank > 1:  # weights from the left mix what the rows of the right are
            return (*right[:-2], None, right[-1])
        if left is None or right is None or rank < 2:
            return ()
        outer = tuple(a or b for a, b in zip(left[:-2], right[:-2], strict=True))
        return (*outer, left[-2], right[-1])

    def _aligned(self, name: str, rank: int) -> Meanings | None:
        """The meanings of an operand, aligned on the right as broadcasting does."""
        given = self.known.get(name)
        if given is None or len(given) > rank:
            return None
        return (*([None] * (rank - len(given))), *given)

    def _joined(self, node: NodeProto, out: Shape) -> Meanings:
        """Pointwise operators with broadcasting, and everything that keeps the shape."""
        found: list[Meaning | None] = [None] * len(out)
        for name in reads(node):
            shape = self.shape(name)
            given = self._aligned(name, len(out))
            if given is None or shape is None:
                continue
            sizes = (*([1] * (len(out) - len(shape))), *shape)
            for axis, (meaning, size) in enumerate(zip(given, sizes, strict=True)):
                if meaning is not None and found[axis] is None and (size == out[axis] or size != 1):
                    kept = size == out[axis] or meaning.tokens is None or bool(meaning.unknown)
                    found[axis] = meaning if kept else None
        return _once(found)

    def _concatenated(self, node: NodeProto, out: Shape) -> Meanings:
        axis = int(attribute(node, "axis", 1)) % len(out)
        parts = [(name, self.known.get(name, ()), self.shape(name)) for name in node.input]
        wide: list[Meaning | None] = [None] * len(out)
        for _, given, _ in parts:
            for place, meaning in enumerate(given[: len(out)]):
                if place != axis:
                    wide[place] = wide[place] or meaning
        along = [given[axis] if len(given) == len(out) else None for _, given, _ in parts]
        positions = [index for index, meaning in enumerate(along) if _is_tokens(meaning)]
        sizes = [shape[axis] if shape is not None and axis < len(shape) else None for _, _, shape in parts]
        if len(positions) == 1:
            place = positions[0]
            meaning = along[place]
            assert meaning is not None
            assert meaning.tokens is not None
            before, behind = _total(sizes[:place]), _total(sizes[place + 1 :])
            if not meaning.unknown and (before is not None or behind is not None):
                grid = replace(
                    meaning.tokens,
                    before=meaning.tokens.before + (before or 0),
                    behind=meaning.tokens.behind + (behind or 0),
                )
                wide[axis] = Meaning("tokens", grid, "before" if before is None else "behind" if behind is None else "")
        elif along and all(_is_units(meaning) for meaning in along):
            wide[axis] = along[0]
        elif along and all(meaning in (_ROW, _COLUMN) and meaning == along[0] for meaning in along):
            wide[axis] = along[0]  # as in a shift that puts the first rows behind the last: still rows
        return _once(wide)

    def _cut(self, node: NodeProto, value: str, given: Meanings, before: Shape, out: Shape) -> Meanings:
        """Slices, splits and pads keep rows, columns and units; of tokens it is known which are left."""
        if node.op_type == "Gather":
            return self._gathered(node, given, before, out)
        if len(out) != len(before):
            return ()
        starts = self._starts(node, value, before)
        found = list(given)
        for axis, meaning in enumerate(given):
            if meaning is None or meaning.tokens is None or (out[axis] == before[axis] and out[axis] is not None):
                continue
            start, length = starts.get(axis), out[axis]
            found[axis] = None
            if isinstance(start, int) and isinstance(length, int) and not meaning.unknown:
                found[axis] = _remaining(meaning.tokens, start, length)
        return tuple(found)

    def _starts(self, node: NodeProto, value: str, before: Shape) -> dict[int, int]:
        """Return where along each axis a Slice or Split begins; only steps of one."""
        rank = len(before)
        if node.op_type == "Split":
            axis = int(attribute(node, "axis", 0)) % rank
            earlier = [self.shape(name) for name in node.output[: list(node.output).index(value)]]
            total = _total([shape[axis] if shape is not None else None for shape in earlier])
            return {} if total is None else {axis: total}
        if node.op_type != "Slice":
            return {}
        starts, axes, steps = (self.constant(node, index) for index in (1, 3, 4))
        if starts is None or (steps is not None and (steps != 1).any()):
            return {}
        named = [int(axis) % rank for axis in axes.reshape(-1)] if axes is not None else range(starts.size)
        found = {}
        for axis, start in zip(named, starts.reshape(-1), strict=False):
            length = before[axis]
            if isinstance(length, int):
                found[axis] = max(int(start) + length, 0) if start < 0 else min(int(start), length)
        return found

    def _gathered(self, node: NodeProto, given: Meanings, before: Shape, out: Shape) -> Meanings:
        axis = int(attribute(node, "axis", 0)) % len(before)
        if len(out) == len(before) - 1:
            return (*given[:axis], *given[axis + 1 :])
        if len(out) == len(before):
            kept = given[axis] if given[axis] is not None and _is_units(given[axis]) else None
            return (*given[:axis], kept, *given[axis + 1 :])
        return ()

    def _reduced(self, node: NodeProto, given: Meanings, before: Shape, out: Shape) -> Meanings:
        if node.op_type in ("ArgMax", "ArgMin"):
            named: Sequence[int] | None = [int(attribute(node, "axis", 0))]
        else:
            named = axes_of(node, lambda index: self.constant(node, index))
        if named is None:
            return ()
        gone = {axis % len(before) for axis in named} or set(range(len(before)))
        if len(out) == len(before):
            return tuple(None if axis in gone else meaning for axis, meaning in enumerate(given))
        return tuple(meaning for axis, meaning in enumerate(given) if axis not in gone)


def _is_tokens(meaning: Meaning | None) -> bool:
    return meaning is not None and meaning.tokens is not None


def _is_units(meaning: Meaning | None) -> bool:
    return meaning is not None and meaning.kind in _UNITS


def _once(found: Sequence[Meaning | None]) -> Meanings:
    """Rows, columns and units are one axis each: what is found twice contradicts itself, and is dropped."""
    once = (_ROW, _COLUMN, _CHANNEL)
    return tuple(None if meaning in once and list(found).count(meaning) > 1 else meaning for meaning in found)


def _total(sizes: Sequence[object]) -> int | None:
    return sum(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else None


def _remaining(grid: Tokens, start: int, length: int) -> Meaning | None:
    """What is left of an axis of tokens; None where the grid is cut into."""
    first, last = grid.before, grid.before + grid.height * grid.width
    if start > first or start + length < last:
        return None
    return Meaning("tokens", replace(grid, before=first - start, behind=start + length - last))


# --- reshaping ------------------------------------------------------------------------------------------------------


def reshaped(given: Meanings, before: Shape, out: Shape) -> Meanings:
    """Follow axes through a change of form.

    Rows and columns that are merged become tokens, tokens of a whole grid become rows and columns again, and units that
    are split become heads and parts, which merge to units again.
    """
    free_before, free_out = ([axis for axis, size in enumerate(s) if not isinstance(size, int)] for s in (before, out))
    found: list[Meaning | None] = [None] * len(out)
    if free_before in ([], [0]) and free_out in ([], [0]):
        same = _size(before[1:]) == _size(out[1:]) and (before[:1] == out[:1] or bool(free_before))
        if before and out and same and bool(free_before) == bool(free_out):
            _match(given, before, out, list(range(1, len(before))), list(range(1, len(out))), found)
        else:
            backwards = list(range(len(before) - 1, 0, -1)), list(range(len(out) - 1, 0, -1))
            _match(given, before, out, *backwards, found)
    return tuple(found)


def _size(sizes: Shape) -> int:
    return math.prod(size for size in sizes if isinstance(size, int))


def _match(
    given: Meanings, before: Shape, out: Shape, old: list[int], new: list[int], found: list[Meaning | None]
) -> None:
    """Walk along both shapes, and relate each smallest group of axes of the same size."""
    left, right = 0, 0
    while left < len(old) and right < len(new):
        group_old, group_new = [old[left]], [new[right]]
        left, right = left + 1, right + 1
        sizes = [int(str(before[group_old[0]])), int(str(out[group_new[0]]))]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                if left == len(old):
                    return
                group_old.append(old[left])
                sizes[0] *= int(str(before[old[left]]))
                left += 1
            else:
                if right == len(new):
                    return
                group_new.append(new[right])
                sizes[1] *= int(str(out[new[right]]))
                right += 1
        _relate(given, before, out, sorted(group_old), sorted(group_new), found)


def _relate(
    given: Meanings, before: Shape, out: Shape, old: list[int], new: list[int], found: list[Meaning | None]
) -> None:
    """Say what the axes of a group run over, from what they ran over before; axes of size 1 do not count."""
    wide_old = [axis for axis in old if before[axis] != 1] or old[:1]
    wide_new = [axis for axis in new if out[axis] != 1] or new[:1]
    meanings = [given[axis] for axis in wide_old]
    kinds = [meaning.kind if meaning is not None else "" for meaning in meanings]
    if len(wide_old) == len(wide_new) == 1:
        found[wide_new[0]] = meanings[0]
    elif kinds == ["row", "column"] and len(wide_new) == 1:
        height, width = before[wide_old[0]], before[wide_old[1]]
        found[wide_new[0]] = Meaning("tokens", Tokens(0, int(str(height)), int(str(width))))
    elif kinds == ["tokens"] and len(wide_new) == 2:
        grid = meanings[0].tokens if meanings[0] is not None else None
        if grid is not None and (grid.height, grid.width) == tuple(out[axis] for axis in wide_new):
            found[wide_new[0]], found[wide_new[1]] = _ROW, _COLUMN
    elif kinds[0] in ("channel", "head", "part") and len(wide_old) == 1:
        for place, axis in enumerate(wide_new):
            found[axis] = Meaning("head" if place == 0 and kinds[0] != "part" else "part")
    elif (len(wide_new) == 1 and all(kind in ("head", "part") for kind in kinds)) or set(kinds) == {"channel", "part"}:
        for axis in wide_new:
            found[axis] = _CHANNEL if len(wide_new) == 1 else None
