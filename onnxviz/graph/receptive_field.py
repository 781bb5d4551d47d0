"""Receptive fields, computed from the graph exactly: which input pixels each position of a layer can see.

Height and width are followed separately. For each index along an axis of a tensor a `Reach` holds an interval of input
rows (or columns), in two versions: *nominal*, as if the image went on beyond its border (the usual definition: size,
stride and offset from kernel, stride, dilation and padding; Araujo, Norris and Sim 2019, "Computing receptive fields
of convolutional neural networks", Distill), and *seen*, without what falls into padding. Where several paths join,
the intervals are united. Where an axis is summed over, or an operator looks everywhere, all its intervals become one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnxviz.graph import windows
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.node_axes import axes_of, axis_map, cuts, named_axis
from onnxviz.graph.operators import Form, traits_of
from onnxviz.graph.shapes import TypedGraph, product
from onnxviz.graph.structure import attribute, integers, measured_ranges, reads, text
from onnxviz.graph.windows import Reach

Field = tuple[Reach, Reach]
"""Reach of the rows and of the columns."""


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """What each position of a layer sees of the input.

    Attributes:
        rows: reach of the layer's vertical positions; its `axis` is None if the layer has none.
        columns: the same for horizontal positions.
        spatial_axes: the layer's axes that are neither batch nor channel, in order.
    """

    rows: Reach
    columns: Reach
    spatial_axes: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in input pixels, of the position in the middle."""
        top, left, bottom, right = self.box(self._middle())
        return bottom - top, right - left

    @property
    def stride(self) -> tuple[float, float]:
        """Distance in input pixels between the fields of neighbouring positions; 0 where there are no neighbours."""
        return float(self.rows.stride), float(self.columns.stride)

    def box(self, position: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return top, left, bottom, right in input pixels, bottom and right exclusive; may exceed the image.

        Args:
            position: index along each spatial axis of the layer (units-first order).

        Raises:
            IndexError: if the layer has no such position.
        """
        return self._ends(position, slice(0, 2))

    def seen(self, position: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return the same for the pixels that really enter: inside the image, without detours through padding."""
        return self._ends(position, slice(2, 4))

    def _ends(self, position: tuple[int, ...], which: slice) -> tuple[int, int, int, int]:
        row, column = self._indices(position)
        (top, bottom), (left, right) = self.rows.ends[which, row], self.columns.ends[which, column]
        if top > -bottom or left > -right:
            return 0, 0, 0, 0  # a position that sees nothing, as in the gaps of a transposed convolution
        return int(top), int(left), 1 - int(bottom), 1 - int(right)

    def _middle(self) -> tuple[int, ...]:
        lengths = {self.rows.axis: len(self.rows), self.columns.axis: len(self.columns)}
        return tuple(lengths.get(axis, 1) // 2 for axis in self.spatial_axes)

    def _indices(self, position: tuple[int, ...]) -> tuple[int, int]:
        if len(position) != len(self.spatial_axes):
            raise IndexError(f"a position of this layer has {len(self.spatial_axes)} indices, not {len(position)}")
        found = []
        for reach in (self.rows, self.columns):
            index = 0
            if reach.axis is not None and reach.axis in self.spatial_axes:
                index = position[self.spatial_axes.index(reach.axis)]
                if not 0 <= index < len(reach):
                    raise IndexError(f"position {position} lies outside the layer")
            found.append(index)
        return found[0], found[1]


def receptive_fields(
    graph: TypedGraph, input_name: str, layout: InputLayout, size: tuple[int, int]
) -> dict[str, Field]:
    """Follow the image's pixels through the graph.

    Args:
        graph: its types inferred for an input of this size. Ranges that dynamic quantisation measures see nothing.
        input_name: the image input.
        layout: NCHW or NHWC.
        size: height and width of the input in pixels.

    Returns:
        The reach of rows and columns of every value that depends on the image; values of unknown shape, and what
        depends on them, are left out.
    """
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    fields: dict[str, Field] = {input_name: (Reach.of_input(size[0], axes[0]), Reach.of_input(size[1], axes[1]))}
    lost: set[str] = set()
    ranges = measured_ranges(graph.graph)
    for node in graph.graph.node:
        if traits_of(node).form == "shape":
            continue
        if any(name in lost for name in reads(node)):
            lost.update(node.output)
            continue
        if not any(name in fields for name in reads(node)):
            continue
        for value in node.output:
            if not value or value in ranges:
                continue
            scene = _Scene(graph, fields, node, value)
            try:
                fields[value] = (scene.reach(0), scene.reach(1))
            except (windows.Unknown, LookupError, ValueError, ZeroDivisionError, OverflowError):
                lost.add(value)
    return fields


@dataclass(frozen=True)
class _Scene:
    """One node and one of its outputs."""

    graph: TypedGraph
    fields: Mapping[str, Field]
    node: NodeProto
    value: str

    def reach(self, direction: int) -> Reach:
        """Return the reach of the output's rows (0) or columns (1)."""
        sources = [name for name in reads(self.node) if name in self.fields]
        reaches = {name: self.fields[name][direction] for name in sources}
        form = traits_of(self.node).form
        if form in _JOINING:
            return _JOINING[form](self, reaches)
        # A second input that depends on the image, as in a product of two activations, makes all one.
        if form not in _RULES or sources != [self.node.input[0]]:
            return windows.united([reach.collapsed(None) for reach in reaches.values()])
        (reach,) = reaches.values()
        return reach if reach.axis is None else _RULES[form](self, reach, reach.axis)

    @property
    def rank(self) -> int:
        """Number of axes of the first input."""
        return len(self.shape(self.node.input[0]))

    def shape(self, name: str) -> tuple[int | None, ...]:
        return tuple(entry if isinstance(entry, int) else None for entry in self.graph.known_shape(name))

    def length(self, name: str, axis: int) -> int:
        size = self.shape(name)[axis]
        if size is None or size > _LONGEST:
            raise windows.Unknown
        return size

    def constant(self, index: int) -> np.ndarray | None:
        return self.graph.constant(self.node, index)

    def known(self, index: int) -> np.ndarray:
        """Return the numbers of a constant input, one behind the other."""
        array = self.constant(index)
        if array is None:
            raise windows.Unknown
        return array.reshape(-1)


def _joined(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    """Pointwise operators with broadcasting: an output sees what its operands see."""
    rank = len(scene.shape(scene.value))
    aligned = []
    for name, reach in reaches.items():
        if reach.axis is None:
            aligned.append(reach)
            continue
        axis = reach.axis + rank - len(scene.shape(name))
        length = scene.length(scene.value, axis)
        indices = np.arange(length) if len(reach) == length else np.zeros(length, np.int64)
        aligned.append(reach.taken(indices, axis))
    return windows.united(aligned)


def _mapped(scene: _Scene, reach: Reach, axis: int) -> Reach:
    """Transposes, sums, and normalisations that use all positions along some axes."""
    found = axis_map(scene.node, scene.rank, scene.graph.constants)
    if found is None:
        return reach.collapsed(None)
    if axis not in found.mixed:
        return reach.moved(found.to[axis])
    return reach.collapsed(found.to[axis]) if traits_of(scene.node).form == "reduction" else reach.spread()


def _window(scene: _Scene, reach: Reach, axis: int) -> Reach:
    place = axis - 2
    if place < 0:
        return reach.collapsed(None)
    spatial = scene.rank - 2
    kernel = integers(scene.node, "kernel_shape")
    if not kernel:
        weight = scene.node.input[traits_of(scene.node).weight]
        kernel = tuple(scene.length(weight, axis) for axis in range(2, 2 + spatial))
    strides = integers(scene.node, "strides", (1,) * spatial)
    dilations = integers(scene.node, "dilations", (1,) * spatial)
    pads = integers(scene.node, "pads", (0,) * 2 * spatial)
    length = scene.length(scene.value, axis)
    window = windows.Window(kernel[place], strides[place], dilations[place], pads[place])
    automatic = text(scene.node, "auto_pad", "NOTSET")
    if traits_of(scene.node).form == "transposed_convolution":
        return windows.transposed(reach, window, length, _transposed_pad(scene, window, place, spatial, automatic))
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        window = window.same(len(reach), length, lower=automatic == "SAME_LOWER")
    elif automatic == "VALID":
        window = windows.Window(window.kernel, window.stride, window.dilation, 0)
    return windows.slid(reach, window, length)


def _transposed_pad(scene: _Scene, window: windows.Window, place: int, spatial: int, automatic: str) -> int:
    """Padding at the start of a transposed convolution, as the ONNX standard computes it."""
    shape = integers(scene.node, "output_shape")
    if not shape and automatic in ("NOTSET", "VALID"):
        return window.pad if automatic == "NOTSET" else 0
    extra = integers(scene.node, "output_padding", (0,) * spatial)[place]
    before = scene.length(scene.node.input[0], place + 2)
    after = scene.length(scene.value, place + 2)
    total = window.stride * (before - 1) + extra + (window.kernel - 1) * window.dilation + 1 - after
    return total // 2 if automatic == "SAME_UPPER" else total - total // 2


def _reshape(scene: _Scene, reach: Reach, axis: int) -> Reach:
    """An axis survives if the result has one of its size with as many numbers in front of it; else all is one."""
    before, after = scene.shape(scene.node.input[0]), scene.shape(scene.value)
    front = product(before[1:axis])
    for place in range(1, len(after)):
        if front is not None and after[place] == len(reach) and product(after[1:place]) == front:
            return reach.moved(place)
    return reach.collapsed(None)


def _pad(scene: _Scene, reach: Reach, axis: int) -> Reach:
    pads, named = scene.known(1), axes_of(scene.node, scene.graph.constants)
    if named is None:
        raise windows.Unknown
    axes = [one % scene.rank for one in named or range(scene.rank)]
    if axis not in axes:
        return reach
    indices = np.arange(scene.length(scene.value, axis)) - int(pads[axes.index(axis)])
    mode = text(scene.node, "mode", "constant")
    last = len(reach) - 1
    if mode == "reflect" and last > 0:
        folded = np.abs(indices) % (2 * last)
        seen = np.where(folded > last, 2 * last - folded, folded)
    elif mode == "edge":
        seen = np.clip(indices, 0, last)
    elif mode == "wrap":
        seen = indices % (last + 1)
    else:
        seen = indices
    return reach.taken(indices, axis, seen)


def _cut(scene: _Scene, reach: Reach, axis: int) -> Reach:
    cut = cuts(scene.node, scene.value, scene.graph)
    if cut is None:
        raise windows.Unknown
    start, step = cut.get(axis, (0, 1))
    if start is None or step == 0:
        raise windows.Unknown
    return reach.taken(start + step * np.arange(scene.length(scene.value, axis)), axis) if axis in cut else reach


def _concatenated(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    axis = named_axis(scene.node, 1, len(scene.shape(scene.value)))
    if not any(reach.axis == axis for reach in reaches.values()):
        return windows.united(list(reaches.values()))
    parts = []
    for name in scene.node.input:
        if name in reaches and reaches[name].axis == axis:
            parts.append(reaches[name])
        elif name in reaches:
            return windows.united([reach.collapsed(None) for reach in reaches.values()])
        else:
            parts.append(Reach.nothing(scene.length(name, axis), axis))
    return windows.chained(parts)


def _gather(scene: _Scene, reach: Reach, axis: int) -> Reach:
    gathered = named_axis(scene.node, 0, scene.rank)
    indices, rank = scene.constant(1), len(scene.shape(scene.node.input[1]))
    if axis != gathered:
        return reach if axis < gathered else reach.moved(axis - 1 + rank)
    if indices is None or rank > 1:
        return reach.collapsed(None)
    taken = reach.taken(indices.reshape(-1).astype(np.int64) % len(reach), axis)
    return taken if rank == 1 else taken.collapsed(None)


def _resize(scene: _Scene, reach: Reach, axis: int) -> Reach:
    axes = [named % scene.rank for named in integers(scene.node, "axes", range(scene.rank))]
    if axis not in axes:
        return reach
    after = scene.length(scene.value, axis)
    scales = scene.constant(2)
    scale = after / len(reach)
    if scales is not None and scales.size == len(axes):
        scale = float(scales.reshape(-1)[axes.index(axis)])
    elif text(scene.node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        scale = _common_scale(scene, axes)
    return windows.resized(
        reach,
        after,
        scale,
        mode=text(scene.node, "mode", "nearest"),
        coordinates=text(scene.node, "coordinate_transformation_mode", "half_pixel"),
        rounding=text(scene.node, "nearest_mode", "round_prefer_floor"),
        antialias=bool(attribute(scene.node, "antialias", 0)),
    )


def _common_scale(scene: _Scene, axes: list[int]) -> float:
    """The one scale of a Resize that keeps the aspect ratio."""
    name = scene.node.input[0]
    scales = [int(size) / scene.length(name, axis) for size, axis in zip(scene.known(3), axes, strict=True)]
    return min(scales) if text(scene.node, "keep_aspect_ratio_policy") == "not_larger" else max(scales)


def _depth_to_space(scene: _Scene, reach: Reach, axis: int) -> Reach:
    block = int(attribute(scene.node, "blocksize", 1))
    taken = reach.taken(np.arange(len(reach) * block) // block, axis)
    return replace(taken, stride=reach.stride / block)


def _space_to_depth(scene: _Scene, reach: Reach, _: int) -> Reach:
    block = int(attribute(scene.node, "blocksize", 1))
    return windows.slid(reach, windows.Window(block, block, 1, 0), len(reach) // block)


def _matmul(scene: _Scene, reach: Reach, axis: int) -> Reach:
    """A product with constant weights: the last axis is summed over."""
    summed = int(not attribute(scene.node, "transA", 0)) if traits_of(scene.node).form == "gemm" else scene.rank - 1
    if axis == summed:
        return reach.collapsed(None)
    return reach.moved(axis + len(scene.shape(scene.value)) - scene.rank)


def _tile(scene: _Scene, reach: Reach, axis: int) -> Reach:
    place = axis + len(scene.shape(scene.value)) - scene.rank
    return reach.taken(np.arange(scene.length(scene.value, place)) % len(reach), place)


_LONGEST = 1 << 24
"""Axes that are longer are not followed: each position of an axis is a number here."""
_JOINING: Mapping[Form, Callable[[_Scene, dict[str, Reach]], Reach]] = {
    **dict.fromkeys(("channel_normalisation", "pointwise", "quantize"), _joined),
    "concat": _concatenated,
}
"""Rules for several inputs that depend on the image."""
_RULES: Mapping[Form, Callable[[_Scene, Reach, int], Reach]] = {
    **dict.fromkeys(("along_axis", "axis_normalisation", "last_normalisation", "reduction", "transpose"), _mapped),
    **dict.fromkeys(("convolution", "pool", "transposed_convolution"), _window),
    **dict.fromkeys(("expand", "tile"), _tile),
    **dict.fromkeys(("slice", "split"), _cut),
    **dict.fromkeys(("gemm", "product"), _matmul),
    "depth_to_space": _depth_to_space,
    "gather": _gather,
    "global_pool": lambda _, reach, axis: reach.collapsed(axis),
    "map_normalisation": lambda _, reach, __: reach.spread(),
    "pad": _pad,
    "reshape": _reshape,
    "resize": _resize,
    "space_to_depth": _space_to_depth,
}
"""Rules for the first input alone, from its reach and the axis of that."""
