"""What a few bytes of a file may ask for: tensors made out of nothing are bounded before they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxviz.core import limits
from onnxviz.core.errors import ModelError


def bounded(shape: Sequence[int], operator: str, item: int = 4) -> tuple[int, ...]:
    """Return a shape, unless a tensor of it would be too large.

    Args:
        shape: the shape of what an operator is about to make.
        operator: its name, for the message.
        item: bytes of one element.

    Raises:
        ModelError: above `limits.TENSOR_BYTES`, or if a size is negative.
    """
    sizes = tuple(shape)
    if math.prod(sizes) * item > limits.TENSOR_BYTES:
        raise ModelError(
            f"{operator} asks for a tensor of {' × '.join(map(str, sizes))} elements, "
            f"above the bound of {limits.TENSOR_BYTES >> 30} GiB",
            remedy="use a smaller image, or check where the model comes from",
        )
    if any(size < 0 for size in sizes):
        raise ModelError(f"{operator} asks for a tensor of a negative size", remedy="use a larger image")
    return sizes
