"""Comparisons, logic and bits, and the choice between two values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import INTEGERS, sortable, wrap
from onnxviz.convert.operators.broadcasting import aligned, read_axis
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.convert.operators.pointwise import Binary, Unary

_Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_COMPARISONS: Mapping[str, _Binary] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}
_LOGICAL: Mapping[str, _Binary] = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}
_BITWISE: Mapping[str, _Binary] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


class Comparison(nn.Module):
    """A comparison of two operands; `axis` and `element` as for `Binary`."""

    def __init__(self, function: _Binary, axis: int | None, element: int) -> None:
        super().__init__()
        self.function = function
        self.axis = axis
        self.element = element

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compare."""
        second = aligned(second, first.dim(), self.axis)
        return self.function(sortable(first, self.element), sortable(second, self.element))


class Bitwise(nn.Module):
    """A function of the bits of two operands."""

    def __init__(self, function: _Binary) -> None:
        super().__init__()
        self.function = function

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Combine the bits."""
        return self.function(_integers(first), _integers(second))


class BitwiseNot(nn.Module):
    """All bits inverted."""

    def __init__(self, element: int) -> None:
        super().__init__()
        self.element = element

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Invert the bits."""
        return wrap(torch.bitwise_not(_integers(values)), self.element)


class BitShift(nn.Module):
    """Shift by a number of bits; what is shifted out of the type, also by a negative number, leaves only the sign.

    Args:
        left: the direction.
        element: ONNX element type of the operands.
    """

    def __init__(self, left: bool, element: int) -> None:
        super().__init__()
        self.left = left
        self.element = element

    def forward(self, values: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Shift."""
        values, count = _integers(values), _integers(count)
        bits, signed = INTEGERS[self.element]
        outside = (count < 0) | (count >= bits)
        count = torch.where(outside, torch.zeros_like(count), count)
        if self.left:
            return torch.where(outside, torch.zeros_like(values), wrap(values << count, self.element))
        shifted = values >> count
        if self.element == TensorProto.UINT64:
            # The carrier is signed: clear the copies of its uppermost bit; none is cleared by a shift of 0.
            kept = (torch.ones_like(values) << (63 - count)) - 1 + (torch.ones_like(values) << (63 - count))
            shifted = shifted & kept
        gone = (values < 0).to(values.dtype).neg() if signed else torch.zeros_like(values)
        return torch.where(outside, gone, shifted)


class IsInfinite(nn.Module):
    """Whether values are infinite, of one sign or of both."""

    def __init__(self, negative: bool, positive: bool) -> None:
        super().__init__()
        self.negative = negative
        self.positive = positive

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Test the values."""
        if self.negative and self.positive:
            return torch.isinf(values)
        if self.negative:
            return torch.isneginf(values)
        return torch.isposinf(values) if self.positive else torch.zeros_like(values, dtype=torch.bool)


class Where(nn.Module):
    """The first value where a condition holds, else the second."""

    def forward(self, condition: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Choose."""
        return torch.where(condition.bool(), first, second)


def _integers(values: torch.Tensor) -> torch.Tensor:
    """Take quantised values that are carried as floats as integers, which have bits."""
    return values.long() if values.is_floating_point() else values


def _refuse_strings(operation: Operation) -> None:
    if TensorProto.STRING in operation.elements:
        raise NotConvertible("strings are no tensors")


def convert_comparison(operation: Operation) -> Conversion:
    """Convert `Equal`, `Greater`, `Less`, `GreaterOrEqual` and `LessOrEqual`."""
    _refuse_strings(operation)
    function = _COMPARISONS[operation.operator]
    return Conversion(Comparison(function, read_axis(operation), operation.element(0)), (0, 1))


def convert_logical(operation: Operation) -> Conversion:
    """Convert `And`, `Or` and `Xor`."""
    return Conversion(Binary(_LOGICAL[operation.operator], read_axis(operation)), (0, 1))


def convert_not(_operation: Operation) -> Conversion:
    """Convert `Not`."""
    return Conversion(Unary(torch.logical_not))


def convert_bitwise(operation: Operation) -> Conversion:
    """Convert `BitwiseAnd`, `BitwiseOr` and `BitwiseXor`."""
    return Conversion(Bitwise(_BITWISE[operation.operator]), (0, 1))


def convert_bitwise_not(operation: Operation) -> Conversion:
    """Convert `BitwiseNot`."""
    return Conversion(BitwiseNot(operation.element(0)))


def convert_bit_shift(operation: Operation) -> Conversion:
    """Convert `BitShift`."""
    if operation.element(0) not in INTEGERS:
        raise NotConvertible("the type of the bits to shift is unknown")
    return Conversion(BitShift(operation.attributes.get("direction") == "LEFT", operation.element(0)), (0, 1))


def convert_is_infinite(operation: Operation) -> Conversion:
    """Convert `IsInf`."""
    get = operation.attributes.get
    return Conversion(IsInfinite(bool(get("detect_negative", 1)), bool(get("detect_positive", 1))))


def convert_is_nan(_operation: Operation) -> Conversion:
    """Convert `IsNaN`."""
    return Conversion(Unary(torch.isnan))


def convert_where(operation: Operation) -> Conversion:
    """Convert `Where`."""
    _refuse_strings(operation)
    return Conversion(Where(), (0, 1, 2))


CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(_BITWISE, convert_bitwise),
    **dict.fromkeys(_COMPARISONS, convert_comparison),
    **dict.fromkeys(_LOGICAL, convert_logical),
    "BitShift": convert_bit_shift,
    "BitwiseNot": convert_bitwise_not,
    "IsInf": convert_is_infinite,
    "IsNaN": convert_is_nan,
    "Not": convert_not,
    "Where": convert_where,
}
