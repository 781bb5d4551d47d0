"""Casts between element types, by value and by bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS, FLOATING, INTEGERS, integer_range, wrap
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
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


class ToFloat(nn.Module):
    """Cast to a floating type of float32 or wider than a byte."""

    def __init__(self, source: int) -> None:
        super().__init__()
        self.source = source

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Cast."""
        if self.source == TensorProto.UINT64 and not values.is_floating_point():
            # In two halves: the carrier's highest bit is no sign.
            high = (values >> 1) & ((1 << 63) - 1)
            return (high.double() * 2 + (values & 1)).float()
        return values.float()


class ToNarrowFloat(nn.Module):
    """Cast to a floating type of a byte or less, carried as rounded float32."""

    def __init__(self, source: int, target: int, saturate: bool, mode: str) -> None:
        super().__init__()
        self.cast = ToFloat(source)
        self.target = target
        self.saturate = saturate
        self.mode = mode

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Cast."""
        return round_to_format(self.cast(values), self.target, self.saturate, self.mode)


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
        """Cast."""
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


class ToBoolean(nn.Module):
    """Cast to bool: whatever is not zero is true."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Cast."""
        return values != 0


class BitCast(nn.Module):
    """Other type, same bits."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.source = _NATIVE[source]
        self.target = _NATIVE[target]
        self.carrier = CARRIERS[target]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take the bits for another type."""
        bits = values.to(self.source).view(torch.uint8 if self.target == torch.bool else self.target)
        return bits.to(self.carrier)


class NarrowBitCast(nn.Module):
    """The same bits of two or four as the other of signed and unsigned."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = target
        self.carrier = CARRIERS[target]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take the bits for the other type."""
        return wrap(values.short(), self.target).to(self.carrier)


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
        return ToBoolean()
    if target in INTEGERS:
        return ToInteger(source, target)
    if target not in FLOATING:
        raise NotConvertible("a cast to complex numbers")
    if target in FORMATS or target == TensorProto.FLOAT8E8M0:
        return ToNarrowFloat(source, target, saturate, mode)
    return nn.Identity() if source in FLOATING else ToFloat(source)


def convert_cast(operation: Operation) -> Conversion:
    """Convert `Cast` and `CastLike`."""
    like = operation.operator == "CastLike"
    target = operation.element(1) if like else _element(operation.attributes.get("to", 0))
    if target == 0:
        raise NotConvertible("the type to cast to is unknown")
    saturate = bool(operation.attributes.get("saturate", 1))
    return Conversion(cast(operation.element(0), target, saturate, operation.attributes.get("round_mode", "up")))


def _element(value: object) -> int:
    """Read the attribute `to`; 0 for a name, as opsets 1 to 5 spell it, that is no element type's."""
    return int(value) if isinstance(value, int) else 0


def convert_bit_cast(operation: Operation) -> Conversion:
    """Convert `BitCast`."""
    source, target = operation.element(0), _element(operation.attributes.get("to", 0))
    if source in INTEGERS and target in INTEGERS and INTEGERS[source][0] == INTEGERS[target][0] < 8:
        return Conversion(NarrowBitCast(target))
    if source not in _NATIVE or target not in _NATIVE:
        raise NotConvertible("the bits of this type are not kept")
    if _NATIVE[source].itemsize != _NATIVE[target].itemsize:
        raise NotConvertible("the bits of half and double precision are not kept: they are carried as float32")
    return Conversion(BitCast(source, target))


CONVERTERS: Mapping[str, Converter] = {
    "BitCast": convert_bit_cast,
    "Cast": convert_cast,
    "CastLike": convert_cast,
}
