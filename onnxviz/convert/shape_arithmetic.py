"""Shape arithmetic in Python numbers.

Exporters write "the batch size times whatever is left" as a chain of Shape, Gather, Mul, Concat. A tensor's shape is
known to Python anyway, so the chain is computed there: a scalar is a number, a vector a tuple, a matrix a tuple of
tuples. Nothing is sent to the device, nothing waits for it, and torch.compile sees numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from onnxviz.core.errors import ModelError

Number = int | float | bool
Numbers = Number | tuple["Numbers", ...]
"""What a shape computation computes: a number, or tuples of them."""

_LARGEST = 1.7976931348623157e308
LONGEST = 64
"""Shapes are short; what is longer is data."""

# --- between arrays, tensors and numbers ------------------------------------------------------------------------------


def from_array(array: np.ndarray, longest: int = LONGEST) -> Numbers | None:
    """Turn a constant into numbers; None if it is no scalar, vector or matrix, or a long one."""
    if array.ndim > 2 or array.size > longest or array.dtype.kind not in "iufb" or (array.ndim == 2 and not array.size):
        return None
    return _frozen(array.tolist())


def _frozen(values: Any) -> Numbers:
    return tuple(_frozen(value) for value in values) if isinstance(values, list) else values


def to_tensor(numbers: Numbers, like: torch.Tensor, kind: torch.dtype | None = None) -> torch.Tensor:
    """Turn numbers into a tensor on the device of another, for an operator that computes with them."""
    flat, shape = _flat(numbers), dimensions(numbers)
    if kind is None:
        first = flat[0] if flat else 0
        kind = torch.float32 if isinstance(first, float) else torch.bool if isinstance(first, bool) else torch.int64
    if like.device.type == "cpu" or not flat:
        return torch.tensor(flat, dtype=kind, device=like.device).reshape(shape)
    # A copy from the host would wait for the device; filling does not.
    return torch.stack([torch.full((), number, dtype=kind, device=like.device) for number in flat]).reshape(shape)


def dimensions(numbers: Numbers) -> tuple[int, ...]:
    """Return the shape of what numbers stand for."""
    shape = []
    while isinstance(numbers, tuple):
        shape.append(len(numbers))
        if not numbers:
            break
        numbers = numbers[0]
    return tuple(shape)


def _flat(numbers: Numbers) -> list[Any]:
    if not isinstance(numbers, tuple):
        return [numbers]
    return [number for part in numbers for number in _flat(part)]


def _nested(flat: Sequence[Any], shape: Sequence[int]) -> Numbers:
    if not shape:
        return flat[0]  # type: ignore[no-any-return]
    step = math.prod(shape[1:])
    return tuple(_nested(flat[step * index : step * (index + 1)], shape[1:]) for index in range(shape[0]))


def _offset(index: Sequence[int], shape: Sequence[int]) -> int:
    """Return where an index lies in the flat list; axes of size 1 are repeated."""
    offset = 0
    for place, size in zip(index, shape, strict=True):
        offset = offset * size + (place if size > 1 else 0)
    return offset


def _indices(shape: Sequence[int]) -> list[tuple[int, ...]]:
    return list(product(*[range(size) for size in shape]))


def finite(number: Any) -> bool:
    """Whether a number is neither infinite nor NaN; by comparison, which torch.compile can follow."""
    return bool(-_LARGEST <= number <= _LARGEST)


def single(number: Any) -> Any:
    """Round a floating number to single precision, which is what the tensors of a model have, ties to even.

    By arithmetic alone, so that torch.compile can follow: added to a number so large that its last bit is the last
    that single precision keeps, the rest is rounded off.
    """
    if not isinstance(number, float) or number == 0 or not finite(number):
        return number
    size, above = abs(number), 1.0
    while size >= above:
        above *= 2
    while size < above / 2 and above > 2.0**-125:
        above /= 2
    large = 1.5 * 2.0**28 * above if above < 2.0**900 else 0.0
    rounded = (number + large) - large
    return rounded if finite(rounded * 2.0**896) else rounded * math.inf


# --- sources ----------------------------------------------------------------------------------------------------------


def shape_of(values: torch.Tensor, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    """ONNX Shape."""
    return tuple(values.shape)[start:end]


def size_of(values: torch.Tensor) -> int:
    """ONNX Size."""
    return math.prod(values.shape)


def shape_of_numbers(numbers: Numbers, start: int = 0, end: int | None = None) -> tuple[int, ...]:
    """ONNX Shape of numbers."""
    return dimensions(numbers)[start:end]


def size_of_numbers(numbers: Numbers) -> int:
    """ONNX Size of numbers."""
    return math.prod(dimensions(numbers))


# --- arrangement ------------------------------------------------------------------------------------------------------


def same(numbers: Numbers, *_: Any) -> Numbers:
    """ONNX Identity."""
    return numbers


def gather(numbers: Numbers, index: Numbers, axis: int = 0) -> Numbers:
    """ONNX Gather."""
    if isinstance(numbers, tuple) and not isinstance(index, tuple) and axis in (0, -len(dimensions(numbers))):
        return numbers[int(index)]
    shape = dimensions(numbers)
    axis %= len(shape)
    flat, places, inner = _flat(numbers), [int(place) % shape[axis] for place in _flat(index)], dimensions(index)
    made = shape[:axis] + inner + shape[axis + 1 :]
    depth = len(inner)
    taken = []
    for at in _indices(made):
        place = places[_offset(at[axis : axis + depth], inner)]
        taken.append(flat[_offset((*at[:axis], place, *at[axis + depth :]), shape)])
    return _nested(taken, made)


def gather_elements(numbers: tuple[Numbers, ...], index: tuple[Numbers, ...]) -> Numbers:
    """ONNX GatherElements of a vector."""
    return tuple(numbers[int(place)] for place in index)  # type: ignore[arg-type]


def concatenate(axis: int, *parts: tuple[Numbers, ...]) -> Numbers:
    """ONNX Concat of vectors, or of matrices."""
    if axis not in (0, -len(dimensions(parts[0]))):
        return tuple(tuple(number for part in row for number in part) for row in zip(*parts, strict=True))
    return tuple(number for part in parts for number in part)


def select(numbers: Numbers, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Numbers:
    """ONNX Slice."""
    shape = dimensions(numbers)
    places = tuple(range(len(starts))) if axes is None else axes
    taken = [list(range(size)) for size in shape]
    for number, axis in enumerate(places):
        step = 1 if steps is None else int(steps[number])
        taken[int(axis) % len(shape)] = list(
            range(shape[int(axis) % len(shape)])[slice(int(starts[number]), int(ends[number]), step)]
        )
    flat = _flat(numbers)
    chosen = [flat[_offset(at, shape)] for at in product(*taken)]
    return _nested(chosen, [len(part) for part in taken])


def unsqueeze(numbers: Numbers, axes: Any) -> Numbers:
    """ONNX Unsqueeze."""
    shape, axes = dimensions(numbers), _flat(axes)
    rank = len(shape) + len(axes)
    new = [int(axis) % rank for axis in axes]
    rest = list(shape)
    return _nested(_flat(numbers), [1 if axis in new else rest.pop(0) for axis in range(rank)])


def squeeze(numbers: Numbers, axes: Any = None) -> Numbers:
    """ONNX Squeeze."""
    shape = dimensions(numbers)
    gone = [int(axis) % len(shape) for axis in _flat(axes)] if axes is not None else range(len(shape))
    kept = [size for axis, size in enumerate(shape) if size != 1 or axis not in gone]
    return _nested(_flat(numbers), kept)


def reshape(numbers: Numbers, shape: Any, keep_zero: bool = False) -> Numbers:
    """ONNX Reshape."""
    flat, before = _flat(numbers), dimensions(numbers)
    wanted = [before[place] if size == 0 and not keep_zero else int(size) for place, size in enumerate(shape)]
    if -1 in wanted:
        known = -math.prod(wanted)
        wanted[wanted.index(-1)] = len(flat) // known if known else 0
    return _nested(flat, wanted)


def transpose(numbers: Numbers, order: Sequence[int] | None = None) -> Numbers:
    """ONNX Transpose."""
    shape, flat = dimensions(numbers), _flat(numbers)
    order = tuple(reversed(range(len(shape)))) if order is None else order
    made = [shape[axis] for axis in order]
    taken = []
    for at in _indices(made):
        source = [0] * len(shape)
        for place, axis in zip(at, order, strict=True):
            source[axis] = place
        taken.append(flat[_offset(source, shape)])
    return _nested(taken, made)


def expand(numbers: Numbers, shape: Any) -> Numbers:
    """ONNX Expand."""
    return _broadcast(lambda first, _: first, numbers, _nested([0] * math.prod(shape), [int(size) for size in shape]))


def tile(numbers: Numbers, repeats: Any) -> Numbers:
    """ONNX Tile."""
    shape, flat = dimensions(numbers), _flat(numbers)
    made = [size * int(count) for size, count in zip(shape, repeats, strict=True)]
    wrapped = [[place % size for place, size in zip(at, shape, strict=True)] for at in _indices(made)]
    return _nested([flat[_offset(at, shape)] for at in wrapped], made)


def split(numbers: Numbers, sizes: Any, axis: int, count: int) -> tuple[Numbers, ...]:
    """ONNX Split; in equal parts if no sizes are given."""
    shape = dimensions(numbers)
    if sizes is None:
        each = -(-shape[axis] // count)
        sizes = [min(each, max(shape[axis] - index * each, 0)) for index in range(count)]
    parts, start = [], 0
    for size in sizes:
        parts.append(select(numbers, (start,), (start + int(size),), (axis,)))
        start += int(size)
    return tuple(parts)


def part(parts: tuple[Numbers, ...], index: int) -> Numbers:
    """Take one output of several."""
    return parts[index]


def scatter(numbers: tuple[Numbers, ...], index: Any, updates: Any, reduction: str = "none") -> Numbers:
    """ONNX ScatterElements, and ScatterND, into a vector."""
    result = list(numbers)
    combine: Callable[[Any, Any], Any] = _REDUCTIONS.get(reduction, lambda _, update: update)
    for place, update in zip(_flat(index), _flat(updates), strict=True):
        result[int(place)] = combine(result[int(place)], update)
    return tuple(result)


def fill(shape: Any, value: Number) -> Numbers:
    """ONNX ConstantOfShape."""
    return _nested([value] * math.prod(shape), [int(size) for size in shape])


def count(start: Any, limit: Any, delta: Any) -> Numbers:
    """ONNX Range."""
    length = max(math.ceil((limit - start) / delta), 0)
    return tuple(single(start + index * delta) for index in range(length))


# --- casts ------------------------------------------------------------------------------------------------------------


def _each(function: Callable[[Any], Number]) -> Callable[[Numbers], Numbers]:
    def apply(numbers: Numbers) -> Numbers:
        return tuple(apply(number) for number in numbers) if isinstance(numbers, tuple) else function(numbers)

    return apply


def _integer(number: Any) -> int:
    return int(number) if not isinstance(number, float) or finite(number) else -(1 << 63)


as_integers = _each(_integer)
"""ONNX Cast to an integer type."""
as_floats = _each(lambda number: single(float(number)))
"""ONNX Cast to a floating type."""
as_truths = _each(bool)
"""ONNX Cast to a truth value."""


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _broadcast(function: Callable[[Any, Any], Any], first: Numbers, second: Numbers) -> Numbers:
    if not isinstance(first, tuple) and not isinstance(second, tuple):
        return function(first, second)  # type: ignore[no-any-return]
    left, right = dimensions(first), dimensions(second)
    rank = max(len(left), len(right))
    left, right = (1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right
    made = [b if a == 1 else a for a, b in zip(left, right, strict=True)]
    one, two = _flat(first), _flat(second)
    return _nested([function(one[_offset(at, left)], two[_offset(at, right)]) for at in _indices(made)], made)


def _pairwise(function: Callable[[Any, Any], Any]) -> Callable[..., Numbers]:
    def apply(first: Numbers, *others: Numbers) -> Numbers:
        for other in others:
            first = _broadcast(lambda a, b: single(function(a, b)), first, other)
        return first

    return apply


def _divide(first: Any, second: Any) -> Number:
    if isinstance(first, float) or isinstance(second, float):
        if second == 0:
            return float(first) * math.inf  # 0 / 0 is no number
        return float(first) / float(second)
    if second == 0:
        raise ModelError("the model divides a size by zero", remedy="try another size of the input")
    quotient = abs(first) // abs(second)
    return int(quotient if (first >= 0) == (second >= 0) else -quotient)


def _power(base: Any, exponent: Any) -> Number:
    try:
        result = math.pow(base, exponent) if isinstance(base, float) or exponent < 0 else base**exponent
    except (ValueError, OverflowError, ZeroDivisionError):
        return math.nan if isinstance(base, float) else 0
    return float(result) if isinstance(base, float) else int(result)


def _modulo(first: Any, second: Any) -> Number:
    if second == 0:
        raise ModelError("the model takes a size modulo zero", remedy="try another size of the input")
    result: Number = first % second
    return result


def _remainder(first: Any, second: Any) -> Number:
    if isinstance(first, float) or isinstance(second, float):
        return math.fmod(first, second) if second else math.nan
    return int(first - second * _divide(first, second))


add = _pairwise(operator.add)
"""ONNX Add and Sum."""
subtract = _pairwise(operator.sub)
"""ONNX Sub."""
multiply = _pairwise(operator.mul)
"""ONNX Mul."""
divide = _pairwise(_divide)
"""ONNX Div; integers towards zero."""
modulo = _pairwise(_modulo)
"""ONNX Mod with the sign of the divisor."""
remainder = _pairwise(_remainder)
"""ONNX Mod with the sign of the dividend (fmod)."""
power = _pairwise(_power)
"""ONNX Pow."""
minimum = _pairwise(min)
"""ONNX Min."""
maximum = _pairwise(max)
"""ONNX Max."""
equal = _pairwise(operator.eq)
"""ONNX Equal."""
greater = _pairwise(operator.gt)
"""ONNX Greater."""
greater_or_equal = _pairwise(operator.ge)
"""ONNX GreaterOrEqual."""
less = _pairwise(operator.lt)
"""ONNX Less."""
less_or_equal = _pairwise(operator.le)
"""ONNX LessOrEqual."""
both = _pairwise(lambda first, second: bool(first and second))
"""ONNX And."""
either = _pairwise(lambda first, second: bool(first or second))
"""ONNX Or."""
one_of = _pairwise(lambda first, second: bool(first) != bool(second))
"""ONNX Xor."""

floor = _each(lambda number: float(math.floor(number)) if finite(number) else number)
"""ONNX Floor."""
ceiling = _each(lambda number: float(math.ceil(number)) if finite(number) else number)
"""ONNX Ceil."""
nearest = _each(lambda number: float(round(number)) if finite(number) else number)
"""ONNX Round: ties to even."""
negate = _each(operator.neg)
"""ONNX Neg."""
absolute = _each(abs)
"""ONNX Abs."""
opposite = _each(operator.not_)
"""ONNX Not."""
sign = _each(lambda number: type(number)((number > 0) - (number < 0)))
"""ONNX Sign."""
square_root = _each(lambda number: single(math.sqrt(number)) if number >= 0 else math.nan)
"""ONNX Sqrt."""
reciprocal = _each(lambda number: single(_divide(1.0, number)))
"""ONNX Reciprocal."""


def choose(condition: Numbers, first: Numbers, second: Numbers) -> Numbers:
    """ONNX Where."""
    pairs = _broadcast(lambda a, b: _Pair(a, b), first, second)
    return _broadcast(lambda truth, pair: pair.first if truth else pair.second, condition, pairs)


class _Pair:
    """Two numbers that broadcast as one."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first = first
        self.second = second


