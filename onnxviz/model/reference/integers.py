"""Products of quantised values with exact sums, as the ONNX standard and ONNX Runtime's own operators define them.

Sums are taken in float64, which holds the products of 8 bits exactly for up to 2^37 of them, and never saturate.
Meanings: ONNX Operators.md; docs/ContribOperators.md of ONNX Runtime for the domain com.microsoft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxviz.model.reference.windows import convolve

Inputs = Sequence[np.ndarray | None]
Definition = Callable[[Inputs, Mapping[str, Any]], np.ndarray]


def _shifted(inputs: Inputs, values: int, zero: int, axis: int | None) -> np.ndarray:
    """Subtract a zero point: one number, or one for each position of an axis."""
    array = _given(inputs, values).astype(np.float64)
    offset = inputs[zero] if zero < len(inputs) else None
    return array if offset is None else array - _along(offset.astype(np.float64), array.ndim, axis)


def _along(parameter: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim != 1 or axis is None:
        return parameter
    return parameter.reshape(tuple(-1 if place == axis % rank else 1 for place in range(rank)))


def _given(inputs: Inputs, index: int) -> np.ndarray:
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def _optional(inputs: Inputs, index: int) -> np.ndarray | None:
    return inputs[index] if index < len(inputs) else None


def _requantised(real: np.ndarray, zero: np.ndarray, rank_axis: int | None = None) -> np.ndarray:
    """Round half to even, add the zero point, saturate to its type."""
    bounds = np.iinfo(zero.dtype)
    shifted: np.ndarray = np.rint(real) + _along(zero.astype(np.float64), real.ndim, rank_axis)
    clipped: np.ndarray = np.clip(shifted, bounds.min, bounds.max)
    return clipped.astype(zero.dtype)


def matrix_product(inputs: Inputs, _attributes: Mapping[str, Any]) -> np.ndarray:
    """MatMulInteger."""
    total: np.ndarray = np.matmul(_shifted(inputs, 0, 2, -2), _shifted(inputs, 1, 3, -1))
    return total.astype(np.int32)


def convolution(inputs: Inputs, attributes: Mapping[str, Any]) -> np.ndarray:
    """ConvInteger."""
    return convolve(_shifted(inputs, 0, 2, None), _shifted(inputs, 1, 3, 0), attributes).astype(np.int32)


def quantised_matrix_product(inputs: Inputs, _attributes: Mapping[str, Any]) -> np.ndarray:
    """QLinearMatMul."""
    total = np.matmul(_shifted(inputs, 0, 2, -2), _shifted(inputs, 3, 5, -1))
    left, right, result = (_given(inputs, index).astype(np.float64) for index in (1, 4, 6))
    scale = _along(left, total.ndim, -2) * _along(right, total.ndim, -1) / _along(result, total.ndim, -2)
    return _requantised(total * scale, _given(inputs, 7), -2)


def quantised_convolution(inputs: Inputs, attributes: Mapping[str, Any]) -> np.ndarray:
    """QLinearConv; that of ONNX Runtime may have its channels last."""
    if attributes.get("channels_last", 0):
        plain = {name: value for name, value in attributes.items() if name != "channels_last"}
        moved = [np.moveaxis(_given(inputs, 0), -1, 1), *inputs[1:]]
        return np.moveaxis(quantised_convolution(moved, plain), 1, -1)
    total = convolve(_shifted(inputs, 0, 2, None), _shifted(inputs, 3, 5, 0), attributes)
    bias = _optional(inputs, 8)
    if bias is not None:
        total = total + _along(bias.astype(np.float64), total.ndim, 1)
    values, weights, result = (_given(inputs, index).astype(np.float64) for index in (1, 4, 6))
    scale = values.reshape(()) * _along(weights, total.ndim, 1) / result.reshape(())
    return _requantised(total * scale, _given(inputs, 7))


def dynamic_quantisation(values: np.ndarray) -> tuple[np.ndarray, np.float32, np.uint8]:
    """DynamicQuantizeLinear, in the single precision that the standard gives it: values, scale, zero point."""
    single = values.astype(np.float32)
    low, high = np.minimum(single.min(), np.float32(0)), np.maximum(single.max(), np.float32(0))
    scale = np.float32(1) if high == low else np.float32((high - low) / np.float32(255))
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(single / scale) + np.float32(zero), 0, 255).astype(np.uint8), scale, zero


def dynamic_product(inputs: Inputs, _attributes: Mapping[str, Any]) -> np.ndarray:
    """DynamicQuantizeMatMul of ONNX Runtime: values, weights, their scale, their zero point, bias."""
    quantised, scale, zero = dynamic_quantisation(_given(inputs, 0))
    total = np.matmul(quantised.astype(np.float64) - float(zero), _shifted(inputs, 1, 3, -1))
    result: np.ndarray = total * float(scale) * _along(_given(inputs, 2).astype(np.float64), total.ndim, -1)
    bias = _optional(inputs, 4)
    return result if bias is None else result + bias


def scaled_product(inputs: Inputs, _attributes: Mapping[str, Any]) -> np.ndarray:
    """MatMulIntegerToFloat of ONNX Runtime: values, weights, both scales, both zero points, bias."""
    total = np.matmul(_shifted(inputs, 0, 4, -2), _shifted(inputs, 1, 5, -1))
    left, right = (_given(inputs, index).astype(np.float64) for index in (2, 3))
    result: np.ndarray = total * _along(left, total.ndim, -2) * _along(right, total.ndim, -1)
    bias = _optional(inputs, 6)
    return result if bias is None else result + bias


def quantised_gemm(inputs: Inputs, attributes: Mapping[str, Any]) -> np.ndarray:
    """QGemm of ONNX Runtime: values and weights, each with scale and zero point, integers to add, the result's own."""
    left = _shifted(inputs, 0, 2, None)
    right = _given(inputs, 3).astype(np.float64)
    right = right.T if attributes.get("transB", 0) else right
    zero = _optional(inputs, 5)
    right = right if zero is None else right - _along(zero.astype(np.float64), 2, -1)
    total = np.matmul(left.T if attributes.get("transA", 0) else left, right)
    added = _optional(inputs, 6)
    total = total if added is None else total + added
    real: np.ndarray = total * float(attributes.get("alpha", 1.0)) * _given(inputs, 1).astype(np.float64).reshape(())
    real = real * _along(_given(inputs, 4).astype(np.float64), 2, -1)
    result = _optional(inputs, 7)
    if result is None:
        return real
    offset = _optional(inputs, 8)
    return _requantised(
        real / result.astype(np.float64).reshape(()), np.zeros((), np.uint8) if offset is None else offset
    )


