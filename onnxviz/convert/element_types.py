"""Which torch type carries a value of an ONNX element type.

Every floating type is carried as float32 (`graph.passes.to_float32` says why); the narrow ones (float 8, float 4) hold
rounded numbers. Unsigned integers that torch computes little with are carried by a wider signed type, and `wrap` brings
results of arithmetic back into range; uint64 is carried by int64 of the same bits, and `sortable` gives back its order.
A quantised value that gradients pass through is carried as float32 too: whoever
reads an integer tensor must not rely on its torch type.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto

_FLOATING = (
    "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ",
    "FLOAT8E8M0", "FLOAT6E2M3", "FLOAT6E3M2", "FLOAT4E2M1",
)  # fmt: skip


def _elements(*names: str) -> tuple[int, ...]:
    """Return those of some element types that the installed onnx has."""
    return tuple(int(getattr(TensorProto, name)) for name in names if hasattr(TensorProto, name))


FLOATING = frozenset(_elements(*_FLOATING))
"""Element types that are floating; all are carried as float32."""

CARRIERS: Mapping[int, torch.dtype] = {
    **dict.fromkeys(_elements(*_FLOATING), torch.float32),
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    **dict.fromkeys(_elements("INT4", "INT2"), torch.int8),
    **dict.fromkeys(_elements("UINT4", "UINT2"), torch.uint8),
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex64,
}
"""torch type by ONNX element type; strings have none."""

PLAIN = frozenset(
    [
        TensorProto.FLOAT,
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
    ]
)
"""Element types that are carried as they are."""

INTEGERS: Mapping[int, tuple[int, bool]] = {
    element: (bits, signed)
    for name, bits, signed in (
        ("INT2", 2, True), ("INT4", 4, True), ("INT8", 8, True), ("INT16", 16, True), ("INT32", 32, True),
        ("INT64", 64, True), ("UINT2", 2, False), ("UINT4", 4, False), ("UINT8", 8, False), ("UINT16", 16, False),
        ("UINT32", 32, False), ("UINT64", 64, False),
    )
    for element in _elements(name)
}  # fmt: skip
"""Number of bits of an integer element type, and whether it has a sign."""

_NATIVE = frozenset(_elements("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT64"))
"""Integers whose carriers overflow as they do."""

_SIGN = -(1 << 63)


def accept(values: torch.Tensor, carrier: torch.dtype) -> torch.Tensor:
    """Take an argument of a network in the type that carries it; floating values of integers keep their gradients."""
    if values.dtype == carrier or (values.is_floating_point() and not carrier.is_floating_point):
        return values
    return values.to(carrier)


def to_carrier(array: np.ndarray, element: int) -> torch.Tensor:
    """Turn a constant of an ONNX element type into a tensor of its carrier.

    Raises:
        TypeError: if no tensor can hold it (strings).
    """
    if element == TensorProto.UINT64:
        array = np.asarray(array, np.uint64).view(np.int64)
    carrier = CARRIERS.get(element)
    if carrier is None:
        raise TypeError("strings are no tensors")
    kind = str(carrier).removeprefix("torch.")
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(np.array(array.astype(kind)))


def integer_range(element: int) -> tuple[int, int] | None:
    """Return the smallest and largest number of an integer element type, or None if it is none."""
    if element not in INTEGERS:
        return None
    bits, signed = INTEGERS[element]
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def wrap(values: torch.Tensor, element: int) -> torch.Tensor:
    """Bring the result of integer arithmetic into the range of its element type, as overflow would."""
    if element in _NATIVE or element not in INTEGERS or values.is_floating_point():
        return values
    bits, signed = INTEGERS[element]
    values = values & ((1 << bits) - 1)
    if signed:
        values = torch.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values


def sortable(values: torch.Tensor, element: int) -> torch.Tensor:
    """Map the carriers of uint64 so that signed comparison finds the unsigned order; its own inverse.

    All other element types stay as they are.
    """
    return values ^ _SIGN if element == TensorProto.UINT64 and not values.is_floating_point() else values
