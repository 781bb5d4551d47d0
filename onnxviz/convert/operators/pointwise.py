"""Pointwise arithmetic: of one operand, of two, of many; integers as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import FLOATING, INTEGERS, sortable, wrap
from onnxviz.convert.operators.broadcasting import aligned, read_axis
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation

_Unary = Callable[[torch.Tensor], torch.Tensor]
_Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

UNARY: Mapping[str, _Unary] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}
"""Functions of one operand; `Round` takes ties to even, as ONNX does."""


class Unary(nn.Module):
    """A function of each element.

    Args:
        function: the function.
    """

    def __init__(self, function: _Unary) -> None:
        super().__init__()
        self.function = function

    def extra_repr(self) -> str:
        """Name the function."""
        return getattr(self.function, "__name__", "")

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Apply the function."""
        return self.function(values)


class Binary(nn.Module):
    """A function of two operands, element by element.

    Args:
        function: the function.
        axis: axis of the first operand at which the second one begins (opsets 1 to 6); None for NumPy's broadcasting.
        element: ONNX element type of the result, if it may overflow.
    """

    def __init__(self, function: _Binary, axis: int | None = None, element: int = 0) -> None:
        super().__init__()
        self.function = function
        self.axis = axis
        self.element = element

    def extra_repr(self) -> str:
        """Name the function."""
        return getattr(self.function, "__name__", "")

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Apply the function."""
        return wrap(self.function(first, aligned(second, first.dim(), self.axis)), self.element)


class Division(Binary):
    """Division; of integers towards zero. Division by the integer zero, which ONNX leaves open, gives zero."""

    def __init__(self, axis: int | None, element: int) -> None:
        super().__init__(torch.div, axis, element)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Divide."""
        second = aligned(second, first.dim(), self.axis)
        if self.element in FLOATING or (self.element not in INTEGERS and first.is_floating_point()):
            return first / second
        quotient = unsigned_quotient if self.element == TensorProto.UINT64 else _truncated_quotient
        return wrap(_guarded(quotient, first, second), self.element)


class Modulo(Binary):
    """Remainder with the sign of the divisor, or of the dividend (`fmod`)."""

    def __init__(self, axis: int | None, element: int, truncated: bool) -> None:
        super().__init__(torch.fmod if truncated else torch.remainder, axis, element)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compute the remainder."""
        if first.is_floating_point() or second.is_floating_point():
            return self.function(first, second)
        if self.element == TensorProto.UINT64:
            return _guarded(lambda a, b: a - unsigned_quotient(a, b) * b, first, second)
        return _guarded(self.function, first, second)


class Power(nn.Module):
    """Power; the result has the type of the base.

    Args:
        axis: as for `Binary`.
        exponent: the exponent if it is one constant number.
    """

    def __init__(self, axis: int | None, exponent: float | None) -> None:
        super().__init__()
        self.axis = axis
        self.exponent = exponent

    def forward(self, base: torch.Tensor, exponent: torch.Tensor | None = None) -> torch.Tensor:
        """Raise the base."""
        if exponent is None:
            assert self.exponent is not None
            return torch.pow(base, self.exponent)
        exponent = aligned(exponent, base.dim(), self.axis)
        if base.is_floating_point() or not exponent.is_floating_point():
            return torch.pow(base, exponent).to(base.dtype)
        return torch.pow(base.double(), exponent.double()).to(base.dtype)


class Nary(nn.Module):
    """A function of any number of operands, two by two; the mean divides by their number at the end.

    Args:
        function: the function of two.
        element: ONNX element type of the operands if they are compared, else 0.
        mean: whether the result is divided by the number of operands.
    """

    def __init__(self, function: _Binary, element: int, mean: bool = False) -> None:
        super().__init__()
        self.function = function
        self.element = element
        self.mean = mean

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Combine the operands."""
        result = reduce(self.function, (sortable(value, self.element) for value in values))
        return sortable(result / len(values) if self.mean else result, self.element)


