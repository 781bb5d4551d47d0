"""Products of integers that a graph writes with the real numbers that the integers stand for.

A convolution reads multiples of a step (what leaves a DequantizeLinear) and weights that are multiples of theirs, so
that both integers are found again by rounding. Their product is exact whatever the order of its sums; that of the real
numbers is not, and roundings behind it would fall to other sides than those of the integers in the file.
`graph.passes.to_qdq` says which nodes these are, and gives them their steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import integer_range
from onnxviz.convert.operators.integer_products import ExactProduct, Product, read_convolution, sums_of_magnitudes
from onnxviz.convert.operators.operation import Conversion, Converter, Function, Operation
from onnxviz.convert.operators.rounding import round_through
from onnxviz.graph.model_file import FUNCTION_DOMAIN

EXACT = FUNCTION_DOMAIN
"""Domain of nodes that are computed exactly; the reader of files lets none have it."""
_FARTHEST = 255
"""Largest distance of a byte from its zero point."""


class SteppedProduct(nn.Module):
    """A product of multiples of a step with constant weights that are multiples of theirs.

    Args:
        product: multiplies integers.
        own: step of the weights, in a shape that broadcasts against the result.
        step: step of the values; None if it is computed.
    """

    own: torch.Tensor
    step: torch.Tensor | None

    def __init__(self, product: ExactProduct, own: np.ndarray, step: np.ndarray | None) -> None:
        super().__init__()
        self.product = product
        self.register_buffer("own", _buffer(own))
        self.register_buffer("step", None if step is None else _buffer(step).reshape(()))

    def forward(self, values: torch.Tensor, step: torch.Tensor | None = None) -> torch.Tensor:
        step = self.step if step is None else step
        assert step is not None
        result: torch.Tensor = self.product(round_through(values / step)).float() * (step * self.own)
        return result


def multiply_stepped(values: torch.Tensor, other: torch.Tensor, step: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Multiply matrices that are multiples of a step each, in double precision; `own` is that of the right one."""
    left, right = round_through(values / step), round_through(other / own)
    return torch.matmul(left.double(), right.double()).float() * (step * own)


def requantise(
    values: torch.Tensor, step: torch.Tensor, multiplier: torch.Tensor, zero: int, limits: tuple[int, int]
) -> torch.Tensor:
    """Quantise multiples of a step as the integers are quantised that they stand for.

    Args:
        values: the multiples.
        step: what one integer stands for, in a shape that broadcasts.
        multiplier: steps of the result in one such step.
        zero: zero point of the result.
        limits: smallest and largest number of the result's type.
    """
    return (round_through(round_through(values / step) * multiplier) + zero).clamp(*limits)


def _divisor(step: np.ndarray) -> np.ndarray:
    """Return a step to divide by: where it is 0, so is every multiple of it."""
    return np.where(step == 0, 1, step).astype(np.float32)


def _buffer(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float32))


def convert_product(operation: Operation) -> Conversion:
    """Convert Conv, MatMul or Gemm: its inputs, then the steps of values and weights, and the bias in integers."""
    own = np.asarray(operation.constant(4))
    if operation.computed(1):
        return Conversion(Function(multiply_stepped, own=_buffer(own)), (0, 1, 3))
    weight, bias, kernels = np.asarray(operation.constant(1)), operation.constant(5), operation.operator == "Conv"
    if operation.operator == "Gemm" and operation.attributes.get("transB", 0):
        weight = weight.T
    product: Product = read_convolution(operation, 1) if kernels else torch.matmul
    lying = (-1, *(1,) * (weight.ndim - 1)) if kernels and own.ndim else own.shape
    integers = np.rint(weight / _divisor(own.reshape(lying))).astype(np.int64)
    if bias is not None and bias.size:
        bias = bias.reshape(-1, *(1,) * (weight.ndim - 2)) if kernels else bias
    else:
        bias = None
    exact = ExactProduct(product, integers, sums_of_magnitudes(integers, not kernels), _FARTHEST, bias)
    own = own.reshape(lying[:-1]) if kernels and own.ndim else own
    own = own * np.float32(operation.attributes.get("alpha", 1.0))
    step = operation.known(3)
    return Conversion(SteppedProduct(exact, own, step), (0,) if step is not None else (0, 3))


def convert_requantise(operation: Operation) -> Conversion:
    """Convert QuantizeLinear: its inputs, then the step of its values and how many of the result's that is."""
    zero = operation.constant(2)
    element = operation.element(2) if zero is not None else TensorProto.UINT8
    limits = integer_range(element)
    assert limits is not None
    function = Function(
        requantise,
        step=_buffer(_divisor(np.asarray(operation.constant(3)))),
        multiplier=_buffer(np.asarray(operation.constant(4))),
        zero=0 if zero is None else int(zero.reshape(())),
        limits=limits,
    )
    return Conversion(function)


CONVERTERS: Mapping[str, Converter] = {
    f"{EXACT}:Conv": convert_product,
    f"{EXACT}:Gemm": convert_product,
    f"{EXACT}:MatMul": convert_product,
    f"{EXACT}:QuantizeLinear": convert_requantise,
}
