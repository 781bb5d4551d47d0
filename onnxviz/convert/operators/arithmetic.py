"""Pointwise operators, softmax and reductions whose form changed with the opset."""

from __future__ import annotations

from collections.abc import Mapping

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation


class Clip(nn.Module):
    """Keep values between two constants; either may be missing."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Clip."""
        return values.clamp(self.low, self.high)


class FlatSoftmax(nn.Module):
    """Softmax before opset 13: over all axes from `axis` on, together."""

    def __init__(self, axis: int, logarithm: bool) -> None:
        super().__init__()
        self.axis = axis
        self.logarithm = logarithm

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        axis = self.axis % values.dim()
        flat = values.flatten(axis)
        result = functional.log_softmax(flat, -1) if self.logarithm else functional.softmax(flat, -1)
        return result.reshape(values.shape)


class Reduction(nn.Module):
    """Sum, mean, maximum, ... over constant axes."""

    def __init__(self, operator: str, axes: tuple[int, ...] | None, keep: bool) -> None:
        super().__init__()
        self.operator = operator
        self.axes = axes
        self.keep = keep

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce."""
        axes = tuple(range(values.dim())) if self.axes is None else self.axes
        options: dict[str, Any] = {"dim": axes, "keepdim": self.keep}
        match self.operator:
            case "ReduceMean":
                return values.mean(**options)
            case "ReduceSum":
                return values.sum(**options)
            case "ReduceMax":
                return values.amax(**options)
            case "ReduceMin":
                return values.amin(**options)
            case "ReduceL1":
                return values.abs().sum(**options)
            case "ReduceL2":
                norm: torch.Tensor = torch.linalg.vector_norm(values, **options)
                return norm
            case "ReduceSumSquare":
                return values.square().sum(**options)
            case "ReduceLogSum":
                return values.sum(**options).log()
            case "ReduceLogSumExp":
                return values.logsumexp(**options)
        raise AssertionError(self.operator)


class Unchanged(nn.Module):
    """A copy of the whole input, where the axes to reduce are none."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the input."""
        return values


class LocalResponse(nn.Module):
    """Local response normalisation over channels; PyTorch's window of even size lies one channel off ONNX's."""

    def __init__(self, size: int, alpha: float, beta: float, bias: float) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.bias = bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Divide by the windowed sum of squares."""
        before = (self.size - 1) // 2
        squares = values.square().flatten(2).unsqueeze(1)
        squares = functional.pad(squares, (0, 0, before, self.size - 1 - before))
        mean = functional.avg_pool2d(squares, (self.size, 1), stride=1).reshape(values.shape)
        return values / (self.bias + self.alpha * mean) ** self.beta


def convert_identity(_operation: Operation) -> Conversion:
    """Convert `Identity`, and `Dropout` as it is after training."""
    return Conversion(nn.Identity())


def convert_clip(operation: Operation) -> Conversion:
    """Convert `Clip` between constants."""
    low, high = (_limit(operation, name, index) for name, index in (("min", 1), ("max", 2)))
    if high is None and low == 0:
        return Conversion(nn.ReLU())
    return Conversion(nn.Identity() if low is None and high is None else Clip(low, high))


def _limit(operation: Operation, name: str, index: int) -> float | None:
    value = operation.attributes.get(name)
    if value is None:
        value = operation.constant(index)
    if value is None:
        return None
    number = float(np.asarray(value).reshape(-1)[0])
    # Before opset 11 a missing limit was written as the largest float.
    return None if abs(number) >= np.finfo(np.float32).max or math.isinf(number) else number


def convert_softmax(operation: Operation) -> Conversion:
    """Convert `Softmax` and `LogSoftmax`."""
    logarithm = operation.operator == "LogSoftmax"
    if operation.version < 13:
        return Conversion(FlatSoftmax(int(operation.attributes.get("axis", 1)), logarithm))
    axis = int(operation.attributes.get("axis", -1))
    return Conversion(nn.LogSoftmax(axis) if logarithm else nn.Softmax(axis))


def convert_reduction(operation: Operation) -> Conversion:
    """Convert the `Reduce...` operators over constant axes."""
    axes = operation.integers("axes", 1) or None
    if axes is None and operation.attributes.get("noop_with_empty_axes", 0):
        if operation.operator not in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
            raise NotConvertible(f"{operation.operator} over no axes")
        return Conversion(Unchanged())
    return Conversion(Reduction(operation.operator, axes, bool(operation.attributes.get("keepdims", 1))))


def convert_local_response(operation: Operation) -> Conversion:
    """Convert `LRN`."""
    get = operation.attributes.get
    return Conversion(
        LocalResponse(int(get("size", 1)), float(get("alpha", 1e-4)), float(get("beta", 0.75)), float(get("bias", 1.0)))
    )


def convert_gelu(operation: Operation) -> Conversion:
    """Convert `Gelu`."""
    return Conversion(nn.GELU(approximate=operation.attributes.get("approximate", "none")))


CONVERTERS: Mapping[str, Converter] = {
    "Clip": convert_clip,
    "Dropout": convert_identity,
    "Gelu": convert_gelu,
    "Identity": convert_identity,
    "LRN": convert_local_response,
    "LogSoftmax": convert_softmax,
    "ReduceL1": convert_reduction,
    "ReduceL2": convert_reduction,
    "ReduceLogSum": convert_reduction,
    "ReduceLogSumExp": convert_reduction,
    "ReduceMax": convert_reduction,
    "ReduceMean": convert_reduction,
    "ReduceMin": convert_reduction,
    "ReduceSum": convert_reduction,
    "ReduceSumSquare": convert_reduction,
    "Softmax": convert_softmax,
}
