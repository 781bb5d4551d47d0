"""Shape arithmetic in Python numbers.

Exporters write "the batch size times whatever is left" as a chain of Shape, Gather, Mul, Concat. A tensor's shape is
known to Python anyway, so the chain is computed there, as an `int` or a tuple of them: nothing is sent to the device,
nothing waits for it, and torch.compile sees numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Number = int | float | bool
Numbers = Number | tuple[Number, ...]
"""What a scalar or a vector of a shape computation is."""


def from_array(array: np.ndarray) -> Numbers | None:
    """Turn a constant into numbers; None if it is no scalar or vector."""
    if array.ndim > 1 or array.size > 64 or array.dtype.kind not in "iufb":
        return None
    values: Any = array.tolist()
    return tuple(values) if isinstance(values, list) else values


def to_tensor(numbers: Numbers, like: torch.Tensor) -> torch.Tensor:
    """Turn numbers into a tensor on the device of another, for an operator that computes with them."""
    first = numbers[0] if isinstance(numbers, tuple) and numbers else numbers
    kind = torch.float32 if isinstance(first, float) else torch.bool if isinstance(first, bool) else torch.int64
    return torch.tensor(numbers, dtype=kind, device=like.device)


def shape_of(values: torch.Tensor, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    """ONNX Shape."""
    return tuple(values.shape)[start:end]


def size_of(values: torch.Tensor) -> int:
    """ONNX Size."""
    return math.prod(values.shape)


def gather(numbers: Sequence[Number], index: Numbers) -> Numbers:
    """ONNX Gather from a vector."""
    return tuple(numbers[int(i)] for i in index) if isinstance(index, tuple) else numbers[int(index)]


def concatenate(*parts: Sequence[Number]) -> Numbers:
    """ONNX Concat of vectors."""
    return tuple(number for part in parts for number in part)


def select(
    numbers: Sequence[Number], start: Sequence[int], end: Sequence[int], _axes: Any = None, step: Sequence[int] = (1,)
) -> Numbers:
    """ONNX Slice of a vector."""
    return tuple(numbers[start[0] : end[0] : step[0]])


def as_vector(number: Numbers, _axes: Any = None) -> Numbers:
    """ONNX Unsqueeze of a scalar."""
    if isinstance(number, tuple):
        raise TypeError("a matrix of numbers is no shape")
    return (number,)


def as_scalar(numbers: Sequence[Number], _axes: Any = None) -> Numbers:
    """ONNX Squeeze of a vector of one."""
    (number,) = numbers
    return number


def same(numbers: Numbers, *_: Any) -> Numbers:
    """ONNX Identity."""
    return numbers


def as_integers(numbers: Numbers) -> Numbers:
    """ONNX Cast to an integer type."""
    return tuple(int(n) for n in numbers) if isinstance(numbers, tuple) else int(numbers)


def as_floats(numbers: Numbers) -> Numbers:
    """ONNX Cast to a floating type."""
    return tuple(float(n) for n in numbers) if isinstance(numbers, tuple) else float(numbers)


def product(numbers: Numbers, *_: Any) -> Numbers:
    """ONNX ReduceProd of a vector to a scalar."""
    return math.prod(numbers) if isinstance(numbers, tuple) else numbers


def reshape(numbers: Numbers, shape: Sequence[int]) -> Numbers:
    """ONNX Reshape between a scalar and a vector."""
    flat = numbers if isinstance(numbers, tuple) else (numbers,)
    if len(shape) > 1:
        raise TypeError("a matrix of numbers is no shape")
    if not shape:
        (number,) = flat
        return number
    return flat


def _pairwise(function: Callable[[Any, Any], Number]) -> Callable[[Numbers, Numbers], Numbers]:
    def apply(first: Numbers, second: Numbers) -> Numbers:
        if not isinstance(first, tuple) and not isinstance(second, tuple):
            return function(first, second)
        left = first if isinstance(first, tuple) else (first,)
        right = second if isinstance(second, tuple) else (second,)
        length = max(len(left), len(right)) if left and right else 0
        left, right = (side * length if len(side) == 1 else side for side in (left, right))
        return tuple(function(a, b) for a, b in zip(left, right, strict=True))

    return apply


def _divide(first: Any, second: Any) -> Number:
    if isinstance(first, float) or isinstance(second, float):
        return float(first) / float(second)
    quotient = abs(first) // abs(second)
    return int(quotient if (first >= 0) == (second >= 0) else -quotient)


add = _pairwise(operator.add)
"""ONNX Add."""
subtract = _pairwise(operator.sub)
"""ONNX Sub."""
multiply = _pairwise(operator.mul)
"""ONNX Mul."""
divide = _pairwise(_divide)
"""ONNX Div; integers towards zero."""
minimum = _pairwise(min)
"""ONNX Min of two."""
maximum = _pairwise(max)
"""ONNX Max of two."""


def _each(function: Callable[[Any], Number]) -> Callable[[Numbers], Numbers]:
    def apply(numbers: Numbers) -> Numbers:
        return tuple(function(n) for n in numbers) if isinstance(numbers, tuple) else function(numbers)

    return apply


floor = _each(lambda number: float(math.floor(number)))
"""ONNX Floor."""
ceiling = _each(lambda number: float(math.ceil(number)))
"""ONNX Ceil."""

FUNCTIONS: dict[str, Callable[..., Numbers]] = {
    "Add": add,
    "Ceil": ceiling,
    "Concat": concatenate,
    "Div": divide,
    "Floor": floor,
    "Gather": gather,
    "Identity": same,
    "Max": maximum,
    "Min": minimum,
    "Mul": multiply,
    "ReduceProd": product,
    "Reshape": reshape,
    "Slice": select,
    "Squeeze": as_scalar,
    "Sub": subtract,
    "Unsqueeze": as_vector,
}
"""What can be computed with numbers, by ONNX operator; Cast is chosen by its type."""
