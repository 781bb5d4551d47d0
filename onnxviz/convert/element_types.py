"""Which torch type carries a value of an ONNX element type.

Every floating type is carried as float32 (`graph.passes.to_float32` says why); the narrow ones (float 8, float 4) hold
rounded numbers. Unsigned integers that torch computes little with are carried by a wider signed type, and `wrap` brings
results of arithmetic back into range. A quantised value that gradients pass through is carried as float32 too: whoever
reads an integer tensor must not rely on its torch type.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto

CARRIERS: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float32,
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    **{
        getattr(TensorProto, name): torch.float32
        for name in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "FLOAT4E2M1")
        if hasattr(TensorProto, name)
    },
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    **{
        getattr(TensorProto, name): torch.int8 if name.startswith("INT") else torch.uint8
        for name in ("INT4", "UINT4", "INT2", "UINT2")
        if hasattr(TensorProto, name)
    },
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

_BITS = {
    element: (bits, signed)
    for name, bits, signed in (
        ("UINT16", 16, False), ("UINT32", 32, False), ("INT4", 4, True), ("UINT4", 4, False), ("INT2", 2, True),
        ("UINT2", 2, False),
    )
    if (element := getattr(TensorProto, name, None)) is not None
}  # fmt: skip


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
        array = array.astype(np.uint64).view(np.int64) if array.ndim else np.asarray(array).astype(np.int64)
    carrier = CARRIERS.get(element)
    if carrier is None:
        raise TypeError("strings are no tensors")
    kind = str(carrier).removeprefix("torch.")
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(np.array(array.astype(kind)))


def wrap(values: torch.Tensor, element: int) -> torch.Tensor:
    """Bring the result of integer arithmetic into the range of its element type, as overflow would."""
    if element not in _BITS or values.is_floating_point():
        return values
    bits, signed = _BITS[element]
    values = values & ((1 << bits) - 1)
    if signed:
        values = torch.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values
