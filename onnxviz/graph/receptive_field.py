"""Receptive fields, computed from the graph exactly: which input pixels each position of a layer can see.

Height and width are followed separately. For each index along an axis of a tensor a `Reach` holds an interval of input
rows (or columns), in two versions: *nominal*, as if the image went on beyond its border (the usual definition: size,
stride and offset from kernel, stride, dilation and padding; Araujo, Norris and Sim 2019, "Computing receptive fields
of convolutional neural networks", Distill), and *seen*, without what falls into padding. Where several paths join,
the intervals are united. Where an axis is summed over, or an operator looks everywhere, all its intervals become one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph import windows
from onnxviz.graph.batch_places import axes_of, product
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.operators import Form, traits_of
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import attribute, integers, measured_ranges, reads, text, to_array
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
        row, column = self._indices(position)
        top, bottom = int(self.rows.low[row]), int(self.rows.high[row])
        left, right = int(self.columns.low[column]), int(self.columns.high[column])
        if top > bottom or left > right:
            return 0, 0, 0, 0  # a position that sees nothing, as in the gaps of a transposed convolution
        return top, left, bottom + 1, right + 1

    def seen(self, position: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return the same for the pixels that really enter: inside the image, without detours through padding."""
        row, column = self._indices(position)
        top, bottom = int(self.rows.seen_low[row]), int(self.rows.seen_high[row])
        left, right = int(self.columns.seen_low[column]), int(self.columns.seen_high[column])
        if top > bottom or left > right:
            return 0, 0, 0, 0
        return top, left, bottom + 1, right + 1

    def _middle(self) -> tuple[int, ...]:
        lengths = {self.rows.axis: len(self.rows.low), self.columns.axis: len(self.columns.low)}
        return tuple(lengths.get(axis, 1) // 2 for axis in self.spatial_axes)

    def _indices(self, position: tuple[int, ...]) -> tuple[int, int]:
        if len(position) != len(self.spatial_axes):
            raise IndexError(f"a position of this layer has {len(self.spatial_axes)} indices, not {len(position)}")
        found = []
        for reach in (self.rows, self.columns):
            index = 0
            if reach.axis is not None and reach.axis in self.spatial_axes:
                index = position[self.spatial_axes.index(reach.axis)]
                if not 0 <= index < len(reach.low):
                    raise IndexError(f"position {position} lies outside the layer")
            found.append(index)
        return found[0], found[1]


def receptive_fields(
    graph: GraphProto,
    types: Mapping[str, TensorType],
    constants: Mapping[str, TensorProto],
    input_name: str,
    layout: InputLayout,
    size: tuple[int, int],
) -> dict[str, Field]:
    """Follow the image's pixels through the graph.

    Args:
        graph: in topological order. The ranges that dynamic quantisation measures do not count as seeing.
        types: inferred for an input of this size.
        constants: initializers by identifier.
        input_name: the image input.
        layout: NCHW or NHWC.
        size: height and width of the input in pixels.

    Returns:
        The reach of rows and columns of every value that depends on the image; values of unknown shape, and what
        depends on them, are left out.
    """
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    fields: dict[str, Field] = {
        input_name: (Reach.of_input(size[0], axes[0]), Reach.of_input(size[1], axes[1])),
    }
    lost: set[str] = set()
    ranges = measured_ranges(graph)
    for node in graph.node:
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
            scene = _Scene(types, constants, fields, node, value)
            try:
                fields[value] = (scene.reach(0), scene.reach(1))
            except (windows.Unknown, IndexError, ValueError, ZeroDivisionError, OverflowError):
                lost.add(value)
    return fields


@dataclass(frozen=True)
class _Scene:
    """One node and one of its outputs."""

    types: Mapping[str, TensorType]
    constants: Mapping[str, TensorProto]
    fields: Mapping[str, Field]
    node: NodeProto
    value: str

    def reach(self, direction: int) -> Reach:
        """Return the reach of the output's rows (0) or columns (1)."""
        sources = [name for name in reads(self.node) if name in self.fields]
        reaches = {name: self.fields[name][direction] for name in sources}
        rule = _RULES.get(traits_of(self.node).form)
        if rule is None or (rule is not _joined and rule is not _concatenated and sources[0] != self.node.input[0]):
            return windows.united([reach.collapsed(None) for reach in reaches.values()])
        if len(sources) > 1 and rule is not _joined and rule is not _concatenated:
            # A second input that depends on the image, as in a multiplication of two activations.
            return windows.united([reach.collapsed(None) for reach in reaches.values()])
        return rule(self, reaches)

    def shape(self, name: str) -> tuple[int | None, ...]:
        shape = self.types.get(name, TensorType(0, None)).shape
        if shape is None:
            raise windows.Unknown
        return tuple(entry if isinstance(entry, int) else None for entry in shape)

    def length(self, name: str, axis: int) -> int:
        size = self.shape(name)[axis]
        if size is None or size > _LONGEST:
            raise windows.Unknown
        return size

    def constant(self, index: int) -> np.ndarray | None:
        name = self.node.input[index] if index < len(self.node.input) else ""
        return to_array(self.constants[name]) if name in self.constants else None


def _only(reaches: dict[str, Reach]) -> tuple[str, Reach]:
    return next(iter(reaches.items()))


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
        indices = np.arange(length) if len(reach.low) == length else np.zeros(length, np.int64)
        aligned.append(reach.taken(indices, axis))
    return windows.united(aligned)


def _everywhere(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    """Statistics over the whole map that every position then uses."""
    return reaches[scene.node.input[0]].spread()


def _along_axis(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    """Softmax and its kin: every position uses all positions along one axis."""
    name, reach = _only(reaches)
    rank = len(scene.shape(name))
    axis = int(attribute(scene.node, "axis", -1)) % rank
    covered = range(axis, rank) if traits_of(scene.node).form == "last_normalisation" else (axis,)
    return reach.spread() if reach.axis in covered else reach


def _window(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    if reach.axis is None:
        return reach
    place = reach.axis - 2
    if place < 0:
        return reach.collapsed(None)
    spatial = len(scene.shape(name)) - 2
    kernel = integers(scene.node, "kernel_shape")
    if not kernel:
        weight = scene.node.input[traits_of(scene.node).weight]
        kernel = tuple(scene.length(weight, axis) for axis in range(2, 2 + spatial))
    strides = integers(scene.node, "strides", (1,) * spatial)
    dilations = integers(scene.node, "dilations", (1,) * spatial)
    pads = integers(scene.node, "pads", (0,) * 2 * spatial)
    length = scene.length(scene.value, reach.axis)
    window = windows.Window(kernel[place], strides[place], dilations[place], pads[place])
    automatic = text(scene.node, "auto_pad", "NOTSET")
    if traits_of(scene.node).form == "transposed_convolution":
        return windows.transposed(reach, window, length, _transposed_pad(scene, window, place, spatial, automatic))
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        window = window.same(len(reach.low), length, lower=automatic == "SAME_LOWER")
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


def _global(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    reach = reaches[scene.node.input[0]]
    return reach.collapsed(reach.axis)


def _reduced(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    rank = len(scene.shape(name))
    named = axes_of(scene.node, scene.constant)
    if named is None:
        return reach.collapsed(None)
    if not named and attribute(scene.node, "noop_with_empty_axes", 0):
        return reach
    axes = tuple(axis % rank for axis in named) or tuple(range(rank))
    keep = bool(attribute(scene.node, "keepdims", 1))
    if reach.axis is None:
        return reach
    if reach.axis in axes:
        return reach.collapsed(reach.axis if keep else None)
    return reach.moved(reach.axis if keep else reach.axis - sum(axis < reach.axis for axis in axes))


def _transpose(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    order = integers(scene.node, "perm", range(len(scene.shape(name)) - 1, -1, -1))
    return reach if reach.axis is None else reach.moved(order.index(reach.axis))


def _reshape(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    """An axis survives if the result has one of its size with as many numbers in front of it; else all is one."""
    name, reach = _only(reaches)
    if reach.axis is None:
        return reach
    before, after = scene.shape(name), scene.shape(scene.value)
    front = product(before[1 : reach.axis])
    for axis in range(1, len(after)):
        if front is not None and after[axis] == len(reach.low) and product(after[1:axis]) == front:
            return reach.moved(axis)
    return reach.collapsed(None)


def _pad(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    pads = scene.constant(1)
    if reach.axis is None:
        return reach
    if pads is None:
        raise windows.Unknown
    rank, named = len(scene.shape(name)), axes_of(scene.node, scene.constant)
    if named is None:
        raise windows.Unknown
    axes = [axis % rank for axis in named or range(rank)]
    if reach.axis not in axes:
        return reach
    start = int(pads.reshape(-1)[axes.index(reach.axis)])
    indices = np.arange(scene.length(scene.value, reach.axis)) - start
    mode = text(scene.node, "mode", "constant")
    last = len(reach.low) - 1
    if mode == "reflect" and last > 0:
        folded = np.abs(indices) % (2 * last)
        seen = np.where(folded > last, 2 * last - folded, folded)
    elif mode == "edge":
        seen = np.clip(indices, 0, last)
    elif mode == "wrap":
        seen = indices % (last + 1)
    else:
        seen = indices
    return reach.taken(indices, reach.axis, seen)


def _slice(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    if reach.axis is None:
        return reach
    starts, axes, steps = scene.constant(1), axes_of(scene.node, scene.constant), scene.constant(4)
    if starts is None or axes is None:
        raise windows.Unknown
    rank = len(scene.shape(name))
    named = [axis % rank for axis in axes or range(starts.size)]
    if reach.axis not in named:
        return reach
    place = named.index(reach.axis)
    step = int(steps.reshape(-1)[place]) if steps is not None else 1
    start, length = int(starts.reshape(-1)[place]), len(reach.low)
    start = max(start + length, 0) if start < 0 else min(start, length if step > 0 else length - 1)
    return reach.taken(start + step * np.arange(scene.length(scene.value, reach.axis)), reach.axis)


def _split(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    axis = int(attribute(scene.node, "axis", 0)) % len(scene.shape(name))
    if reach.axis != axis:
        return reach
    start = 0
    for output in scene.node.output:
        length = scene.length(output, axis)
        if output == scene.value:
            return reach.taken(start + np.arange(length), axis)
        start += length
    raise windows.Unknown


def _concatenated(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    rank = len(scene.shape(scene.value))
    axis = int(attribute(scene.node, "axis", 1)) % rank
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


def _gather(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    axis = int(attribute(scene.node, "axis", 0)) % len(scene.shape(name))
    indices = scene.constant(1)
    rank = len(scene.shape(scene.node.input[1]))
    if reach.axis is None:
        return reach
    if reach.axis != axis:
        return reach if reach.axis < axis else reach.moved(reach.axis - 1 + rank)
    if indices is None or rank > 1:
        return reach.collapsed(None)
    taken = reach.taken(indices.reshape(-1).astype(np.int64) % len(reach.low), axis)
    return taken if rank == 1 else taken.collapsed(None)


def _resize(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    if reach.axis is None:
        return reach
    rank = len(scene.shape(name))
    axes = [axis % rank for axis in integers(scene.node, "axes", range(rank))]
    if reach.axis not in axes:
        return reach
    after = scene.length(scene.value, reach.axis)
    scales = scene.constant(2)
    scale = after / len(reach.low)
    if scales is not None and scales.size == len(axes):
        scale = float(scales.reshape(-1)[axes.index(reach.axis)])
    elif text(scene.node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        scale = _common_scale(scene, name, axes)
    return windows.resized(
        reach,
        after,
        scale,
        mode=text(scene.node, "mode", "nearest"),
        coordinates=text(scene.node, "coordinate_transformation_mode", "half_pixel"),
        rounding=text(scene.node, "nearest_mode", "round_prefer_floor"),
        antialias=bool(attribute(scene.node, "antialias", 0)),
    )


def _common_scale(scene: _Scene, name: str, axes: list[int]) -> float:
    """The one scale of a Resize that keeps the aspect ratio."""
    sizes = scene.constant(3)
    if sizes is None:
        raise windows.Unknown
    scales = [int(size) / scene.length(name, axis) for size, axis in zip(sizes.reshape(-1), axes, strict=True)]
    return min(scales) if text(scene.node, "keep_aspect_ratio_policy") == "not_larger" else max(scales)


def _depth_to_space(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    _, reach = _only(reaches)
    block = int(attribute(scene.node, "blocksize", 1))
    if reach.axis is None:
        return reach
    taken = reach.taken(np.arange(len(reach.low) * block) // block, reach.axis)
    return taken.with_stride(reach.stride / block)


def _space_to_depth(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    _, reach = _only(reaches)
    block = int(attribute(scene.node, "blocksize", 1))
    if reach.axis is None:
        return reach
    return windows.slid(reach, windows.Window(block, block, 1, 0), len(reach.low) // block)


def _matmul(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    """A product with constant weights: the last axis is summed over."""
    name, reach = _only(reaches)
    rank = len(scene.shape(name))
    summed = int(not attribute(scene.node, "transA", 0)) if traits_of(scene.node).form == "gemm" else rank - 1
    if reach.axis is None or reach.axis == summed:
        return reach.collapsed(None)
    return reach.moved(reach.axis + len(scene.shape(scene.value)) - rank)


def _tile(scene: _Scene, reaches: dict[str, Reach]) -> Reach:
    name, reach = _only(reaches)
    if reach.axis is None:
        return reach
    axis = reach.axis + len(scene.shape(scene.value)) - len(scene.shape(name))
    return reach.taken(np.arange(scene.length(scene.value, axis)) % len(reach.low), axis)


_LONGEST = 1 << 24
"""Axes that are longer are not followed: each position of an axis is a number here."""
_RULES: Mapping[Form, Callable[[_Scene, dict[str, Reach]], Reach]] = {
    **dict.fromkeys(("along_axis", "axis_normalisation", "last_normalisation"), _along_axis),
    **dict.fromkeys(("channel_normalisation", "pointwise", "quantize"), _joined),
    **dict.fromkeys(("convolution", "pool", "transposed_convolution"), _window),
    **dict.fromkeys(("expand", "tile"), _tile),
    **dict.fromkeys(("gemm", "product"), _matmul),
    "concat": _concatenated,
    "depth_to_space": _depth_to_space,
    "gather": _gather,
    "global_pool": _global,
    "map_normalisation": _everywhere,
    "pad": _pad,
    "reduction": _reduced,
    "reshape": _reshape,
    "resize": _resize,
    "slice": _slice,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "transpose": _transpose,
}
