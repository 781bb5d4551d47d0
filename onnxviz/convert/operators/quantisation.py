"""Quantisation to integers and narrow floats and back, and products of quantised values.

Quantised values are carried as float32, their rounding is passed straight through by gradients (`rounding`), and values
outside the range have none (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import INTEGERS, integer_range
from onnxviz.convert.operators.integer_products import (
    Product,
    read_convolution,
)
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.convert.operators.rounding import FORMATS, round_through, round_to_format


class Quantise(nn.Module):
    """Divide by a scale, round, add a zero point, clip to the range of a type.

    Args:
        element: ONNX element type to quantise to.
        scale: the scale if it is constant.
        zero: the zero point if it is constant.
        axis: axis of scales that are many.
        block: how many values along the axis share a scale; 0 for one scale for each position, or for all.
        saturate: whether a narrow floating type clips what is too large.
    """

    scale: torch.Tensor | None
    zero: torch.Tensor | None

    def __init__(
        self,
        element: int,
        scale: np.ndarray | None = None,
        zero: np.ndarray | None = None,
        axis: int = 1,
        block: int = 0,
        saturate: bool = True,
    ) -> None:
        super().__init__()
        self.element = element
        self.axis = axis
        self.block = block
        self.saturate = saturate
        self.range = integer_range(element)
        self.register_buffer("scale", _constant(scale))
        self.register_buffer("zero", None if zero is None or not zero.astype(np.float32).any() else _constant(zero))

    def forward(
        self, values: torch.Tensor, scale: torch.Tensor | None = None, zero: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Quantise."""
        scale = self.scale if scale is None else scale
        zero = self.zero if zero is None else zero
        assert scale is not None
        scaled = _floating(values) / spread(scale, values, self.axis, self.block)
        offset = None if zero is None else spread(_floating(zero), values, self.axis, self.block)
        if self.range is None:
            # A zero point of these types is 0, and of float 8 it is not even added.
            wide = FORMATS.get(self.element)
            shifted = scaled if offset is None or (wide is not None and not wide.limited) else scaled + offset
            return round_to_format(shifted, self.element, self.saturate)
        rounded = round_through(scaled)
        return (rounded if offset is None else rounded + offset).clamp(*self.range)


class Dequantise(nn.Module):
    """Subtract a zero point and multiply with a scale; the arguments are those of `Quantise`."""

    scale: torch.Tensor | None
    zero: torch.Tensor | None

    def __init__(
        self, scale: np.ndarray | None = None, zero: np.ndarray | None = None, axis: int = 1, block: int = 0
    ) -> None:
        super().__init__()
        self.axis = axis
        self.block = block
        self.register_buffer("scale", _constant(scale))
        self.register_buffer("zero", None if zero is None or not zero.astype(np.float32).any() else _constant(zero))

    def forward(
        self, values: torch.Tensor, scale: torch.Tensor | None = None, zero: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Bring back real numbers."""
        scale = self.scale if scale is None else scale
        zero = self.zero if zero is None else zero
        assert scale is not None
        if zero is not None:
            offset = spread(zero, values, self.axis, self.block)
            # int32 has numbers that float32 does not: its difference is taken before it is rounded.
            values = values.double() - offset if values.dtype == torch.int32 else _floating(values) - _floating(offset)
        return values.float() * spread(scale, values, self.axis, self.block)


class DynamicQuantise(nn.Module):
    """Quantise to uint8 by the range of the values themselves, which always holds zero.

    Gradients see the scale and the zero point as constants: through quantisation and back they pass unchanged.
    """

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return quantised values, scale and zero point."""
        low = values.detach().amin().clamp(max=0.0)
        high = values.detach().amax().clamp(min=0.0)
        scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255.0)
        zero = (-low / scale).clamp(0.0, 255.0).round()
        return (round_through(values / scale) + zero).clamp(0.0, 255.0), scale, zero


