"""Layers that move numbers without changing them, and Interp.

Source: Caffe's concat_layer.cpp, slice_layer.cpp, flatten_layer.cpp, reshape_layer.cpp, crop_layer.cpp,
tile_layer.cpp; SSD's permute_layer.cpp; ShuffleNet's shuffle_channel_layer.cpp; DeepLab's interp_layer.cpp;
Darknet's reorg_layer.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from onnxviz.importing.caffe.writer import Shape, Step, Value


def concat(step: Step) -> None:
    """Convert Concat."""
    parameters = step.parameters("concat_param")
    step.expect_bottoms(1, 10_000)
    first = step.bottoms[0]
    axis = step.axis(_old_axis(parameters, "concat_dim"))
    for other in step.bottoms[1:]:
        if other.rank != first.rank or any(first.shape[n] != other.shape[n] for n in range(first.rank) if n != axis):
            raise step.refuse(f"joins inputs of the shapes {first.shape} and {other.shape} along axis {axis}")
    if axis == 0 or len({value.free for value in step.bottoms}) > 1:
        step.fix_batch("joins images with each other or with constants")
    shape = list(first.shape)
    shape[axis] = sum(value.shape[axis] for value in step.bottoms)
    step.top("Concat", step.bottoms, shape, axis=axis)


def slice_(step: Step) -> None:
    """Convert Slice to Split."""
    parameters = step.parameters("slice_param")
    source = step.bottom
    axis = step.axis(_old_axis(parameters, "slice_dim"), "takes images apart")
    count, size = len(step.layer.tops), source.shape[axis]
    points = [int(point) for point in parameters.slice_point]
    if not points and size % max(1, count) == 0:
        points = [size // count * index for index in range(1, count)]
    borders = [0, *points, size]
    sizes = [end - start for start, end in itertools.pairwise(borders)]
    if len(sizes) != count or min(sizes) < 1:
        raise step.refuse(f"cuts {size} into {count} parts at {points[:8]}")
    shapes = [(*source.shape[:axis], part, *source.shape[axis + 1 :]) for part in sizes]
    step.several_tops("Split", [source, step.indices("sizes", sizes)], shapes, axis=axis)


def split(step: Step) -> None:
    """Convert Split, which hands on copies."""
    for index in range(len(step.layer.tops)):
        step.top("Identity", [step.bottom], step.bottom.shape, index=index)


def flatten(step: Step) -> None:
    """Convert Flatten, from one axis to another."""
    parameters = step.parameters("flatten_param")
    source = step.bottom
    first, last = step.axis(parameters.axis), step.axis(parameters.end_axis)
    if last < first:
        raise step.refuse(f"flattens from axis {first} to axis {last}")
    if first == 0 and math.prod(source.shape[1 : last + 1]) > 1:
        step.fix_batch("joins images into one axis")
    shape = (*source.shape[:first], math.prod(source.shape[first : last + 1]), *source.shape[last + 1 :])
    if first == 1 and last == source.rank - 1:
        step.top("Flatten", [source], shape, axis=1)
    else:
        step.reshape_top(source, shape)


def reshape(step: Step) -> None:
    """Convert Reshape: 0 copies a size, -1 takes what is left, and only the axes named are replaced."""
    parameters = step.parameters("reshape_param")
    source = step.bottom
    start = parameters.axis if parameters.axis >= 0 else source.rank + parameters.axis + 1
    count = parameters.num_axes
    end = source.rank if count == -1 else start + count
    if not 0 <= start <= source.rank or count < -1 or not start <= end <= source.rank:
        raise step.refuse(f"replaces {count} axes from axis {parameters.axis} of an input with {source.rank}")
    shape = _resolved(step, source, start, end, [int(size) for size in parameters.shape.dim])
    # The first axis is still the images' if what follows holds as many numbers as before: each image keeps its own.
    if not shape or shape[0] != source.shape[0] or math.prod(shape[1:]) != math.prod(source.shape[1:]):
        step.fix_batch("reshapes images into one another")
    step.reshape_top(source, shape)


def _resolved(step: Step, source: Value, start: int, end: int, sizes: list[int]) -> Shape:
    if len(sizes) > 32 or sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise step.refuse(f"has the shape {sizes[:8]}", "use sizes, 0 to copy one, and at most one -1")
    if any(size == 0 and start + index >= source.rank for index, size in enumerate(sizes)):
        raise step.refuse("copies a size of an axis that its input does not have")
    middle = [source.shape[start + index] if size == 0 else size for index, size in enumerate(sizes)]
    kept = math.prod(source.shape[:start]) * math.prod(source.shape[end:])
    known = kept * math.prod(size for size in middle if size != -1)
    total = math.prod(source.shape)
    if -1 in middle:
        if total % known:
            raise step.refuse(f"cannot give {total:,} numbers the shape {sizes}")
        middle[middle.index(-1)] = total // known
    elif known != total:
        raise step.refuse(f"cannot give {total:,} numbers the shape {sizes}")
    return (*source.shape[:start], *middle, *source.shape[end:])


def permute(step: Step) -> None:
    """Convert Permute to Transpose; axes that are not named follow in their order."""
    source = step.bottom
    order = [int(axis) for axis in step.parameters("permute_param").order]
    if len(set(order)) != len(order) or any(axis >= source.rank for axis in order):
        raise step.refuse(f"orders axes as {order[:8]} of an input with {source.rank}")
    order += [axis for axis in range(source.rank) if axis not in order]
    if order[0] != 0:
        step.fix_batch("moves the images to another axis")
    step.top("Transpose", [source], [source.shape[axis] for axis in order], perm=order)


def crop(step: Step) -> None:
    """Convert Crop: the first input cut to the second's size from an axis on."""
    parameters = step.parameters("crop_param")
    step.expect_bottoms(2)
    source, reference = step.bottoms
    axis = step.axis(parameters.axis, "cuts the batch")
    offsets = [int(offset) for offset in parameters.offset] or [0]
    axes = list(range(axis, source.rank))
    if reference.rank != source.rank or len(offsets) not in (1, len(axes)):
        raise step.refuse(f"has {len(offsets)} offsets for {len(axes)} axes, or inputs with different numbers of axes")
    starts = offsets * len(axes) if len(offsets) == 1 else offsets
    ends = [start + reference.shape[each] for start, each in zip(starts, axes, strict=True)]
    if any(end > source.shape[each] for end, each in zip(ends, axes, strict=True)):
        raise step.refuse(f"cuts {reference.shape} out of {source.shape} at {offsets}, which reaches beyond it")
    shape = (*source.shape[:axis], *reference.shape[axis:])
    inputs = [step.indices("starts", starts), step.indices("ends", ends), step.indices("axes", axes)]
    step.top("Slice", [source, *inputs], shape, free=source.free)


