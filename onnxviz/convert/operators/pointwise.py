"""Pointwise arithmetic, comparisons, logic and bits; integers as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import FLOATING, INTEGERS, sortable, wrap
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    by_function,
)

_Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

UNARY: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
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
        return wrap(self.function(first, self.aligned(first, second)), self.element)

    def aligned(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Give the second operand the axes of size 1 that NumPy's broadcasting needs."""
        if self.axis is None or second.dim() == 0:
            return second
        behind = first.dim() - self.axis % first.dim() - second.dim()
        return second.reshape(*second.shape, *(1,) * behind) if behind > 0 else second


class Division(Binary):
    """Division; of integers towards zero. Division by the integer zero, which ONNX leaves open, gives zero."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        second = self.aligned(first, second)
        if self.element in FLOATING or (self.element not in INTEGERS and first.is_floating_point()):
            return first / second
        quotient = unsigned_quotient if self.element == TensorProto.UINT64 else _truncated_quotient
        return wrap(_guarded(quotient, first, second), self.element)


class Comparison(Binary):
    """A comparison of two operands, also of uint64 as it is carried."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        second = self.aligned(first, second)
        return self.function(sortable(first, self.element), sortable(second, self.element))


class Power(Binary):
    """Power; the result has the type of the base."""

    def forward(self, base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
        exponent = self.aligned(base, exponent)
        if base.is_floating_point() or not exponent.is_floating_point():
            return torch.pow(base, exponent).to(base.dtype)
        return torch.pow(base.double(), exponent.double()).to(base.dtype)


def modulo(first: torch.Tensor, second: torch.Tensor, fmod: bool, element: int) -> torch.Tensor:
    """Remainder with the sign of the divisor, or of the dividend (`fmod`)."""
    function = torch.fmod if fmod else torch.remainder
    if first.is_floating_point() or second.is_floating_point():
        return function(first, second)
    if element == TensorProto.UINT64:
        return _guarded(lambda a, b: a - unsigned_quotient(a, b) * b, first, second)
    return _guarded(function, first, second)


def combine(*values: torch.Tensor, function: _Binary, element: int = 0, mean: bool = False) -> torch.Tensor:
    """Combine any number of operands, two by two.

    Args:
        values: the operands.
        function: of two of them.
        element: ONNX element type of the operands if they are compared, else 0.
        mean: whether the result is divided by the number of operands.
    """
    result = reduce(function, (sortable(value, element) for value in values))
    return sortable(result / len(values) if mean else result, element)


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


# --- bits and truth ---------------------------------------------------------------------------------------------------


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Take quantised values that are carried as floats as integers, which have bits."""
    return values.long() if values.is_floating_point() else values


def bitwise(first: torch.Tensor, second: torch.Tensor, function: _Binary) -> torch.Tensor:
    """Combine the bits of two operands."""
    return function(_bits(first), _bits(second))


def bitwise_not(values: torch.Tensor, element: int) -> torch.Tensor:
    """Invert all bits."""
    return wrap(torch.bitwise_not(_bits(values)), element)


def bit_shift(values: torch.Tensor, count: torch.Tensor, direction: str, element: int) -> torch.Tensor:
    """Shift by a number of bits; what is shifted out of the type, also by a negative number, leaves only the sign."""
    values, count = _bits(values), _bits(count)
    bits, signed = INTEGERS[element]
    outside = (count < 0) | (count >= bits)
    count = torch.where(outside, torch.zeros_like(count), count)
    if direction == "LEFT":
        return torch.where(outside, torch.zeros_like(values), wrap(values << count, element))
    shifted = values >> count
    if element == TensorProto.UINT64:
        # The carrier is signed: clear the copies of its uppermost bit; none is cleared by a shift of 0.
        kept = (torch.ones_like(values) << (63 - count)) - 1 + (torch.ones_like(values) << (63 - count))
        shifted = shifted & kept
    gone = (values < 0).to(values.dtype).neg() if signed else torch.zeros_like(values)
    return torch.where(outside, gone, shifted)


def is_infinite(values: torch.Tensor, detect_negative: bool, detect_positive: bool) -> torch.Tensor:
    """Whether values are infinite, of one sign or of both."""
    if detect_negative and detect_positive:
        return torch.isinf(values)
    if detect_negative:
        return torch.isneginf(values)
    return torch.isposinf(values) if detect_positive else torch.zeros_like(values, dtype=torch.bool)


def choose(condition: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """ONNX Where."""
    return torch.where(condition.bool(), first, second)


# --- converters -------------------------------------------------------------------------------------------------------


def _refuse_strings(operation: Operation) -> None:
    if TensorProto.STRING in operation.elements:
        raise NotConvertible("strings are no tensors")


def _unsigned_sign(values: torch.Tensor) -> torch.Tensor:
    return (values != 0).to(values.dtype)


def convert_unary(operation: Operation) -> Conversion:
    """Convert a function of one operand."""
    _, signed = INTEGERS.get(operation.element(0), (0, True))
    if not signed and operation.operator == "Abs":
        return Conversion(nn.Identity())
    if not signed and operation.operator == "Sign":
        return Conversion(Function(_unsigned_sign))
    return Conversion(Function(UNARY[operation.operator]))


_BINARY: Mapping[str, tuple[type[Binary], _Binary]] = {
    "Add": (Binary, torch.add),
    "And": (Binary, torch.logical_and),
    "Div": (Division, torch.div),
    "Equal": (Comparison, torch.eq),
    "Greater": (Comparison, torch.gt),
    "GreaterOrEqual": (Comparison, torch.ge),
    "Less": (Comparison, torch.lt),
    "LessOrEqual": (Comparison, torch.le),
    "Mul": (Binary, torch.mul),
    "Or": (Binary, torch.logical_or),
    "Pow": (Power, torch.pow),
    "Sub": (Binary, torch.sub),
    "Xor": (Binary, torch.logical_xor),
}


def convert_binary(operation: Operation) -> Conversion:
    """Convert a function of two operands.

    Until opset 6 `broadcast=1` with `axis` placed the second operand anywhere; without `axis` it lies at the end.
    """
    _refuse_strings(operation)
    kind, function = _BINARY[operation.operator]
    axis = operation.setting("axis", None) if operation.version < 7 else None
    return Conversion(kind(function, axis, operation.element(0)), (0, 1))


def convert_power(operation: Operation) -> Conversion:
    """Convert `Pow`, whose exponent is mostly one constant number."""
    exponent = operation.known(1)
    floating = operation.element(0) in FLOATING
    if floating and exponent is not None and exponent.size == 1 and exponent.ndim <= (operation.rank(0) or 0):
        return Conversion(Function(torch.pow, exponent=float(exponent.reshape(-1)[0])))
    return convert_binary(operation)


_NARY: Mapping[str, Mapping[str, Any]] = {
    "Max": {"function": torch.maximum},
    "Mean": {"function": torch.add, "mean": True},
    "Min": {"function": torch.minimum},
    "Sum": {"function": torch.add},
}


def convert_nary(operation: Operation) -> Conversion:
    """Convert `Max`, `Min`, `Sum` and `Mean` of any number of operands."""
    inputs = tuple(index for index, given in enumerate(operation.given) if given)
    if not inputs:
        raise NotConvertible(f"{operation.operator} of nothing")
    if len(inputs) == 1:
        return Conversion(nn.Identity(), inputs)
    compared = operation.element(inputs[0]) if operation.operator in ("Max", "Min") else 0
    return Conversion(Function(combine, element=compared, **_NARY[operation.operator]), inputs)


_BITWISE: Mapping[str, _Binary] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


def convert_bitwise(operation: Operation) -> Conversion:
    return Conversion(Function(bitwise, function=_BITWISE[operation.operator]), (0, 1))


def convert_bit_shift(operation: Operation) -> Conversion:
    if operation.element(0) not in INTEGERS:
        raise NotConvertible("the type of the bits to shift is unknown")
    return by_function(bit_shift, 2, element=True, direction="")(operation)


def convert_where(operation: Operation) -> Conversion:
    _refuse_strings(operation)
    return Conversion(Function(choose), (0, 1, 2))


CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(UNARY, convert_unary),
    **dict.fromkeys(_BINARY, convert_binary),
    **dict.fromkeys(_NARY, convert_nary),
    **dict.fromkeys(_BITWISE, convert_bitwise),
    "BitShift": convert_bit_shift,
    "BitwiseNot": by_function(bitwise_not, element=True),
    "Identity": lambda _operation: Conversion(nn.Identity()),
    "IsInf": by_function(is_infinite, detect_negative=True, detect_positive=True),
    "IsNaN": by_function(torch.isnan),
    "Mod": by_function(modulo, 2, element=True, fmod=False),
    "Not": by_function(torch.logical_not),
    "Pow": convert_power,
    "Where": convert_where,
}