def unsigned_quotient(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Divide uint64 numbers that are carried by the same bits as int64.

    The quotient of the halved dividend, doubled, is at most one too small; a divisor of 2^63 or more fits at most once
    (Warren, "Hacker's Delight", 2nd edition, section 9-3).
    """
    halved = (first >> 1) & ((1 << 63) - 1)
    divisor = torch.where(second > 0, second, torch.ones_like(second))
    quotient = torch.div(halved, divisor, rounding_mode="trunc") << 1
    rest = first - quotient * divisor
    uint64 = TensorProto.UINT64
    quotient = quotient + (sortable(rest, uint64) >= sortable(divisor, uint64))
    once = sortable(first, uint64) >= sortable(second, uint64)
    return torch.where(second > 0, quotient, once.to(first.dtype))


def _truncated_quotient(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.div(first, second, rounding_mode="trunc")


def _guarded(function: _Binary, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute with integers so that a divisor of zero gives zero and stops nothing."""
    zero = second == 0
    result = function(first, torch.where(zero, torch.ones_like(second), second))
    return torch.where(zero, torch.zeros_like(result), result)


def convert_identity(_operation: Operation) -> Conversion:
    """Convert `Identity` of a tensor."""
    return Conversion(nn.Identity())


def convert_unary(operation: Operation) -> Conversion:
    """Convert a function of one operand."""
    _, signed = INTEGERS.get(operation.element(0), (0, True))
    if not signed and operation.operator == "Abs":
        return Conversion(nn.Identity())
    if not signed and operation.operator == "Sign":
        return Conversion(Unary(_unsigned_sign))
    return Conversion(Unary(UNARY[operation.operator]))


def _unsigned_sign(values: torch.Tensor) -> torch.Tensor:
    return (values != 0).to(values.dtype)


_ARITHMETIC: Mapping[str, _Binary] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}


def convert_arithmetic(operation: Operation) -> Conversion:
    """Convert `Add`, `Sub` and `Mul`."""
    return Conversion(Binary(_ARITHMETIC[operation.operator], read_axis(operation), operation.element(0)), (0, 1))


def convert_division(operation: Operation) -> Conversion:
    """Convert `Div`."""
    return Conversion(Division(read_axis(operation), operation.element(0)), (0, 1))


def convert_modulo(operation: Operation) -> Conversion:
    """Convert `Mod`."""
    return Conversion(Modulo(None, operation.element(0), bool(operation.attributes.get("fmod", 0))), (0, 1))


def convert_power(operation: Operation) -> Conversion:
    """Convert `Pow`."""
    exponent = operation.known(1)
    floating = operation.element(0) in FLOATING
    if floating and exponent is not None and exponent.size == 1 and exponent.ndim <= (operation.rank(0) or 0):
        return Conversion(Power(None, float(exponent.reshape(-1)[0])))
    return Conversion(Power(read_axis(operation), None), (0, 1))


_NARY: Mapping[str, _Binary] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add, "Mean": torch.add}


def convert_nary(operation: Operation) -> Conversion:
    """Convert `Max`, `Min`, `Sum` and `Mean` of any number of operands."""
    inputs = tuple(index for index, given in enumerate(operation.given) if given)
    if not inputs:
        raise NotConvertible(f"{operation.operator} of nothing")
    if len(inputs) == 1:
        return Conversion(nn.Identity(), inputs)
    compared = operation.element(inputs[0]) if operation.operator in ("Max", "Min") else 0
    return Conversion(Nary(_NARY[operation.operator], compared, operation.operator == "Mean"), inputs)


CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(UNARY, convert_unary),
    "Add": convert_arithmetic,
    "Div": convert_division,
    "Identity": convert_identity,
    "Max": convert_nary,
    "Mean": convert_nary,
    "Min": convert_nary,
    "Mod": convert_modulo,
    "Mul": convert_arithmetic,
    "Pow": convert_power,
    "Sub": convert_arithmetic,
    "Sum": convert_nary,
}