def _pointwise(function: Callable[..., np.ndarray], sources: Sequence[int], target: int) -> Definition:
    """Define an operator between quantised values: each source is followed by its scale and zero point."""

    def compute(inputs: Inputs, _attributes: Mapping[str, Any]) -> np.ndarray:
        real = []
        for index in sources:
            scale = _given(inputs, index + 1).astype(np.float64).reshape(())
            zero = _optional(inputs, index + 2)
            values = _given(inputs, index)
            real.append((values.astype(np.float64) - (0.0 if zero is None else float(zero.reshape(())))) * scale)
        offset = _optional(inputs, target + 1)
        zero = np.zeros((), _given(inputs, sources[0]).dtype) if offset is None else offset
        return _requantised(function(*real) / _given(inputs, target).astype(np.float64).reshape(()), zero)

    return compute


PRODUCTS = frozenset(
    ["ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "com.microsoft:DynamicQuantizeMatMul",
     "com.microsoft:MatMulIntegerToFloat", "com.microsoft:QGemm", "com.microsoft:QLinearConv"]
)  # fmt: skip
"""Operators that sum products of integers."""
DEFINITIONS: Mapping[str, Definition] = {
    "ConvInteger": convolution,
    "MatMulInteger": matrix_product,
    "QLinearConv": quantised_convolution,
    "QLinearMatMul": quantised_matrix_product,
    "com.microsoft:DynamicQuantizeMatMul": dynamic_product,
    "com.microsoft:MatMulIntegerToFloat": scaled_product,
    "com.microsoft:QGemm": quantised_gemm,
    "com.microsoft:QLinearAdd": _pointwise(np.add, (0, 3), 6),
    "com.microsoft:QLinearConv": quantised_convolution,
    "com.microsoft:QLinearMul": _pointwise(np.multiply, (0, 3), 6),
    "com.microsoft:QLinearSigmoid": _pointwise(lambda values: 1.0 / (1.0 + np.exp(-values)), (0,), 3),
}
"""Operator, with its domain where that is not the standard's -> its first output."""