def tile(step: Step) -> None:
    """Convert Tile along one axis."""
    parameters = step.parameters("tile_param")
    source = step.bottom
    axis, tiles = step.axis(parameters.axis, "repeats the batch"), parameters.tiles
    if tiles < 1:
        raise step.refuse(f"repeats its input {tiles} times")
    repeats = [tiles if each == axis else 1 for each in range(source.rank)]
    shape = [size * repeat for size, repeat in zip(source.shape, repeats, strict=True)]
    step.top("Tile", [source, step.indices("repeats", repeats)], shape)


def shuffle_channel(step: Step) -> None:
    """Convert ShuffleNet's ShuffleChannel: channels counted group by group become counted across groups."""
    source = step.bottom
    group = int(step.parameters("shuffle_channel_param").group)
    if source.rank != 4 or group < 1 or source.shape[1] % group:
        raise step.refuse(f"shuffles {group} groups of an input of the shape {source.shape}")
    images, channels, height, width = source.shape
    apart = step.reshaped(source, (images, group, channels // group, height, width), "groups")
    turned = step.inner(
        "Transpose", [apart], (images, channels // group, group, height, width), "shuffled", perm=[0, 2, 1, 3, 4]
    )
    step.reshape_top(turned, source.shape)


def reorg(step: Step) -> None:
    """Convert the YOLO forks' Reorg with Darknet's order: its input is read as an image of fewer, larger channels."""
    parameters = step.parameters("reorg_param")
    source = step.bottom
    stride = int(parameters.stride)
    if parameters.reverse:
        raise step.refuse("has reverse: true", "only the direction that YOLOv2 uses is converted")
    if source.rank != 4 or stride < 1 or source.shape[1] % stride**2 or any(n % stride for n in source.shape[2:]):
        raise step.refuse(f"takes an input of the shape {source.shape} apart by {stride}")
    images, channels, height, width = source.shape
    fewer = channels // stride**2
    apart = step.reshaped(source, (images, fewer, height, stride, width, stride), "places")
    turned = step.inner(
        "Transpose", [apart], (images, stride, stride, fewer, height, width), "reordered", perm=[0, 3, 5, 1, 2, 4]
    )
    step.reshape_top(turned, (images, channels * stride**2, height // stride, width // stride))


def interp(step: Step) -> None:
    """Convert the forks' Interp: bilinear with corners on corners."""
    parameters = step.parameters("interp_param")
    step.expect_bottoms(1, 2)
    source = step.bottoms[0]
    if source.rank != 4:
        raise step.refuse("needs an image")
    begin, end = -parameters.pad_beg, -parameters.pad_end
    if begin < 0 or end < 0 or min(source.shape[2:]) <= begin + end:
        raise step.refuse(f"is padded by {parameters.pad_beg} and {parameters.pad_end}, of which only cuts make sense")
    if begin or end:
        ends = [source.shape[2] - end, source.shape[3] - end]
        inputs = [step.indices("starts", [begin] * 2), step.indices("ends", ends), step.indices("axes", [2, 3])]
        cut = (*source.shape[:2], *(size - begin for size in ends))
        source = step.inner("Slice", [source, *inputs], cut, "cut")
    size = _interpolated(step, parameters, source.shape[2:])
    # Sizes would fix the batch; scales that give them do not, and corners on corners do not depend on the scale.
    scales = [1.0, 1.0, *(_scale(before, after) for before, after in zip(source.shape[2:], size, strict=True))]
    corners: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    known = step.constant("scales", scales)
    step.top("Resize", [source, "", known], (*source.shape[:2], *size), free=source.free, **corners)


def _interpolated(step: Step, parameters: Any, before: Shape) -> Shape:
    if len(step.bottoms) == 2:
        if step.bottoms[1].rank != 4:
            raise step.refuse("takes its size from an input that is no image")
        return step.bottoms[1].shape[2:]
    if parameters.height or parameters.width:
        return parameters.height, parameters.width
    shrink, zoom = parameters.shrink_factor, parameters.zoom_factor
    if shrink < 1 or zoom < 1:
        raise step.refuse(f"shrinks by {shrink} and zooms by {zoom}")
    shrunk = [(size - 1) // shrink + 1 for size in before]
    return tuple(size + (size - 1) * (zoom - 1) for size in shrunk)


def _scale(before: int, after: int) -> np.float32:
    """Return a float32 whose product with the size before, rounded down as ONNX does, is the size after.

    It is the least such number, whether the product is rounded to float32 first or not: readers differ.
    """
    scale = np.float32(after / before)
    while min(float(np.float32(before) * scale), before * float(scale)) < after:
        scale = np.nextafter(scale, np.float32(np.inf))
    return np.float32(scale)


def _old_axis(parameters: Any, old: str) -> int:
    """Return the axis, which old files give under another name."""
    return int(getattr(parameters, old)) if parameters.HasField(old) else int(parameters.axis)
