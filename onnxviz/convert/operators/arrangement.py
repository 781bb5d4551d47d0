"""Operators that move values about without computing: reshape, transpose, slice, split, join, repeat.

What is constant, or follows from another tensor's shape, arrives as Python numbers: nothing is read back from a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from onnxviz.convert.operators.operation import (
    ALL,
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    as_integers,
    as_numbers,
    bounded,
    by_function,
)
from onnxviz.convert.operators.padding import center_crop_pad, convert_pad


def reshape(values: torch.Tensor, shape: Any, allowzero: bool) -> torch.Tensor:
    """ONNX Reshape: 0 copies a dimension unless `allowzero`, -1 is what is left."""
    wanted = as_numbers(shape)
    if not allowzero:
        wanted = tuple(values.shape[axis] if size == 0 else size for axis, size in enumerate(wanted))
    return values.reshape(wanted)


def flatten(values: torch.Tensor, axis: int) -> torch.Tensor:
    """ONNX Flatten: always a matrix, split at `axis`."""
    if axis == 1:
        return values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
    axis = axis + values.dim() if axis < 0 else axis
    return values.reshape(math.prod(values.shape[:axis]), math.prod(values.shape[axis:]))


def squeeze(values: torch.Tensor, axes: Any = None) -> torch.Tensor:
    """Drop those of some axes that have size 1; all of this size if no axes are named."""
    return values.squeeze() if axes is None else values.squeeze(as_integers(axes))


def unsqueeze(values: torch.Tensor, axes: Any) -> torch.Tensor:
    """Insert axes of size 1, counted in the result."""
    places = as_integers(axes)
    rank = values.dim() + len(places)
    for axis in sorted(axis % rank for axis in places):
        values = values.unsqueeze(axis)
    return values


def transpose(values: torch.Tensor, perm: tuple[int, ...] | None) -> torch.Tensor:
    """ONNX Transpose; without an order the axes are reversed."""
    return values.permute(tuple(range(values.dim()))[::-1] if perm is None else perm)


def concat(*values: torch.Tensor, axis: int) -> torch.Tensor:
    """ONNX Concat."""
    return torch.cat(values, axis)


def split(values: torch.Tensor, sizes: Any = None, *, axis: int, count: int) -> tuple[torch.Tensor, ...]:
    """ONNX Split: into parts of given sizes, or `count` equal ones of which the last may be smaller."""
    if sizes is None:
        whole = values.shape[axis]
        each = -(-whole // count)
        sizes = [min(each, max(whole - index * each, 0)) for index in range(count)]
    return torch.split(values, list(as_integers(sizes)), axis)


def slices(values: torch.Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> torch.Tensor:
    """ONNX Slice, negative steps included."""
    begin, end = as_integers(starts), as_integers(ends)
    places = tuple(range(len(begin))) if axes is None else as_integers(axes)
    strides = (1,) * len(begin) if steps is None else as_integers(steps)
    index = [slice(None)] * values.dim()
    flipped = []
    for axis, first, last, step in zip(places, begin, end, strides, strict=True):
        place = axis % max(values.dim(), 1)
        if step > 0:
            index[place] = slice(first, last, step)
            continue
        taken = range(values.shape[place])[first:last:step]
        index[place] = slice(taken[-1], taken[0] + 1, -step) if taken else slice(0, 0)
        flipped.append(place)
    result = values[tuple(index)]
    return result.flip(flipped) if flipped else result


def expand(values: torch.Tensor, shape: Any) -> torch.Tensor:
    """ONNX Expand: values and shape are broadcast to each other, without copying."""
    wanted = list(as_integers(shape))
    before = list(values.shape)
    rank = max(len(wanted), len(before))
    wanted, before = [1] * (rank - len(wanted)) + wanted, [1] * (rank - len(before)) + before
    made = [size if want == 1 else want for want, size in zip(wanted, before, strict=True)]
    return values.expand(bounded(made, "Expand"))


def tile(values: torch.Tensor, repeats: Any) -> torch.Tensor:
    """ONNX Tile."""
    counts = as_integers(repeats)
    bounded([size * count for size, count in zip(values.shape, counts, strict=True)], "Tile")
    return values.repeat(counts)


def tile_one_axis(values: torch.Tensor, repeats: Any, axis: Any) -> torch.Tensor:
    """ONNX Tile of opset 1."""
    counts = [1] * values.dim()
    counts[as_integers(axis)[0]] = as_integers(repeats)[0]
    return tile(values, counts)


def depth_to_space(values: torch.Tensor, blocksize: int, mode: str) -> torch.Tensor:
    """ONNX DepthToSpace: channels in the order of `mode`, "DCR" (block first) or "CRD" (block last)."""
    if mode == "CRD":
        return functional.pixel_shuffle(values, blocksize)
    batch, channels, height, width = values.shape
    channels //= blocksize**2
    parts = values.reshape(batch, blocksize, blocksize, channels, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels, height * blocksize, width * blocksize)


def space_to_depth(values: torch.Tensor, blocksize: int, mode: str) -> torch.Tensor:
    """ONNX SpaceToDepth: the block's place is the slower part of a channel's index."""
    if mode == "CRD":
        return functional.pixel_unshuffle(values, blocksize)
    batch, channels, height, width = values.shape
    height, width = height // blocksize, width // blocksize
    parts = values.reshape(batch, channels, height, blocksize, width, blocksize)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * blocksize**2, height, width)


def reverse_sequence(values: torch.Tensor, lengths: torch.Tensor, batch_axis: int, time_axis: int) -> torch.Tensor:
    """ONNX ReverseSequence: of each sample as many steps as it has are reversed, what follows stays."""
    moved = values.movedim((batch_axis, time_axis), (0, 1))
    time = torch.arange(moved.shape[1], device=values.device)
    each = lengths.long()[:, None]
    source = torch.where(time < each, each - 1 - time, time)
    sample = torch.arange(moved.shape[0], device=values.device)[:, None]
    return moved[sample, source].movedim((0, 1), (batch_axis, time_axis))


def columns_to_image(
    columns: torch.Tensor,
    image_shape: Any,
    block_shape: Any,
    *,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
) -> torch.Tensor:
    """ONNX Col2Im: add up overlapping blocks [N, channels * block, blocks], the reverse of taking them out."""
    image, block = as_integers(image_shape), as_integers(block_shape)
    rank = len(image)
    strides, dilations, pads = strides or (1,) * rank, dilations or (1,) * rank, pads or (0,) * (2 * rank)
    if min((*image, *block), default=0) < 1:
        raise ValueError(f"Col2Im cannot fold blocks of {block} into an image of {image}")
    canvas = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(image)]
    bounded((columns.shape[0], columns.shape[1] // math.prod(block), *canvas), "Col2Im")
    if rank == 2:
        whole = functional.fold(columns, tuple(canvas), block, tuple(dilations), 0, tuple(strides))
    else:
        whole = _fold(columns, canvas, block, strides, dilations)
    inside = [slice(pads[axis], pads[axis] + size) for axis, size in enumerate(image)]
    return whole[(slice(None), slice(None), *inside)]


def _fold(
    columns: torch.Tensor, canvas: Sequence[int], block: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> torch.Tensor:
    """Add columns up on a canvas of any number of axes."""
    rank, device = len(canvas), columns.device
    places = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device=device)
    for axis in range(rank):
        blocks = (canvas[axis] - dilations[axis] * (block[axis] - 1) - 1) // strides[axis] + 1
        inner = torch.arange(block[axis], device=device)[:, None] * dilations[axis]
        place = inner + torch.arange(blocks, device=device) * strides[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = block[axis], blocks
        places = places * canvas[axis] + place.reshape(shape)
    batch, channels = columns.shape[0], columns.shape[1] // math.prod(block)
    sums = columns.new_zeros(batch, channels, math.prod(canvas))
    flat = columns.reshape(batch, channels, -1)
    return sums.index_add(2, places.reshape(-1), flat).reshape(batch, channels, *canvas)


def convert_squeeze(operation: Operation) -> Conversion:
    """Convert `Squeeze`; without axes it drops those of size 1, but never a batch that is free."""
    if operation.has(1):
        return Conversion(Function(squeeze), (0, 1), numbers=(1,))
    axes, shape = operation.setting("axes", None), operation.shapes[0]
    if axes is None and shape is not None:
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1 or (size is None and axis > 0))
    return Conversion(Function(squeeze, axes=axes))


def convert_split(operation: Operation) -> Conversion:
    settings = {"axis": operation.setting("axis", 0), "count": operation.setting("num_outputs", len(operation.outputs))}
    if operation.has(1):
        return Conversion(Function(split, **settings), (0, 1), numbers=(1,), several=True)
    # Files that still have the attribute of opset 2 to 12 are read as they are meant.
    return Conversion(Function(split, sizes=operation.setting("split", None), **settings), several=True)


def convert_tile(operation: Operation) -> Conversion:
    if operation.version == 1:
        return Conversion(Function(tile_one_axis), (0, 1, 2), numbers=(1, 2))
    return Conversion(Function(tile), (0, 1), numbers=(1,))


def convert_blocks(operation: Operation) -> Conversion:
    if int(operation.attributes["blocksize"]) < 1:
        raise NotConvertible(f"a block of {operation.attributes['blocksize']} samples")
    function = depth_to_space if operation.operator == "DepthToSpace" else space_to_depth
    return by_function(function, blocksize=1, mode=("DCR", "CRD"))(operation)


CONVERTERS: Mapping[str, Converter] = {
    "CenterCropPad": by_function(center_crop_pad, 2, numbers=(1,), axes=None),
    "Col2Im": by_function(columns_to_image, 3, numbers=(1, 2), strides=None, dilations=None, pads=None),
    "Concat": by_function(concat, ALL, axis=1),
    "DepthToSpace": convert_blocks,
    "Expand": by_function(expand, 2, numbers=(1,)),
    "Flatten": by_function(flatten, axis=1),
    "Pad": convert_pad,
    "Reshape": by_function(reshape, 2, numbers=(1,), allowzero=False),
    "ReverseSequence": by_function(reverse_sequence, 2, batch_axis=1, time_axis=0),
    "Slice": by_function(slices, 5, numbers=(1, 2, 3, 4)),
    "SpaceToDepth": convert_blocks,
    "Split": convert_split,
    "Squeeze": convert_squeeze,
    "Tile": convert_tile,
    "Transpose": by_function(transpose, perm=None),
    "Unsqueeze": by_function(unsqueeze, 2, numbers=(1,)),
}
