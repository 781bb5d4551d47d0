"""ONNX Runtime's own quantised operators (domain com.microsoft), as its static and dynamic quantisers write them.

Meanings: docs/ContribOperators.md of ONNX Runtime. The pointwise ones are the floating operator between dequantised
values and a quantised result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import INTEGERS
from onnxviz.convert.operators import pooling
from onnxviz.convert.operators.activations import convert_softmax
from onnxviz.convert.operators.integer_products import largest_magnitude, read_convolution
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.convert.operators.quantisation import (
    Dequantise,
    DynamicQuantise,
    Quantise,
    Requantised,
    Shifted,
    convert_dequantise,
    convert_quantise,
    exact_product,
    quantised_product,
)


class Requantising(nn.Module):
    """A floating operator between quantised values.

    Args:
        sources: for each argument, what makes it a floating one.
        function: the operator.
        target: quantises the result.
    """

    def __init__(self, sources: Sequence[Dequantise], function: nn.Module, target: Quantise) -> None:
        super().__init__()
        self.sources = nn.ModuleList(sources)
        self.function = function
        self.target = target

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Compute in floating point."""
        real = [source(value) for source, value in zip(self.sources, values, strict=True)]
        result: torch.Tensor = self.target(self.function(*real))
        return result


class Operator(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Apply the function."""
        return self.function(*values)


class Joined(nn.Module):
    """Values joined along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Join."""
        return torch.cat(values, self.axis)


class ChannelsLast(nn.Module):
    """An operator of images whose channels are their last axis."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run it with the channels on axis 1."""
        result: torch.Tensor = self.function(images.movedim(-1, 1)).movedim(1, -1)
        return result


class DynamicProduct(nn.Module):
    """A matrix product whose left operand is quantised by its own range.

    Args:
        product: multiplies quantised values with constant weights; its zero point is computed.
        scale: scale of the weights.
        bias: to add to the result; or None.
    """

    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, product: Shifted, scale: np.ndarray, bias: np.ndarray | None) -> None:
        super().__init__()
        self.quantise = DynamicQuantise()
        self.product = product
        self.register_buffer("scale", torch.from_numpy(np.array(scale, np.float32)))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(np.array(bias, np.float32)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        quantised, scale, zero = self.quantise(values)
        result: torch.Tensor = self.product(quantised, zero).float() * (scale * self.scale)
        return result if self.bias is None else result + self.bias


class ScaledProduct(nn.Module):
    """A product of quantised values, scaled to real numbers.

    Args:
        product: gives exact integers.
        scale: scale of the weights, in a shape that broadcasts.
        bias: to add to the result; or None.
    """

    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, product: Shifted, scale: np.ndarray, bias: np.ndarray | None) -> None:
        super().__init__()
        self.product = product
        self.register_buffer("scale", torch.from_numpy(np.array(scale, np.float32)))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(np.array(bias, np.float32)))

    def forward(
        self, values: torch.Tensor, scale: torch.Tensor | None = None, zero: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply and scale."""
        factor = self.scale if scale is None else self.scale * scale
        result: torch.Tensor = self.product(values, zero).float() * factor
        return result if self.bias is None else result + self.bias


def _required(operation: Operation, index: int) -> np.ndarray:
    value = operation.constant(index)
    if value is None:
        raise NotConvertible(f"{operation.operator} without its input {index}")
    return value


def _element(zero: np.ndarray | None) -> int:
    """Return the element type of a zero point; without one it is uint8."""
    if zero is None:
        return TensorProto.UINT8
    return int(TensorProto.INT8 if zero.dtype == np.int8 else TensorProto.UINT8 if zero.dtype == np.uint8 else 0)


def _requantising(
    operation: Operation, function: nn.Module, sources: Sequence[int], target: int, target_zero: int | None = None
) -> Conversion:
    """Compute in floating point between quantised values; each is followed by its scale and zero point."""
    made = [Dequantise(_required(operation, index + 1), operation.constant(index + 2)) for index in sources]
    zero = operation.constant(target + 1 if target_zero is None else target_zero)
    element = _element(zero)
    if element not in INTEGERS:
        raise NotConvertible(f"{operation.operator} of this type")
    quantise = Quantise(element, _required(operation, target), zero)
    return Conversion(Requantising(made, function, quantise), tuple(sources))


def convert_binary(operation: Operation) -> Conversion:
    """Convert `QLinearAdd` and `QLinearMul`."""
    function = torch.add if operation.operator == "QLinearAdd" else torch.mul
    return _requantising(operation, Operator(function), (0, 3), 6)


def convert_activation(operation: Operation) -> Conversion:
    """Convert `QLinearLeakyRelu`, `QLinearSigmoid` and `QLinearSoftmax`."""
    get = operation.attributes.get
    if operation.operator == "QLinearLeakyRelu":
        return _requantising(operation, nn.LeakyReLU(float(get("alpha", 0.01))), (0,), 3)
    if operation.operator == "QLinearSigmoid":
        return _requantising(operation, nn.Sigmoid(), (0,), 3)
    early = int(get("opset", 13)) < 13
    plain = replace(operation, operator="Softmax", version=1 if early else 13)
    return _requantising(operation, convert_softmax(plain).module, (0,), 3)


def convert_pool(operation: Operation) -> Conversion:
    """Convert `QLinearAveragePool` and `QLinearGlobalAveragePool`."""
    if operation.operator == "QLinearAveragePool":
        module = pooling.convert_average_pool(replace(operation, operator="AveragePool", version=11)).module
    else:
        module = pooling.convert_global_average_pool(operation).module
    last = operation.attributes.get("channels_last", 0)
    return _requantising(operation, ChannelsLast(module) if last else module, (0,), 3)


def convert_join(operation: Operation) -> Conversion:
    """Convert `QLinearConcat`: scale and zero point of the result, then three inputs for each value."""
    axis = int(operation.attributes.get("axis", 0))
    return _requantising(operation, Joined(axis), range(2, len(operation.given), 3), 0)


def convert_convolution(operation: Operation) -> Conversion:
    """Convert `QLinearConv`, whose images may have their channels last."""
    conversion = quantised_product(operation, read_convolution(operation, 3), kernels=True)
    if not operation.attributes.get("channels_last", 0):
        return conversion
    if len(conversion.inputs) > 1:
        raise NotConvertible("QLinearConv with channels last and computed weights")
    return Conversion(ChannelsLast(conversion.module))


def convert_gemm(operation: Operation) -> Conversion:
    """Convert `QGemm`."""
    get = operation.attributes.get
    if get("transA", 0):
        raise NotConvertible("QGemm of a transposed left operand")
    scale, zero, weight, weight_scale = (_required(operation, index) for index in (1, 2, 3, 4))
    weight_zero, bias = operation.constant(5), operation.constant(6)
    if get("transB", 0):
        weight = weight.T
    exact = exact_product(torch.matmul, weight, weight_zero, False, largest_magnitude(_element(zero), zero), bias)
    product = Shifted(exact, zero, rows=True)
    multiplier = np.float32(get("alpha", 1.0)) * scale.reshape(()) * weight_scale.astype(np.float32)
    if not operation.has(7):
        return Conversion(ScaledProduct(product, multiplier, None))
    result_scale, result_zero = _required(operation, 7), operation.constant(8)
    offset = 0 if result_zero is None else int(result_zero.reshape(()))
    module = Requantised(product, multiplier / result_scale.reshape(()), offset, _element(result_zero))
    return Conversion(module)


def convert_dynamic_product(operation: Operation) -> Conversion:
    """Convert `DynamicQuantizeMatMul`."""
    weight, scale = _required(operation, 1), _required(operation, 2)
    exact = exact_product(torch.matmul, weight, operation.constant(3), False, 255)
    return Conversion(DynamicProduct(Shifted(exact, None), scale, operation.constant(4)))


def convert_scaled_product(operation: Operation) -> Conversion:
    """Convert `MatMulIntegerToFloat`, whose left operand may be quantised dynamically."""
    weight, scale = _required(operation, 1), _required(operation, 3)
    zero = operation.known(4)
    exact = exact_product(torch.matmul, weight, operation.constant(5), False, 255)
    bias = operation.constant(6)
    if operation.computed(2) or operation.computed(4):
        return Conversion(ScaledProduct(Shifted(exact, None, rows=True), scale, bias), (0, 2, 4))
    left = _required(operation, 2)
    factor = (left[:, None] if left.size > 1 and left.ndim == 1 else left.reshape(())) * scale
    return Conversion(ScaledProduct(Shifted(exact, zero, rows=True), factor.astype(np.float32), bias))


CONVERTERS: Mapping[str, Converter] = {
    f"com.microsoft:{operator}": converter
    for operator, converter in {
        "DequantizeLinear": convert_dequantise,
        "DynamicQuantizeMatMul": convert_dynamic_product,
        "MatMulIntegerToFloat": convert_scaled_product,
        "QGemm": convert_gemm,
        "QLinearAdd": convert_binary,
        "QLinearAveragePool": convert_pool,
        "QLinearConcat": convert_join,
        "QLinearConv": convert_convolution,
        "QLinearGlobalAveragePool": convert_pool,
        "QLinearLeakyRelu": convert_activation,
        "QLinearMul": convert_binary,
        "QLinearSigmoid": convert_activation,
        "QLinearSoftmax": convert_activation,
        "QuantizeLinear": convert_quantise,
    }.items()
}
