"""Tensors made of shapes, ranges and constants.

GivenTensorFill and ConstantFill are fills that the standard had on trial until opset 9 and files of Caffe2 still hold;
the other operators of that time are replaced by what they are made of (`graph.passes.replace_experimental`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import SparseTensorProto, TensorProto

from onnxviz.convert.element_types import CARRIERS, to_carrier
from onnxviz.convert.operators.operation import (
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
from onnxviz.core.errors import ModelError


def constant(values: torch.Tensor) -> Conversion:
    """Return the conversion of a node whose result is the same for every input."""
    return Conversion(Function(_same, values=values), ())


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


def anchor() -> torch.Tensor:
    """Return a tensor that tells a `Function` on what device the network is."""
    return torch.empty(0)


def fill(shape: Any, *, value: Any, kind: torch.dtype, anchor: torch.Tensor) -> torch.Tensor:
    """ONNX ConstantOfShape."""
    sizes = bounded(as_integers(shape), "ConstantOfShape", kind.itemsize)
    return torch.full(sizes, value, dtype=kind, device=anchor.device)


def eye_like(like: torch.Tensor, k: int, kind: torch.dtype | None) -> torch.Tensor:
    """ONNX EyeLike: ones on a diagonal."""
    rows = torch.arange(like.shape[0], device=like.device)[:, None]
    columns = torch.arange(like.shape[1], device=like.device)
    return (columns - rows == k).to(kind or like.dtype)


def count(start: Any, limit: Any, delta: Any, *, kind: torch.dtype, anchor: torch.Tensor) -> torch.Tensor:
    """ONNX Range: start, start + delta, ... before the limit."""
    first, last, step = (as_numbers(number)[0] for number in (start, limit, delta))
    if step == 0:
        raise ModelError("Range counts in steps of zero", remedy="check where the model comes from")
    (length,) = bounded([max(math.ceil((last - first) / step), 0)], "Range", 8)
    if not kind.is_floating_point:
        return torch.arange(first, first + length * step, step, dtype=kind, device=anchor.device)
    place = torch.arange(length, dtype=torch.float64, device=anchor.device)
    numbers: torch.Tensor = first + place * step
    return numbers.to(kind)


def one_hot(indices: torch.Tensor, depth: Any, values: torch.Tensor, axis: int) -> torch.Tensor:
    """ONNX OneHot: the second value at the index, the first elsewhere and where the index is out of range."""
    size = as_integers(depth)[0]
    rank = indices.dim() + 1
    axis = axis % rank
    bounded((*indices.shape, size), "OneHot")
    place = indices.long()
    place = torch.where(place < 0, place + size, place).unsqueeze(axis)
    classes = torch.arange(size, device=indices.device).reshape([-1 if a == axis else 1 for a in range(rank)])
    return torch.where(place == classes, values[1], values[0])


def shape(values: torch.Tensor, start: int, end: int | None) -> torch.Tensor:
    """ONNX Shape, of what is no part of a shape computation."""
    return torch.tensor(tuple(values.shape)[start:end], dtype=torch.int64, device=values.device)


def size(values: torch.Tensor) -> torch.Tensor:
    """ONNX Size, of what is no part of a shape computation."""
    return torch.full((), math.prod(values.shape), dtype=torch.int64, device=values.device)


def triangle(values: torch.Tensor, diagonal: Any = None, *, upper: bool) -> torch.Tensor:
    """ONNX Trilu: the part of matrices above or below a diagonal."""
    height, width = values.shape[-2:]
    place = 0 if diagonal is None else as_integers(diagonal)[0]
    number = min(max(place, -height - 1), width + 1)
    return torch.triu(values, number) if upper else torch.tril(values, number)


def shaped_fill(
    like: Any, value: float, kind: torch.dtype, extra_shape: tuple[int, ...], input_as_shape: bool
) -> torch.Tensor:
    """ConstantFill in the shape of an input, or in the shape that an input holds, and some axes more."""
    sizes = as_integers(like) if input_as_shape else tuple(like.shape)
    sizes = bounded((*sizes, *extra_shape), "ConstantFill", 8)
    return torch.full(sizes, value, dtype=kind, device=like.device if isinstance(like, torch.Tensor) else None)


def convert_constant(operation: Operation) -> Conversion:
    """Convert `Constant`; strings are no tensors."""
    attributes = operation.attributes
    element = operation.result()
    if "sparse_value" in attributes:
        return constant(_dense(attributes["sparse_value"]))
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
            return constant(to_carrier(array, element or default or _element(array)))
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
    value = np.asarray(operation.attributes.get("value", np.float32(0)))
    filling = to_carrier(value, operation.result() or _element(value)).reshape(-1)
    function = Function(fill, value=filling[0].item(), kind=filling.dtype, anchor=anchor())
    return Conversion(function, (0,), numbers=(0,))


def convert_eye_like(operation: Operation) -> Conversion:
    kind = CARRIERS.get(operation.setting("dtype", 0) or operation.element(0))
    return Conversion(Function(eye_like, k=operation.setting("k", 0), kind=kind))


def convert_range(operation: Operation) -> Conversion:
    kind = CARRIERS.get(operation.result() or operation.element(0), torch.float32)
    return Conversion(Function(count, kind=kind, anchor=anchor()), (0, 1, 2), numbers=(0, 1, 2))


def convert_given_fill(operation: Operation) -> Conversion:
    """Convert `GivenTensorFill` whose shape is an attribute."""
    values = np.asarray(operation.attributes.get("values", ()), np.float32)
    if operation.has(0) or operation.attributes.get("extra_shape"):
        raise NotConvertible("GivenTensorFill in the shape of an input")
    sizes = operation.setting("shape", None) or ()
    if math.prod(sizes) != values.size or min(sizes, default=0) < 0:
        raise NotConvertible("GivenTensorFill with more or fewer values than its shape has")
    return constant(torch.from_numpy(values.reshape(sizes)))


def convert_constant_fill(operation: Operation) -> Conversion:
    kind = CARRIERS.get(operation.setting("dtype", int(TensorProto.FLOAT)))
    if kind is None:
        raise NotConvertible("ConstantFill of strings")
    settings = {
        "value": operation.setting("value", 0.0),
        "kind": kind,
        "extra_shape": operation.setting("extra_shape", None) or (),
    }
    if not operation.has(0):
        return constant(shaped_fill(operation.setting("shape", None) or (), input_as_shape=True, **settings))
    given = operation.setting("input_as_shape", False)
    return Conversion(Function(shaped_fill, input_as_shape=given, **settings), (0,), numbers=(0,))


CONVERTERS: Mapping[str, Converter] = {
    "Constant": convert_constant,
    "ConstantFill": convert_constant_fill,
    "ConstantOfShape": convert_constant_of_shape,
    "EyeLike": convert_eye_like,
    "GivenTensorFill": convert_given_fill,
    "OneHot": by_function(one_hot, 3, numbers=(1,), axis=-1),
    "Range": convert_range,
    "Shape": by_function(shape, start=0, end=None),
    "Size": by_function(size),
    "Trilu": by_function(triangle, 2, numbers=(1,), upper=True),
}
