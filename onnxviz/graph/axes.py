"""What each axis of a value runs over: units, rows and columns of a map, the tokens of a grid of patches, heads.

Meanings are carried from the image through the graph, in its order, by what the standard says of each operator, and
changes of form are followed factor by factor (`factors`). Where a meaning cannot be followed the axis is unknown. It is
found again where a sum or product joins the value with one that has it, and from behind: what a layer normalisation, a
convolution or a product with weights reads has its units where they need them. What is not found so stays unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from onnxviz.core.values import Grid, Tokens
from onnxviz.graph.factors import (
    ATTENTION,
    PLACES,
    Axis,
    Meaning,
    Shape,
    either,
    end_to_end,
    fresh,
    grid_of,
    has_channels,
    is_attention,
    is_unknown,
    kinds,
    mixed_places,
    of_length,
    product_with_weights,
    remaining,
    reshaped,
    resized,
    simplified,
    tokens_of,
    unfolded,
    units_of,
    with_units,
    without_channels,
)
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.node_axes import axis_map, cuts, named_axis
from onnxviz.graph.operators import CHANNELS_FIRST, traits_of
from onnxviz.graph.shapes import TypedGraph
from onnxviz.graph.structure import attribute, input_of, integers, reads, text

_NAMES_UNITS = {"channel_normalisation": 1, "last_normalisation": -1, "map_normalisation": 1}
_AS_FIRST_INPUT = frozenset([
    *_NAMES_UNITS, "along_axis", "axis_normalisation", "cumulative", "normalisation", "quantize", "rotary",
    "scatter_elements", "scatter_nd", "trilu",
])  # fmt: skip
"""Forms whose first output has the axes of their first input."""


@dataclass(frozen=True)
class Placement:
    """Where the units of a value are, and how its positions lie on the image.

    Attributes:
        channel: the axis of the units, None where there is none or it is unknown.
        tokens: the axes that run over tokens.
        grid: how the positions become rows and columns, where they are not simply the two axes beside the units.
        unplaced: why it has no units or no map.
    """

    channel: int | None = None
    tokens: tuple[Tokens, ...] = ()
    grid: Grid | None = None
    unplaced: str = ""


def find_axes(
    graph: TypedGraph, dependent: set[str], mixed: set[str], input_name: str, layout: InputLayout
) -> dict[str, Placement]:
    """Find what the axes of all values that depend on the image run over.

    The first axis of `mixed` values is not simply the batch: they have no units.
    """
    walk = _Walk(graph, {}, {})
    image = _image(graph.shape(input_name), layout)
    for _ in range(2):
        walk.known.clear()
        walk.settle(input_name, image)
        for node in graph.graph.node:
            for value in node.output:
                if value in dependent:
                    walk.settle(value, walk.meaning(node, value))
        if not _look_back(walk):
            break
    return {value: _placement(graph.shape(value), walk.known.get(value), value in mixed) for value in dependent}


def _image(shape: Shape | None, layout: InputLayout) -> Meaning | None:
    if shape is None or layout not in ("NCHW", "NHWC"):
        return None
    order = ("image", "channel", "row", "column") if layout == "NCHW" else ("image", "row", "column", "channel")
    return tuple(fresh(kind, size) for kind, size in zip(order, shape, strict=True))  # type: ignore[arg-type]


def _placement(shape: Shape | None, found: Meaning | None, mixed: bool) -> Placement:
    """Decide which axis holds the units, and whether what is beside it is a map."""
    if shape is None or len(shape) < 2:
        return Placement(unplaced="its shape is not known" if shape is None else "it is one number for each image")
    if mixed:
        return Placement(unplaced="its first axis runs over more than the images, as over the windows of an image")
    found = tuple(fresh("", size) for size in shape) if found is None else found
    units = 1 if len(shape) == 2 else units_of(found)  # the numbers of a vector are its units
    if units is None:
        unknown = "which of its axes holds the units cannot be worked out"
        return Placement(unplaced=ATTENTION if is_attention(found) else unknown)
    tokens, grid = tokens_of(found, units), grid_of(found, units)
    if isinstance(grid, str):
        return Placement(units, tokens, unplaced=grid)
    return Placement(units, tokens, None if _is_plain(grid) else grid)


def _is_plain(grid: Grid) -> bool:
    """Whether rows and columns are simply the two axes beside the units."""
    return (
        len(grid.sizes) == 2
        and grid.rows == len(grid.sizes[0])
        and list(grid.order) == sorted(grid.order)
        and max(map(len, grid.sizes)) <= 1
        and not (grid.before or grid.behind)
    )


def _look_back(walk: _Walk) -> bool:
    """Note what unknown axes must run over because of what reads them; return whether anything was found."""
    walk.needed.clear()
    for node in reversed(walk.graph.graph.node):
        if node.domain:
            continue
        for name, meaning in walk.demanded(node):
            known = walk.known.get(name)
            if known is None or len(known) != len(meaning):
                continue
            has_units = any(map(has_channels, known))
            better = tuple(
                new if is_unknown(old) and not is_unknown(new) and not (has_units and has_channels(new)) else old
                for old, new in zip(known, meaning, strict=True)
            )
            if better != known:
                walk.known[name] = walk.needed[name] = better
    return bool(walk.needed)


@dataclass(frozen=True)
class _Walk:
    """What is known when a node is reached.

    Attributes:
        known: value that depends on the image -> what its axes run over.
        needed: what unknown axes run over, from what reads them.
    """

    graph: TypedGraph
    known: dict[str, Meaning]
    needed: dict[str, Meaning]

    def shape(self, value: str) -> Shape | None:
        return self.graph.shape(value)

    def settle(self, value: str, found: Meaning | None) -> None:
        """Keep what was found, where it can be true of the value's shape, and what readers need where nothing was."""
        shape = self.shape(value)
        if shape is None:
            return
        given = found if found is not None and len(found) == len(shape) else tuple(fresh("", size) for size in shape)
        axes = [of_length(axis, size) for axis, size in zip(given, shape, strict=True)]
        if value in self.needed:
            axes = [new if is_unknown(old) else old for old, new in zip(axes, self.needed[value], strict=True)]
        self.known[value] = simplified(axes)

    def meaning(self, node: NodeProto, value: str) -> Meaning | None:
        """Return what the axes of one output of a node run over, None if nothing is known."""
        out = self.shape(value)
        if out is None or node.domain:
            return None
        form = traits_of(node).form
        if form in ("pointwise", "expand"):
            return self._joined(node, out)
        source = next((name for name in node.input if name in self.known), None)
        given = self.known.get(source or "")
        before = self.shape(source or "")
        if given is None or before is None:
            return None
        if form == "einsum":
            return self._einsum(node, out)
        if form == "product":
            return self._product(node, out)
        if form == "concat":
            return self._concatenated(node, out)
        if node.input[0] != source:
            return None  # what it is made of is constant: only how it is arranged depends on the image
        if form in ("transpose", "reduction"):
            return self._moved(node, given, out)
        if form == "reshape":
            return self._moved(node, given, out) or reshaped(given, out)
        if form == "gather":
            return self._gathered(node, given, before, out)
        if form == "gemm":
            return given[1 if attribute(node, "transA", 0) else 0], fresh("channel", out[1])
        if form == "grid_sample":
            return (*given[:2], *(fresh("position", size) for size in out[2:]))
        if form.endswith("convolution"):
            return self._convolved(node, given, before, out)
        if form in _AS_FIRST_INPUT:
            return with_units(given, _units_named(node, len(out)), out)
        if form in CHANNELS_FIRST:
            return self._pooled(given, before, out)
        if form in ("slice", "split", "pad", "resize", "tile"):
            return self._cut(node, value, given, before, out)
        return None

    def _convolved(self, node: NodeProto, given: Meaning, before: Shape, out: Shape) -> Meaning:
        """A convolution makes channels at axis 1 of what it reads there, and keeps rows and columns."""
        if len(out) != len(before) or len(out) < 3:
            return tuple(fresh("", size) for size in out)
        kernel = integers(node, "kernel_shape")
        weights = self.shape(node.input[traits_of(node).weight]) or ()
        sides = kernel or tuple(size for size in weights[2:] if isinstance(size, int))
        spatial = [resized(axis, was, size) for axis, was, size in zip(given[2:], before[2:], out[2:], strict=True)]
        if len(spatial) == 2 and all(map(is_unknown, given[2:])) and len(sides) == 2 and min(sides) > 1:
            spatial = [fresh("row", out[2]), fresh("column", out[3])]  # it mixes neighbours: they lie on a grid
        made = mixed_places(given[1], spatial, out[1])
        if made is None:
            made, spatial = fresh("channel", out[1]), [without_channels(axis) for axis in spatial]
        return (given[0], made, *spatial)

    def _pooled(self, given: Meaning, before: Shape, out: Shape) -> Meaning:
        if len(out) != len(before):
            return tuple(fresh("", size) for size in out)
        spatial = [resized(axis, was, size) for axis, was, size in zip(given[2:], before[2:], out[2:], strict=True)]
        channels = given[1] if out[1] == before[1] else fresh("channel", out[1])
        return with_units((given[0], channels, *spatial), 1, out)

    def _product(self, node: NodeProto, out: Shape) -> Meaning | None:
        """Weights make units of what they sum over; two activations give rows of the one and columns of the other."""
        rank = len(out)
        names = node.input[0], node.input[traits_of(node).weight]
        if rank < 2 or any(len(self.shape(name) or (0, 0)) < 2 for name in names):
            return None
        left, right = (self._aligned(name, rank) for name in names)
        if left is not None and right is None:
            return product_with_weights(left, len(left) - 1, len(left) - 1, out)
        if right is not None and left is None:
            return product_with_weights(right, len(right) - 2, len(right) - 2, out)
        if left is None or right is None:
            return None
        outer = tuple(either(a, b) for a, b in zip(left[:-2], right[:-2], strict=True))
        alone = not left[-2] and has_channels(left[-1]) and bool(right[-1]) and kinds(right[-1]) <= PLACES
        return (*outer, left[-2], fresh("key", out[-1]) if alone else right[-1])

    def _einsum(self, node: NodeProto, out: Shape) -> Meaning | None:
        """Each letter runs over one thing; one that only weights have is made by them."""
        equation = text(node, "equation").replace(" ", "")
        if "." in equation or "->" not in equation:
            return None
        terms, result = equation.split("->")
        letters: dict[str, Axis] = {}
        for term, name in zip(terms.split(","), node.input, strict=False):
            for letter, axis in zip(term, self.known.get(name, ()), strict=False):
                letters[letter] = either(letters[letter], axis) if letter in letters else axis
        made = [letter for letter in result if letter not in letters]
        summed = [axis for letter, axis in letters.items() if letter not in result]
        kept = [letters.get(letter, ()) for letter in result]
        if len(made) == 1:
            place = result.index(made[0])
            contracted = next((axis for axis in summed if has_channels(axis)), summed[0] if summed else ())
            letters[made[0]] = mixed_places(contracted, kept, out[place]) or fresh("channel", out[place])
        return tuple(letters.get(letter, fresh("", size)) for letter, size in zip(result, out, strict=True))

    def _aligned(self, name: str, rank: int) -> Meaning | None:
        """The meaning of an operand, aligned on the right as broadcasting does."""
        given = self.known.get(name)
        if given is None or len(given) > rank:
            return None
        return (*([()] * (rank - len(given))), *given)

    def _joined(self, node: NodeProto, out: Shape) -> Meaning:
        """Pointwise operators with broadcasting; a constant that varies along one axis alone has one number a unit."""
        found: list[Axis] = [()] * len(out)
        varies: list[int] = []
        for name in dict.fromkeys(reads(node)):
            shape, given = self.shape(name), self._aligned(name, len(out))
            if shape is None or len(shape) > len(out):
                continue
            sizes = (*([1] * (len(out) - len(shape))), *shape)
            if given is None:
                wide = [axis for axis, size in enumerate(sizes) if size != 1]
                varies += wide if len(wide) == 1 and name in self.graph.constants else []
                continue
            for axis, (factors, size) in enumerate(zip(given, sizes, strict=True)):
                if size == out[axis] or (size != 1 and factors):
                    found[axis] = either(found[axis], factors)
        whole: Meaning = tuple(
            axis or (() if size == 1 else fresh("", size)) for axis, size in zip(found, out, strict=True)
        )
        place = varies[0] if len(set(varies)) == 1 and varies[0] > 0 else None
        return with_units(whole, place, out)

    def _concatenated(self, node: NodeProto, out: Shape) -> Meaning:
        axis = named_axis(node, 1, len(out))
        parts = [(self.known.get(name), self.shape(name)) for name in node.input]
        known = [given for given, _ in parts if given is not None and len(given) == len(out)]
        wide: list[Axis] = [fresh("", size) for size in out]
        for place in range(len(out)):
            for given in known:
                wide[place] = either(wide[place], given[place])
        sizes = [shape[axis] if shape is not None and axis < len(shape) else None for _, shape in parts]
        along = [
            given[axis] if given is not None and len(given) == len(out) else fresh("", size)
            for (given, _), size in zip(parts, sizes, strict=True)
        ]
        singles = bool(known) and all(not factors or is_unknown(factors) for factors in along)
        if singles and any(units_of(given) == axis for given in known):
            wide[axis] = fresh("channel", out[axis])  # of values with a single unit each
        else:
            wide[axis] = end_to_end(along, sizes, out[axis])
        return tuple(wide)

    def _cut(self, node: NodeProto, value: str, given: Meaning, before: Shape, out: Shape) -> Meaning | None:
        """What is left where slices, splits and pads take away or add; of tokens it is known which are left."""
        if len(out) != len(before):
            return None
        cut = cuts(node, value, self.graph) if node.op_type in ("Slice", "Split") else {}
        found = list(given)
        for axis, factors in enumerate(given):
            start, step = (None, 0) if cut is None else cut.get(axis, (None, 1))
            if (out[axis] == before[axis] and out[axis] is not None and step == 1) or not factors:
                continue
            found[axis] = remaining(factors, before[axis], out[axis], start, step)
            if traits_of(node).form in ("resize", "pad"):
                found[axis] = resized(factors, before[axis], out[axis])
            if node.op_type == "Pad" and kinds(factors) >= {"row", "column"}:
                found[axis] = self._padded(node, axis, factors, before, out)
        return tuple(found)

    def _padded(self, node: NodeProto, axis: int, patches: Axis, before: Shape, out: Shape) -> Axis:
        """Return a grid of patches with what a Pad puts around them, as a class token's place is left empty."""
        pads = self.graph.constant(node, 1)
        if pads is None or pads.size != 2 * len(before) or input_of(node, 3):
            return resized(patches, before[axis], out[axis])
        around = [int(pads[axis]), int(pads[axis + len(before)])]
        if min(around) < 0:
            return resized(patches, before[axis], out[axis])
        return end_to_end([(), patches, ()], [around[0], before[axis], around[1]], out[axis])

    def _gathered(self, node: NodeProto, given: Meaning, before: Shape, out: Shape) -> Meaning | None:
        axis = named_axis(node, 0, len(before))
        if len(out) == len(before) - 1:
            return (*given[:axis], *given[axis + 1 :])
        if len(out) == len(before) + 1 and (kernel := self.graph.constant(node, 1)) is not None and kernel.ndim == 2:
            return (*given[:axis], *unfolded(given[axis], kernel), *given[axis + 1 :])
        if len(out) == len(before):
            along = given[axis]
            kept = fresh("channel" if kinds(along) == {"channel"} else "position" if kinds(along) <= PLACES else "",
                         out[axis])  # fmt: skip
            return (*given[:axis], kept, *given[axis + 1 :])
        return None

    def _moved(self, node: NodeProto, given: Meaning, out: Shape) -> Meaning | None:
        """Transposes and reductions; an axis that is summed over is there once, or not at all."""
        found = axis_map(node, len(given), self.graph.constants)
        if found is None:
            return None
        moved: dict[int | None, Axis] = {
            place: () if axis in found.mixed else given[axis] for axis, place in found.to.items()
        }
        return tuple(moved.get(place, ()) for place in range(len(out)))

    def demanded(self, node: NodeProto) -> list[tuple[str, Meaning]]:
        """Return what the inputs of a node must run over because of what it does, or of what its result runs over."""
        name = node.input[0] if node.input else ""
        shape = self.shape(name)
        if shape is None or name not in self.known:
            name, shape = "", ()
        blank = [fresh("", size) for size in shape]
        traits = traits_of(node)
        place = 1 if traits.form in CHANNELS_FIRST else _units_named(node, len(shape))
        if traits.form == "product" and node.input[traits.weight] in self.graph.constants:
            place = len(shape) - 1
        if len(shape) > 1 and place is not None:
            blank[place] = fresh("channel", shape[place])
        found = [(name, tuple(blank))] if name and not all(map(is_unknown, blank)) else []
        out = self.known.get(node.output[0])
        if out is None:
            return found
        moved = axis_map(node, len(shape), {}) if traits.form == "transpose" and len(out) == len(shape) else None
        if moved is not None and name:
            found.append((name, tuple(out[moved.to[axis] or 0] for axis in range(len(shape)))))
        elif traits.form == "reshape" and name:
            found.append((name, reshaped(out, shape)))
        elif traits.form in _AS_FIRST_INPUT and name:
            found.append((name, out))
        elif traits.form == "pointwise":
            found += [(other, out) for other in node.input if self.shape(other) == self.shape(node.output[0])]
        return found


def _units_named(node: NodeProto, rank: int) -> int | None:
    """Return the axis of which a normalisation says that it holds the units: it has a weight for each."""
    place = _NAMES_UNITS.get(traits_of(node).form)
    if place == -1:
        return rank - 1 if int(attribute(node, "axis", -1)) in (-1, rank - 1) else None
    return place
