"""Operators that move values about without computing: reshape, transpose, slice, split, join, repeat.

What is constant, or follows from another tensor's shape, arrives as Python numbers: nothing is read back from a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers
from onnxviz.convert.operators.padding import convert_center_crop_pad, convert_pad


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in as_numbers(values))


class Reshape(nn.Module):
    """ONNX Reshape: 0 copies a dimension unless `allow_zero`, -1 is what is left."""

    def __init__(self, allow_zero: bool) -> None:
        super().__init__()
        self.allow_zero = allow_zero

    def forward(self, values: torch.Tensor, shape: Any) -> torch.Tensor:
        """Reshape to the given shape."""
        wanted = as_numbers(shape)
        if not self.allow_zero:
            wanted = tuple(values.shape[axis] if size == 0 else size for axis, size in enumerate(wanted))
        return values.reshape(wanted)


class Flatten(nn.Module):
    """ONNX Flatten: always a matrix, split at `axis`."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Flatten to two axes."""
        if self.axis == 1:
            return values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
        axis = self.axis + values.dim() if self.axis < 0 else self.axis
        return values.reshape(math.prod(values.shape[:axis]), math.prod(values.shape[axis:]))


class Squeeze(nn.Module):
    """Drop axes of size 1: the given ones, or those of `axes` that have this size."""

    def __init__(self, axes: tuple[int, ...] | None) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, values: torch.Tensor, axes: Any = None) -> torch.Tensor:
        """Squeeze."""
        if axes is not None:
            return values.squeeze(_integers(axes))
        return values.squeeze() if self.axes is None else values.squeeze(self.axes)


class Unsqueeze(nn.Module):
    """Insert axes of size 1, counted in the result."""

    def forward(self, values: torch.Tensor, axes: Any) -> torch.Tensor:
        """Unsqueeze."""
        places = _integers(axes)
        rank = values.dim() + len(places)
        for axis in sorted(axis % rank for axis in places):
            values = values.unsqueeze(axis)
        return values


class Transpose(nn.Module):
    """ONNX Transpose; without an order the axes are reversed."""

    def __init__(self, order: tuple[int, ...] | None) -> None:
        super().__init__()
        self.order = order

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Transpose."""
        return values.permute(tuple(range(values.dim()))[::-1] if self.order is None else self.order)


class Concat(nn.Module):
    """ONNX Concat."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Join."""
        return torch.cat(values, self.axis)


