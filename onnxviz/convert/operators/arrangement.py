"""Operators that move values about: reshape, slice, pad, squeeze.

Their stock converters read the new shape from a tensor at each call, which stops a GPU, and index with lists, which
PyTorch no longer accepts. Here everything that is constant is a Python number; a shape that follows from another
tensor's shape arrives as a tuple of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers
from onnxviz.convert.operators.windows import as_torch_padding


class Reshape(nn.Module):
    """ONNX Reshape: 0 copies a dimension unless `allow_zero`, -1 is what is left."""

    def __init__(self, shape: tuple[int, ...] | None, allow_zero: bool) -> None:
        super().__init__()
        self.shape = shape
        self.allow_zero = allow_zero

    def forward(self, values: torch.Tensor, shape: Sequence[int] = ()) -> torch.Tensor:
        """Reshape to the constant shape, or to the one given."""
        wanted: Sequence[int] = self.shape if self.shape is not None else as_numbers(shape)
        if not self.allow_zero:
            wanted = [values.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        return values.reshape(tuple(wanted))


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
    """Drop axes of size 1."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Squeeze."""
        return values.squeeze(self.axes)


class Unsqueeze(nn.Module):
    """Insert axes of size 1, counted in the result."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Unsqueeze."""
        rank = values.dim() + len(self.axes)
        for axis in sorted(axis % rank for axis in self.axes):
            values = values.unsqueeze(axis)
        return values


class Slice(nn.Module):
    """ONNX Slice, negative steps included."""

    def __init__(self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> None:
        super().__init__()
        self.parts = tuple(zip(axes, starts, ends, steps, strict=True))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Slice."""
        index = [slice(None)] * values.dim()
        flipped = []
        for axis, start, end, step in self.parts:
            place = axis % values.dim()
            taken = range(values.shape[place])[start:end:step]
            if step > 0:
                index[place] = slice(taken.start, taken.stop, step)
            else:
                index[place] = slice(taken[-1], taken[0] + 1, -step) if taken else slice(0, 0)
                flipped.append(place)
        result = values[tuple(index)]
        return result.flip(flipped) if flipped else result


class Pad(nn.Module):
    """ONNX Pad by constant amounts; negative amounts cut."""

    def __init__(self, amounts: list[int], mode: str, value: float) -> None:
        super().__init__()
        self.amounts = amounts
        self.mode = mode
        self.value = value

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Pad."""
        if self.mode == "constant":
            return functional.pad(values, self.amounts, value=self.value)
        return functional.pad(values, self.amounts, mode=self.mode)


def convert_reshape(operation: Operation) -> Conversion:
    """Convert `Reshape`; the shape may be constant or follow from other shapes."""
    allow_zero = bool(operation.attributes.get("allowzero", 0))
    shape = operation.constants[1]
    if shape is None:
        return Conversion(Reshape(None, allow_zero), (0, 1), numbers=(1,))
    return Conversion(Reshape(tuple(int(size) for size in shape), allow_zero))


def convert_flatten(operation: Operation) -> Conversion:
    """Convert `Flatten`."""
    return Conversion(Flatten(int(operation.attributes.get("axis", 1))))


def convert_squeeze(operation: Operation) -> Conversion:
    """Convert `Squeeze`; without axes it drops those that are 1 for every batch, never the batch itself."""
    axes = operation.integers("axes", 1)
    if axes is None:
        shape = operation.shapes[0]
        if shape is None or None in shape[1:]:
            raise NotConvertible("Squeeze without axes of a tensor of unknown shape")
        axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and axis > 0)
    return Conversion(Squeeze(axes))


def convert_unsqueeze(operation: Operation) -> Conversion:
    """Convert `Unsqueeze`."""
    return Conversion(Unsqueeze(operation.integers("axes", 1) or ()))


def convert_slice(operation: Operation) -> Conversion:
    """Convert `Slice` with constant limits."""
    starts = operation.integers("starts", 1) or ()
    ends = operation.integers("ends", 2) or ()
    axes = operation.integers("axes", 3)
    steps = operation.integers("steps", 4)
    return Conversion(Slice(starts, ends, range(len(starts)) if axes is None else axes, steps or (1,) * len(starts)))


def convert_pad(operation: Operation) -> Conversion:
    """Convert `Pad` by constant amounts."""
    shape = operation.shapes[0]
    amounts = operation.integers("pads", 1) or ()
    axes = operation.integers("axes", 3)
    if axes is None:
        rank, axes = len(amounts) // 2, tuple(range(len(amounts) // 2))
    elif shape is None:
        raise NotConvertible("Pad along chosen axes of a tensor of unknown rank")
    else:
        rank = len(shape)
    pairs = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pairs[axis % rank] = (amounts[place], amounts[place + len(axes)])
    while len(pairs) > 1 and pairs[0] == (0, 0):
        pairs = pairs[1:]  # PyTorch reflects and repeats the last axes only, and wants no more than it pads
    mode = operation.attributes.get("mode", "constant")
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in names:
        raise NotConvertible(f"padding mode {mode!r}")
    if mode != "constant" and shape is not None:
        wanted = max(len(shape) - 2, 1)
        if len(pairs) > wanted:
            raise NotConvertible(f"padding mode {mode!r} along batch or channels")
        pairs = [(0, 0)] * (wanted - len(pairs)) + pairs
    value = operation.attributes.get("value", operation.constant(2))
    number = float(np.asarray(value).reshape(-1)[0]) if value is not None and np.size(value) else 0.0
    return Conversion(Pad(as_torch_padding(pairs), names[mode], number))


CONVERTERS: Mapping[str, Converter] = {
    "Flatten": convert_flatten,
    "Pad": convert_pad,
    "Reshape": convert_reshape,
    "Slice": convert_slice,
    "Squeeze": convert_squeeze,
    "Unsqueeze": convert_unsqueeze,
}