class ComputedProduct(nn.Module):
    """A product of quantised values with quantised weights that are computed, in double precision.

    Args:
        product: a convolution or a matrix product.
        kernels: whether zero points of weights belong to output channels (axis 0) instead of columns.
    """

    def __init__(self, product: Product, kernels: bool) -> None:
        super().__init__()
        self.product = product
        self.kernels = kernels

    def forward(
        self,
        values: torch.Tensor,
        weight: torch.Tensor,
        zero: torch.Tensor | None = None,
        weight_zero: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Multiply."""
        first, second = values.double(), weight.double()
        if zero is not None:
            first = first - as_rows(zero.double(), not self.kernels)
        if weight_zero is not None:
            second = second - (as_kernels(weight_zero.double(), weight.dim()) if self.kernels else weight_zero.double())
        return round_through(self.product(first, second))  # cuDNN transforms convolutions


class ComputedRequantised(nn.Module):
    """A product of quantised values, quantised again; arguments in the order of ONNX QLinearConv and QLinearMatMul."""

    def __init__(self, product: Product, kernels: bool, element: int) -> None:
        super().__init__()
        self.product = ComputedProduct(product, kernels)
        self.kernels = kernels
        self.range = integer_range(element)

    def forward(
        self,
        values: torch.Tensor,
        scale: torch.Tensor,
        zero: torch.Tensor,
        weight: torch.Tensor,
        weight_scale: torch.Tensor,
        weight_zero: torch.Tensor,
        result_scale: torch.Tensor,
        result_zero: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Multiply and quantise."""
        assert self.range is not None
        result = self.product(values, weight, zero, weight_zero)
        channels = values.dim() - 1
        if bias is not None:
            result = result + as_kernels(bias.double(), channels)
        of_weights = as_kernels(weight_scale, channels) if self.kernels else weight_scale
        multiplier = as_rows(scale, not self.kernels) * of_weights / as_rows(result_scale, not self.kernels)
        offset = as_rows(_floating(result_zero), not self.kernels)
        return (round_through(result.float() * multiplier) + offset).clamp(*self.range)


def spread(parameter: torch.Tensor, values: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    """Give a scale or zero point a shape that broadcasts against the values.

    Args:
        parameter: one number, one for each position of the axis, or one for each block along it.
        values: the values.
        axis: the axis.
        block: length of a block; 0 if there are none.
    """
    if parameter.dim() == 0:
        return parameter
    if block and parameter.dim() == values.dim():
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, values.shape[axis])
    if parameter.dim() > 1 or parameter.shape[0] == 1:
        return parameter.reshape(()) if parameter.numel() == 1 else parameter
    return parameter.reshape(-1, *(1,) * (values.dim() - 1 - axis % max(values.dim(), 1)))


def as_rows(parameter: torch.Tensor, rows: bool) -> torch.Tensor:
    """Lay the numbers of a vector along the rows of matrices, if they belong to them."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.unsqueeze(-1) if rows and parameter.dim() == 1 else parameter


def as_kernels(parameter: torch.Tensor, rank: int) -> torch.Tensor:
    """Lay the numbers of a vector along the first of `rank` axes."""
    return parameter.reshape(-1, *(1,) * (rank - 1)) if parameter.numel() > 1 else parameter.reshape(())


def _constant(value: np.ndarray | None) -> torch.Tensor | None:
    if value is None:
        return None
    return torch.from_numpy(np.array(value, np.float32).reshape(() if value.size == 1 else value.shape))


def _floating(values: torch.Tensor) -> torch.Tensor:
    return values if values.is_floating_point() else values.float()


def convert_quantise(operation: Operation) -> Conversion:
    """Convert `QuantizeLinear`."""
    element = operation.element(2) if operation.has(2) else int(operation.attributes.get("output_dtype", 0))
    element = element or operation.result() or TensorProto.UINT8
    if element not in INTEGERS and element not in FORMATS:
        raise NotConvertible("the type to quantise to is unknown")
    return _with_parameters(
        operation,
        lambda scale, zero, axis, block: Quantise(
            element, scale, zero, axis, block, bool(operation.attributes.get("saturate", 1))
        ),
    )


def convert_dequantise(operation: Operation) -> Conversion:
    """Convert `DequantizeLinear`."""
    return _with_parameters(operation, Dequantise)


def _with_parameters(operation: Operation, make: Callable[..., nn.Module]) -> Conversion:
    axis, block = int(operation.attributes.get("axis", 1)), int(operation.attributes.get("block_size", 0))
    if operation.computed(1) or operation.computed(2):
        return Conversion(make(None, None, axis, block), (0, 1, 2) if operation.has(2) else (0, 1))
    return Conversion(make(operation.constant(1), operation.constant(2), axis, block))


def convert_dynamic_quantise(_operation: Operation) -> Conversion:
    """Convert `DynamicQuantizeLinear`."""
    return Conversion(DynamicQuantise())


def convert_integer_convolution(operation: Operation) -> Conversion:
    """Convert `ConvInteger`; one that is scaled to real numbers is an exact product (`exact_products`)."""
    return Conversion(ComputedProduct(read_convolution(operation, 1), kernels=True), (0, 1, 2, 3))


def convert_integer_matrix_product(_operation: Operation) -> Conversion:
    """Convert `MatMulInteger`."""
    return Conversion(ComputedProduct(torch.matmul, kernels=False), (0, 1, 2, 3))


def convert_quantised_convolution(operation: Operation) -> Conversion:
    """Convert `QLinearConv`."""
    return _quantised_product(operation, read_convolution(operation, 3), kernels=True)


def convert_quantised_matrix_product(operation: Operation) -> Conversion:
    """Convert `QLinearMatMul`."""
    return _quantised_product(operation, torch.matmul, kernels=False)


def _quantised_product(operation: Operation, product: Product, kernels: bool) -> Conversion:
    """Convert a node whose inputs are those of `QLinearConv`, of computed scales: the others became something else."""
    element = operation.element(7)
    if integer_range(element) is None:
        raise NotConvertible(f"{operation.operator} of other types than integers")
    inputs = tuple(range(9 if operation.has(8) else 8))
    return Conversion(ComputedRequantised(product, kernels, element), inputs)


CONVERTERS: Mapping[str, Converter] = {
    "ConvInteger": convert_integer_convolution,
    "DequantizeLinear": convert_dequantise,
    "DynamicQuantizeLinear": convert_dynamic_quantise,
    "MatMulInteger": convert_integer_matrix_product,
    "QLinearConv": convert_quantised_convolution,
    "QLinearMatMul": convert_quantised_matrix_product,
    "QuantizeLinear": convert_quantise,
    "com.microsoft:DequantizeLinear": convert_dequantise,
    "com.microsoft:QuantizeLinear": convert_quantise,
}