class Split(nn.Module):
    """ONNX Split: into parts of given sizes, or `count` equal ones of which the last may be smaller."""

    def __init__(self, axis: int, count: int, single: bool, sizes: Sequence[int] | None) -> None:
        super().__init__()
        self.axis = axis
        self.count = count
        self.single = single
        self.sizes = sizes

    def forward(self, values: torch.Tensor, sizes: Any = None) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Split."""
        sizes = self.sizes if sizes is None else sizes
        if sizes is None:
            whole = values.shape[self.axis]
            each = -(-whole // self.count)
            parts = [min(each, max(whole - index * each, 0)) for index in range(self.count)]
        else:
            parts = list(_integers(sizes))
        made = torch.split(values, parts, self.axis)
        return made[0] if self.single else made


class Slice(nn.Module):
    """ONNX Slice, negative steps included."""

    def forward(
        self, values: torch.Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None
    ) -> torch.Tensor:
        """Slice."""
        begin, end = _integers(starts), _integers(ends)
        places = tuple(range(len(begin))) if axes is None else _integers(axes)
        strides = (1,) * len(begin) if steps is None else _integers(steps)
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


class Expand(nn.Module):
    """ONNX Expand: values and shape are broadcast to each other."""

    def forward(self, values: torch.Tensor, shape: Any) -> torch.Tensor:
        """Expand, without copying."""
        wanted = list(_integers(shape))
        before = list(values.shape)
        rank = max(len(wanted), len(before))
        wanted, before = [1] * (rank - len(wanted)) + wanted, [1] * (rank - len(before)) + before
        made = [size if want == 1 else want for want, size in zip(wanted, before, strict=True)]
        return values.expand(bounded(made, "Expand"))


class Tile(nn.Module):
    """ONNX Tile; opset 1 repeats along one axis."""

    def __init__(self, one_axis: bool) -> None:
        super().__init__()
        self.one_axis = one_axis

    def forward(self, values: torch.Tensor, repeats: Any, axis: Any = None) -> torch.Tensor:
        """Repeat."""
        counts = _integers(repeats)
        if self.one_axis:
            place = _integers(axis)[0] % max(values.dim(), 1)
            counts = tuple(counts[0] if index == place else 1 for index in range(values.dim()))
        bounded([size * count for size, count in zip(values.shape, counts, strict=True)], "Tile")
        return values.repeat(counts)


class DepthToSpace(nn.Module):
    """ONNX DepthToSpace: channels in the order of `mode`, "DCR" (block first) or "CRD" (block last)."""

    def __init__(self, block: int, mode: str) -> None:
        super().__init__()
        self.block = block
        self.mode = mode

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Move channels into space."""
        if self.mode == "CRD":
            return functional.pixel_shuffle(values, self.block)
        batch, channels, height, width = values.shape
        block = self.block
        parts = values.reshape(batch, block, block, channels // block**2, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // block**2, height * block, width * block)


class SpaceToDepth(nn.Module):
    """ONNX SpaceToDepth: the block's place is the slower part of a channel's index."""

    def __init__(self, block: int, mode: str) -> None:
        super().__init__()
        self.block = block
        self.mode = mode

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Move space into channels."""
        batch, channels, height, width = values.shape
        block = self.block
        if self.mode == "CRD":
            return functional.pixel_unshuffle(values, block)
        parts = values.reshape(batch, channels, height // block, block, width // block, block)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)


class ReverseSequence(nn.Module):
    """ONNX ReverseSequence: of each sample as many steps as it has are reversed, what follows stays."""

    def __init__(self, batch_axis: int, time_axis: int) -> None:
        super().__init__()
        self.batch_axis = batch_axis
        self.time_axis = time_axis

    def forward(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Reverse."""
        moved = values.movedim((self.batch_axis, self.time_axis), (0, 1))
        time = torch.arange(moved.shape[1], device=values.device)
        each = lengths.long()[:, None]
        source = torch.where(time < each, each - 1 - time, time)
        sample = torch.arange(moved.shape[0], device=values.device)[:, None]
        return moved[sample, source].movedim((0, 1), (self.batch_axis, self.time_axis))


class Col2Im(nn.Module):
    """ONNX Col2Im: overlapping blocks are added up, the reverse of taking them out."""

    def __init__(self, strides: Sequence[int] | None, dilations: Sequence[int] | None, pads: Sequence[int] | None):
        super().__init__()
        self.strides = strides
        self.dilations = dilations
        self.pads = pads

    def forward(self, columns: torch.Tensor, image_shape: Any, block_shape: Any) -> torch.Tensor:
        """Fold columns [N, channels * block, blocks] into images."""
        image, block = _integers(image_shape), _integers(block_shape)
        rank = len(image)
        strides, dilations = self.strides or (1,) * rank, self.dilations or (1,) * rank
        pads = self.pads or (0,) * (2 * rank)
        if min((*image, *block), default=0) < 1:
            raise ValueError(f"Col2Im cannot fold blocks of {block} into an image of {image}")
        canvas = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(image)]
        bounded((columns.shape[0], columns.shape[1] // math.prod(block), *canvas), "Col2Im")
        if rank == 2:
            whole = functional.fold(columns, tuple(canvas), block, tuple(dilations), 0, tuple(strides))
        else:
            whole = self._fold(columns, canvas, block, strides, dilations)
        inside = [slice(pads[axis], pads[axis] + size) for axis, size in enumerate(image)]
        return whole[(slice(None), slice(None), *inside)]

    def _fold(
        self,
        columns: torch.Tensor,
        canvas: Sequence[int],
        block: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
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


def convert_reshape(operation: Operation) -> Conversion:
    """Convert `Reshape`; the shape may be constant, follow from other shapes, or be computed."""
    allow_zero = bool(operation.attributes.get("allowzero", 0))
    return Conversion(Reshape(allow_zero), (0, 1), numbers=(1,))


def _listed(operation: Operation, name: str) -> tuple[int, ...]:
    return tuple(int(value) for value in operation.attributes[name])


def convert_flatten(operation: Operation) -> Conversion:
    """Convert `Flatten`."""
    return Conversion(Flatten(int(operation.attributes.get("axis", 1))))


def convert_squeeze(operation: Operation) -> Conversion:
    """Convert `Squeeze`; without axes it drops those of size 1, but never a batch that is free."""
    if "axes" in operation.attributes:
        return Conversion(Squeeze(_listed(operation, "axes")))
    if operation.has(1):
        return Conversion(Squeeze(None), (0, 1), numbers=(1,))
    shape = operation.shapes[0]
    if shape is None:
        return Conversion(Squeeze(None))
    return Conversion(Squeeze(tuple(a for a, size in enumerate(shape) if size == 1 or (size is None and a > 0))))


def convert_unsqueeze(_: Operation) -> Conversion:
    """Convert `Unsqueeze`."""
    return Conversion(Unsqueeze(), (0, 1), numbers=(1,))


def convert_transpose(operation: Operation) -> Conversion:
    """Convert `Transpose`."""
    return Conversion(Transpose(_listed(operation, "perm") if "perm" in operation.attributes else None))


def convert_concat(operation: Operation) -> Conversion:
    """Convert `Concat`."""
    return Conversion(Concat(int(operation.attributes.get("axis", 1))), range(len(operation.given)))


def convert_split(operation: Operation) -> Conversion:
    """Convert `Split`."""
    count = int(operation.attributes.get("num_outputs", len(operation.outputs)))
    # Files that still have the attribute of opset 2 to 12 are read as they are meant.
    sizes = _listed(operation, "split") if "split" in operation.attributes else None
    split = Split(int(operation.attributes.get("axis", 0)), count, operation.single, sizes)
    return Conversion(split, (0, 1), numbers=(1,)) if operation.has(1) else Conversion(split)


def convert_slice(operation: Operation) -> Conversion:
    """Convert `Slice`."""
    return Conversion(Slice(), range(len(operation.given)), numbers=(1, 2, 3, 4))


def convert_expand(_: Operation) -> Conversion:
    """Convert `Expand`."""
    return Conversion(Expand(), (0, 1), numbers=(1,))


def convert_tile(operation: Operation) -> Conversion:
    """Convert `Tile`."""
    if operation.version == 1:
        return Conversion(Tile(True), (0, 1, 2), numbers=(1, 2))
    return Conversion(Tile(False), (0, 1), numbers=(1,))


def _block(operation: Operation) -> int:
    block = int(operation.attributes["blocksize"])
    if block < 1:
        raise NotConvertible(f"a block of {block} samples")
    return block


def _mode(operation: Operation) -> str:
    mode = str(operation.attributes.get("mode", "DCR"))
    if mode not in ("DCR", "CRD"):
        raise NotConvertible(f"order of channels {mode!r}")
    return mode


def convert_depth_to_space(operation: Operation) -> Conversion:
    """Convert `DepthToSpace`."""
    return Conversion(DepthToSpace(_block(operation), _mode(operation)))


def convert_space_to_depth(operation: Operation) -> Conversion:
    """Convert `SpaceToDepth`."""
    return Conversion(SpaceToDepth(_block(operation), _mode(operation)))


def convert_reverse_sequence(operation: Operation) -> Conversion:
    """Convert `ReverseSequence`."""
    attributes = operation.attributes
    module = ReverseSequence(int(attributes.get("batch_axis", 1)), int(attributes.get("time_axis", 0)))
    return Conversion(module, (0, 1))


def convert_col2im(operation: Operation) -> Conversion:
    """Convert `Col2Im`."""
    strides, dilations, pads = (
        _listed(operation, name) if name in operation.attributes else None for name in ("strides", "dilations", "pads")
    )
    return Conversion(Col2Im(strides, dilations, pads), (0, 1, 2), numbers=(1, 2))


CONVERTERS: Mapping[str, Converter] = {
    "CenterCropPad": convert_center_crop_pad,
    "Col2Im": convert_col2im,
    "Concat": convert_concat,
    "DepthToSpace": convert_depth_to_space,
    "Expand": convert_expand,
    "Flatten": convert_flatten,
    "Pad": convert_pad,
    "Reshape": convert_reshape,
    "ReverseSequence": convert_reverse_sequence,
    "Slice": convert_slice,
    "SpaceToDepth": convert_space_to_depth,
    "Split": convert_split,
    "Squeeze": convert_squeeze,
    "Tile": convert_tile,
    "Transpose": convert_transpose,
    "Unsqueeze": convert_unsqueeze,
}
