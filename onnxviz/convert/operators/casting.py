"""Casts between element types, by value and by bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS, FLOATING, INTEGERS, integer_range, wrap
from onnxviz.convert.operators.operation import Conversion, Converter, Function, NotConvertible, Operation
from onnxviz.convert.operators.rounding import FORMATS, round_to_format, straight_through

_NATIVE: Mapping[int, torch.dtype] = {
    element: getattr(torch, kind)
    for name, kind in (
        ("FLOAT", "float32"), ("BOOL", "bool"), ("INT8", "int8"), ("INT16", "int16"), ("INT32", "int32"),
        ("INT64", "int64"), ("UINT8", "uint8"), ("UINT16", "uint16"), ("UINT32", "uint32"), ("UINT64", "uint64"),
        ("FLOAT8E4M3FN", "float8_e4m3fn"), ("FLOAT8E4M3FNUZ", "float8_e4m3fnuz"), ("FLOAT8E5M2", "float8_e5m2"),
        ("FLOAT8E5M2FNUZ", "float8_e5m2fnuz"), ("FLOAT8E8M0", "float8_e8m0fnu"),
    )
    if (element := getattr(TensorProto, name, None)) is not None and hasattr(torch, kind)
}  # fmt: skip
"""torch's own type of the same bits; float16 and the like are carried as float32, whose bits are others."""

_TWO_63 = 2.0**63


def to_float(values: torch.Tensor, source: int) -> torch.Tensor:
    """Cast to a floating type of float32 or wider than a byte."""
    if source == TensorProto.UINT64 and not values.is_floating_point():
        # In two halves: the carrier's highest bit is no sign.
        high = (values >> 1) & ((1 << 63) - 1)
        return (high.double() * 2 + (values & 1)).float()
    return values.float()


def to_narrow_float(values: torch.Tensor, source: int, target: int, saturate: bool, mode: str) -> torch.Tensor:
    """Cast to a floating type of a byte or less, carried as rounded float32."""
    return round_to_format(to_float(values, source), target, saturate, mode)


class ToInteger(nn.Module):
    """Cast to an integer type: cut off behind the point; of larger numbers the lower bits stay.

    Quantised values that are carried as float32 stay so with their gradient, and a cast of floating values to a byte or
    less is a quantisation, through which the gradient passes straight.

    Args:
        source: ONNX element type of the values; 0 if unknown.
        target: ONNX element type to cast to.
    """

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.source = source
        self.target = target
        self.carrier = CARRIERS[target]
        ours, theirs = integer_range(target), integer_range(source)
        self.fits = ours is not None and theirs is not None and ours[0] <= theirs[0] and theirs[1] <= ours[1]
        self.quantises = INTEGERS[target][0] <= 8

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not values.is_floating_point():
            return wrap(values.to(self.carrier), self.target)
        if self.fits:
            return values
        if self.source in INTEGERS or self.quantises:
            return straight_through(values, self._integers(values.detach()))
        return self._integers(values)

    def _integers(self, values: torch.Tensor) -> torch.Tensor:
        if self.target == TensorProto.UINT64:
            large = values >= _TWO_63
            low = torch.where(large, values - _TWO_63, values).long()
            return torch.where(large, low ^ -(1 << 63), low)
        return wrap(values.long(), self.target).to(self.carrier)


def to_boolean(values: torch.Tensor) -> torch.Tensor:
    """Cast to bool: whatever is not zero is true."""
    return values != 0


def bit_cast(values: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """Take the bits for another type."""
    native = _NATIVE[target]
    bits = values.to(_NATIVE[source]).view(torch.uint8 if native == torch.bool else native)
    return bits.to(CARRIERS[target])


def narrow_bit_cast(values: torch.Tensor, target: int) -> torch.Tensor:
    """Take two or four bits for the other of signed and unsigned."""
    return wrap(values.short(), target).to(CARRIERS[target])


def cast(source: int, target: int, saturate: bool = True, mode: str = "up") -> nn.Module:
    """Return the module that casts from one ONNX element type (0 if unknown) to another.

    Args:
        source: element type of the values.
        target: element type to cast to.
        saturate: whether narrow floating types clip what is too large.
        mode: rounding of FLOAT8E8M0.

    Raises:
        NotConvertible: if there is no tensor of one of the types.
    """
    if TensorProto.STRING in (source, target) or target not in CARRIERS:
        raise NotConvertible("strings are no tensors" if TensorProto.STRING in (source, target) else "unknown type")
    if target == TensorProto.BOOL:
        return Function(to_boolean)
    if target in INTEGERS:
        return ToInteger(source, target)
    if target not in FLOATING:
        raise NotConvertible("a cast to complex numbers")
    if target in FORMATS or target == TensorProto.FLOAT8E8M0:
        return Function(to_narrow_float, source=source, target=target, saturate=saturate, mode=mode)
    return nn.Identity() if source in FLOATING else Function(to_float, source=source)


def convert_cast(operation: Operation) -> Conversion:
    like = operation.operator == "CastLike"
    target = operation.element(1) if like else _element(operation.attributes.get("to", 0))
    if target == 0:
        raise NotConvertible("the type to cast to is unknown")
    saturate, mode = operation.setting("saturate", True), operation.setting("round_mode", "up")
    return Conversion(cast(operation.element(0), target, saturate, mode))


def _element(value: object) -> int:
    """Read the attribute `to`; 0 for a name, as opsets 1 to 5 spell it, that is no element type's."""
    return int(value) if isinstance(value, int) else 0


def convert_bit_cast(operation: Operation) -> Conversion:
    source, target = operation.element(0), _element(operation.attributes.get("to", 0))
    if source in INTEGERS and target in INTEGERS and INTEGERS[source][0] == INTEGERS[target][0] < 8:
        return Conversion(Function(narrow_bit_cast, target=target))
    if source not in _NATIVE or target not in _NATIVE:
        raise NotConvertible("the bits of this type are not kept")
    if _NATIVE[source].itemsize != _NATIVE[target].itemsize:
        raise NotConvertible("the bits of half and double precision are not kept: they are carried as float32")
    return Conversion(Function(bit_cast, source=source, target=target))


CONVERTERS: Mapping[str, Converter] = {
    "BitCast": convert_bit_cast,
    "Cast": convert_cast,
    "CastLike": convert_cast,
}