def clip(numbers: Numbers, low: Numbers | None = None, high: Numbers | None = None) -> Numbers:
    """ONNX Clip."""
    if low is not None:
        numbers = maximum(numbers, low)
    return numbers if high is None else minimum(numbers, high)


_REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "max": max,
    "min": min,
}


def reduce(numbers: Numbers, axes: Any, kind: str, keep: bool, none_is_none: bool = False) -> Numbers:
    """ONNX ReduceSum, ReduceProd, ReduceMax and ReduceMin.

    Args:
        numbers: what is reduced.
        axes: the axes; all if None or empty.
        kind: "add", "mul", "max" or "min".
        keep: whether reduced axes stay, with size 1.
        none_is_none: whether no axes mean none, instead of all.
    """
    shape, flat = dimensions(numbers), _flat(numbers)
    if axes is None or not _flat(axes):
        if none_is_none:
            return numbers
        axes = tuple(range(len(shape)))
    gone = [int(axis) % len(shape) for axis in _flat(axes)] if shape else []
    kept = [1 if axis in gone else size for axis, size in enumerate(shape)]
    result: list[Any] = [None] * math.prod(kept)
    for at in _indices(shape):
        place = _offset([0 if axis in gone else index for axis, index in enumerate(at)], kept)
        number = flat[_offset(at, shape)]
        result[place] = number if result[place] is None else single(_REDUCTIONS[kind](result[place], number))
    result = [{"add": 0, "mul": 1}.get(kind, 0) if number is None else number for number in result]
    return _nested(result, kept if keep else [size for axis, size in enumerate(kept) if axis not in gone])
