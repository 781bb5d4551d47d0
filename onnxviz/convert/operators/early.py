"""Fills that the standard had on trial until opset 9 and files of Caffe2 still hold.

The other operators of that time are replaced by what they are made of (`graph.passes.replace_experimental`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS
from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers


class Filled(nn.Module):
    """A tensor of constants, in the shape of the attributes.

    Args:
        values: its elements.
    """

    values: torch.Tensor

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> torch.Tensor:
        """Return the tensor."""
        return self.values


class ShapedFill(nn.Module):
    """One constant number in the shape of an input, or in the shape that an input holds.

    Args:
        value: the number.
        kind: type of the result.
        extra: axes to append.
        given: whether the input's values are the shape, instead of its own shape.
    """

    def __init__(self, value: float, kind: torch.dtype, extra: tuple[int, ...], given: bool) -> None:
        super().__init__()
        self.value = value
        self.kind = kind
        self.extra = extra
        self.given = given

    def forward(self, shape: Any) -> torch.Tensor:
        """Fill."""
        size = tuple(int(number) for number in as_numbers(shape)) if self.given else tuple(shape.shape)
        size += self.extra
        bounded(size, "ConstantFill", 8)
        device = shape.device if isinstance(shape, torch.Tensor) else None
        return torch.full(size, self.value, dtype=self.kind, device=device)


def convert_given_fill(operation: Operation) -> Conversion:
    """Convert `GivenTensorFill` whose shape is an attribute."""
    values = np.asarray(operation.attributes.get("values", ()), np.float32)
    if operation.has(0) or operation.attributes.get("extra_shape"):
        raise NotConvertible("GivenTensorFill in the shape of an input")
    shape = tuple(int(number) for number in operation.attributes.get("shape", ()))
    if math.prod(shape) != values.size or min(shape, default=0) < 0:
        raise NotConvertible("GivenTensorFill with more or fewer values than its shape has")
    return Conversion(Filled(torch.from_numpy(values.reshape(shape))), ())


def convert_constant_fill(operation: Operation) -> Conversion:
    """Convert `ConstantFill`."""
    get = operation.attributes.get
    kind = CARRIERS.get(int(get("dtype", TensorProto.FLOAT)))
    if kind is None:
        raise NotConvertible("ConstantFill of strings")
    extra = tuple(int(number) for number in get("extra_shape", ()))
    value = float(get("value", 0.0))
    if operation.has(0):
        return Conversion(ShapedFill(value, kind, extra, bool(get("input_as_shape", 0))), (0,), numbers=(0,))
    shape = tuple(int(number) for number in get("shape", ())) + extra
    bounded(shape, "ConstantFill", 8)
    return Conversion(Filled(torch.full(shape, value, dtype=kind)), ())


CONVERTERS: Mapping[str, Converter] = {
    "ConstantFill": convert_constant_fill,
    "GivenTensorFill": convert_given_fill,
}
