"""Quantisation to integers and narrow floats and back, and products of quantised values.

Quantised values are carried as float32, their rounding is passed straight through by gradients (`rounding`), and values
outside the range have none (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from onnxviz.convert.element_types import INTEGERS, integer_range
from onnxviz.convert.operators.integer_products import Product, read_convolution
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    by_function,
)
from onnxviz.convert.operators.rounding import FORMATS, round_through, round_to_format


def quantise(
    values: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None = None,
    *,
    element: int,
    saturate: bool,
    axis: int,
    block: int,
) -> torch.Tensor:
    """Divide by a scale, round, add a zero point, clip to the range of a type.

    Args:
        values: the values.
        scale: the scale.
        zero: the zero point; None for 0.
        element: ONNX element type to quantise to.
        saturate: whether a narrow floating type clips what is too large.
        axis: axis of scales that are many.
        block: how many values along the axis share a scale; 0 for one scale for each position, or for all.
    """
    scaled = _floating(values) / spread(scale, values, axis, block)
    offset = None if zero is None else spread(_floating(zero), values, axis, block)
    limits = integer_range(element)
    if limits is None:
        # A zero point of these types is 0, and of float 8 it is not even added.
        wide = FORMATS.get(element)
        shifted = scaled if offset is None or (wide is not None and not wide.limited) else scaled + offset
        return round_to_format(shifted, element, saturate)
    rounded = round_through(scaled)
    return (rounded if offset is None else rounded + offset).clamp(*limits)


def dequantise(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None, *, axis: int, block: int
) -> torch.Tensor:
    """Subtract a zero point and multiply with a scale; the arguments are those of `quantise`."""
    if zero is not None:
        offset = spread(zero, values, axis, block)
        # int32 has numbers that float32 does not: its difference is taken before it is rounded.
        values = values.double() - offset if values.dtype == torch.int32 else _floating(values) - _floating(offset)
    return values.float() * spread(scale, values, axis, block)


def quantise_dynamically(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantise to uint8 by the range of the values themselves, which always holds zero; scale and zero point too.

    Gradients see the scale and the zero point as constants: through quantisation and back they pass unchanged.
    """
    low = values.detach().amin().clamp(max=0.0)
    high = values.detach().amax().clamp(min=0.0)
    scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255.0)
    zero = (-low / scale).clamp(0.0, 255.0).round()
    return (round_through(values / scale) + zero).clamp(0.0, 255.0), scale, zero


def multiply_computed(
    values: torch.Tensor,
    weight: torch.Tensor,
    zero: torch.Tensor | None = None,
    weight_zero: torch.Tensor | None = None,
    *,
    product: Product,
    kernels: bool,
) -> torch.Tensor:
    """Multiply quantised values with quantised weights that are computed, in double precision.

    Args:
        values: the values.
        weight: the weights.
        zero: zero point of the values.
        weight_zero: zero point of the weights.
        product: a convolution or a matrix product.
        kernels: whether zero points of weights belong to output channels (axis 0) instead of columns.
    """
    first, second = values.double(), weight.double()
    if zero is not None:
        first = first - as_rows(zero.double(), not kernels)
    if weight_zero is not None:
        second = second - (as_kernels(weight_zero.double(), weight.dim()) if kernels else weight_zero.double())
    return round_through(product(first, second))  # cuDNN transforms convolutions


def multiply_and_requantise(
    values: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    weight_zero: torch.Tensor,
    result_scale: torch.Tensor,
    result_zero: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    product: Product,
    kernels: bool,
    limits: tuple[int, int],
) -> torch.Tensor:
    """Multiply and quantise again; arguments in the order of ONNX QLinearConv and QLinearMatMul."""
    result = multiply_computed(values, weight, zero, weight_zero, product=product, kernels=kernels)
    channels = values.dim() - 1
    if bias is not None:
        result = result + as_kernels(bias.double(), channels)
    of_weights = as_kernels(weight_scale, channels) if kernels else weight_scale
    multiplier = as_rows(scale, not kernels) * of_weights / as_rows(result_scale, not kernels)
    offset = as_rows(_floating(result_zero), not kernels)
    return (round_through(result.float() * multiplier) + offset).clamp(*limits)


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


def _floating(values: torch.Tensor) -> torch.Tensor:
    return values if values.is_floating_point() else values.float()


def convert_quantise(operation: Operation) -> Conversion:
    element = operation.element(2) if operation.has(2) else operation.setting("output_dtype", 0)
    element = element or operation.result() or TensorProto.UINT8
    if element not in INTEGERS and element not in FORMATS:
        raise NotConvertible("the type to quantise to is unknown")
    return _with_parameters(operation, quantise, element=element, saturate=operation.setting("saturate", True))


def _with_parameters(operation: Operation, function: Callable[..., torch.Tensor], **settings: Any) -> Conversion:
    """Return a conversion whose scale and zero point, if they are constant, are settings; a zero point of 0 is none."""
    settings |= {"axis": operation.setting("axis", 1), "block": operation.setting("block_size", 0)}
    if operation.computed(1) or operation.computed(2):
        return Conversion(Function(function, **settings), (0, 1, 2))
    scale, zero = operation.constant(1), operation.constant(2)
    assert scale is not None
    settings["scale"] = _constant(scale)
    if zero is not None and zero.astype(np.float32).any():
        settings["zero"] = _constant(zero)
    return Conversion(Function(function, **settings))


def _constant(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(value, np.float32).reshape(() if value.size == 1 else value.shape))


def convert_integer_product(operation: Operation) -> Conversion:
    """Convert `ConvInteger` and `MatMulInteger`; one that is scaled to real numbers is an exact product."""
    kernels = operation.operator == "ConvInteger"
    product = read_convolution(operation, 1) if kernels else torch.matmul
    return Conversion(Function(multiply_computed, product=product, kernels=kernels), (0, 1, 2, 3))


def convert_quantised_product(operation: Operation) -> Conversion:
    """Convert `QLinearConv` and `QLinearMatMul` of computed scales: the others became something else."""
    kernels, limits = operation.operator == "QLinearConv", integer_range(operation.element(7))
    product = read_convolution(operation, 3) if kernels else torch.matmul
    if limits is None:
        raise NotConvertible(f"{operation.operator} of other types than integers")
    return Conversion(Function(multiply_and_requantise, product=product, kernels=kernels, limits=limits), range(9))


def convert_dequantise(operation: Operation) -> Conversion:
    return _with_parameters(operation, dequantise)


CONVERTERS: Mapping[str, Converter] = {
    "ConvInteger": convert_integer_product,
    "DequantizeLinear": convert_dequantise,
    "DynamicQuantizeLinear": by_function(quantise_dynamically),
    "MatMulInteger": convert_integer_product,
    "QLinearConv": convert_quantised_product,
    "QLinearMatMul": convert_quantised_product,
    "QuantizeLinear": convert_quantise,
    "com.microsoft:DequantizeLinear": convert_dequantise,
    "com.microsoft:QuantizeLinear": convert_quantise,
}
