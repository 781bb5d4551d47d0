"""Tensors made of shapes, ranges and constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import SparseTensorProto, TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS, to_carrier
from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers
from onnxviz.core.errors import ModelError


class Source(nn.Module):
    """What makes a tensor out of numbers, on the device that the network is on."""

    anchor: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.empty(0), persistent=False)


class Constant(nn.Module):
    """ONNX Constant."""

    values: torch.Tensor

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> torch.Tensor:
        """Return the constant."""
        return self.values


class ConstantOfShape(Source):
    """ONNX ConstantOfShape."""

    def __init__(self, value: Any, kind: torch.dtype) -> None:
        super().__init__()
        self.value = value
        self.kind = kind

    def forward(self, shape: Any) -> torch.Tensor:
        """Fill."""
        sizes = bounded([int(size) for size in as_numbers(shape)], "ConstantOfShape", self.kind.itemsize)
        return torch.full(sizes, self.value, dtype=self.kind, device=self.anchor.device)


class EyeLike(nn.Module):
    """ONNX EyeLike: ones on a diagonal."""

    def __init__(self, diagonal: int, kind: torch.dtype | None) -> None:
        super().__init__()
        self.diagonal = diagonal
        self.kind = kind

    def forward(self, like: torch.Tensor) -> torch.Tensor:
        """Make a matrix of the same shape."""
        rows = torch.arange(like.shape[0], device=like.device)[:, None]
        columns = torch.arange(like.shape[1], device=like.device)
        return (columns - rows == self.diagonal).to(self.kind or like.dtype)


class Range(Source):
    """ONNX Range: start, start + delta, ... before the limit."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, start: Any, limit: Any, delta: Any) -> torch.Tensor:
        """Count."""
        first, last, step = (as_numbers(number)[0] for number in (start, limit, delta))
        if step == 0:
            raise ModelError("Range counts in steps of zero", remedy="check where the model comes from")
        (length,) = bounded([max(math.ceil((last - first) / step), 0)], "Range", 8)
        if not self.kind.is_floating_point:
            end = first + length * step
            return torch.arange(first, end, step, dtype=self.kind, device=self.anchor.device)
        place = torch.arange(length, dtype=torch.float64, device=self.anchor.device)
        numbers: torch.Tensor = first + place * step
        return numbers.to(self.kind)


class OneHot(nn.Module):
    """ONNX OneHot: `on` at the index, `off` elsewhere and where the index is out of range."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, indices: torch.Tensor, depth: Any, values: torch.Tensor) -> torch.Tensor:
        """Spread indices along a new axis."""
        size = int(as_numbers(depth)[0])
        rank = indices.dim() + 1
        axis = self.axis % rank
        bounded((*indices.shape, size), "OneHot")
        place = indices.long()
        place = torch.where(place < 0, place + size, place).unsqueeze(axis)
        classes = torch.arange(size, device=indices.device).reshape([-1 if a == axis else 1 for a in range(rank)])
        return torch.where(place == classes, values[1], values[0])


class Shape(nn.Module):
    """ONNX Shape, as a tensor."""

    def __init__(self, start: int, end: int | None) -> None:
        super().__init__()
        self.start = start
        self.end = end

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the shape."""
        return torch.tensor(tuple(values.shape)[self.start : self.end], dtype=torch.int64, device=values.device)


class Size(nn.Module):
    """ONNX Size, as a tensor."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the number of elements."""
        return torch.full((), math.prod(values.shape), dtype=torch.int64, device=values.device)


class Trilu(nn.Module):
    """ONNX Trilu: the part of matrices above or below a diagonal."""

    def __init__(self, upper: bool) -> None:
        super().__init__()
        self.upper = upper

    def forward(self, values: torch.Tensor, diagonal: Any = 0) -> torch.Tensor:
        """Keep a triangle."""
        height, width = values.shape[-2:]
        number = min(max(int(as_numbers(diagonal)[0]), -height - 1), width + 1)
        return torch.triu(values, number) if self.upper else torch.tril(values, number)


def convert_constant(operation: Operation) -> Conversion:
    """Convert `Constant`; strings are no tensors."""
    attributes = operation.attributes
    element = operation.result()
    if "sparse_value" in attributes:
        return Conversion(Constant(_dense(attributes["sparse_value"])), ())
    for name, kind, default in (
        ("value", None, 0),
        ("value_float", np.float32, TensorProto.FLOAT),
        ("value_floats", np.float32, TensorProto.FLOAT),
        ("value_int", np.int64, TensorProto.INT64),
        ("value_ints", np.int64, TensorProto.INT64),
    ):
        if name in attributes:
            array = np.asarray(attributes[name], kind)
            if array.dtype.kind in "OSU":
                break
            return Conversion(Constant(to_carrier(array, element or default or _element(array))), ())
    raise NotConvertible("strings are no tensors")


def _element(array: np.ndarray) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _dense(sparse: SparseTensorProto) -> torch.Tensor:
    """Write a sparse constant out; its indices count through the whole tensor, or have one column for each axis."""
    shape = bounded(tuple(sparse.dims), "Constant")
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(shape, values.dtype)
    if indices.ndim == 2:
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    return to_carrier(dense, sparse.values.data_type)


def convert_constant_of_shape(operation: Operation) -> Conversion:
    """Convert `ConstantOfShape`."""
    value = operation.attributes.get("value")
    filling = torch.zeros(1) if value is None else to_carrier(np.asarray(value), _kind(operation, value)).reshape(-1)
    return Conversion(ConstantOfShape(filling[0].item(), filling.dtype), (0,), numbers=(0,))


def _kind(operation: Operation, value: Any) -> int:
    return operation.result() or _element(np.asarray(value))


def convert_eye_like(operation: Operation) -> Conversion:
    """Convert `EyeLike`."""
    element = int(operation.attributes.get("dtype", 0)) or operation.element(0)
    return Conversion(EyeLike(int(operation.attributes.get("k", 0)), CARRIERS.get(element)))


def convert_range(operation: Operation) -> Conversion:
    """Convert `Range`."""
    element = operation.result() or operation.element(0)
    return Conversion(Range(CARRIERS.get(element, torch.float32)), (0, 1, 2), numbers=(0, 1, 2))


def convert_one_hot(operation: Operation) -> Conversion:
    """Convert `OneHot`."""
    return Conversion(OneHot(int(operation.attributes.get("axis", -1))), (0, 1, 2), numbers=(1,))


def convert_shape(operation: Operation) -> Conversion:
    """Convert `Shape` of what is no part of a shape computation."""
    return Conversion(Shape(int(operation.attributes.get("start", 0)), operation.attributes.get("end")))


def convert_size(_: Operation) -> Conversion:
    """Convert `Size` of what is no part of a shape computation."""
    return Conversion(Size())


def convert_trilu(operation: Operation) -> Conversion:
    """Convert `Trilu`."""
    inputs = (0, 1) if operation.has(1) else (0,)
    return Conversion(Trilu(bool(operation.attributes.get("upper", 1))), inputs, numbers=(1,))


CONVERTERS: Mapping[str, Converter] = {
    "Constant": convert_constant,
    "ConstantOfShape": convert_constant_of_shape,
    "EyeLike": convert_eye_like,
    "OneHot": convert_one_hot,
    "Range": convert_range,
    "Shape": convert_shape,
    "Size": convert_size,
    "Trilu": convert_trilu,
}
