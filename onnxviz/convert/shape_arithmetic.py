"""Shape arithmetic in Python numbers.

Exporters write "the batch size times whatever is left" as a chain of Shape, Gather, Mul, Concat. A tensor's shape is
known to Python anyway, so the chain is computed there: a scalar is a number, a vector a tuple, a matrix a tuple of
tuples. Nothing is sent to the device, nothing waits for it, and torch.compile sees numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from onnxviz.core.errors import ModelError
from onnxviz.graph.shapes import FLOATS

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


def _along(axis: int, function: Callable[..., Any], *parts: Any) -> Any:
    """Apply a function to the parts that lie along an axis: to each row of matrices if that is not the first."""
    if axis % len(dimensions(parts[0])) == 0:
        return function(*parts)
    return tuple(function(*rows) for rows in zip(*parts, strict=True))


def gather(numbers: Numbers, index: Numbers, axis: int = 0) -> Numbers:
    """ONNX Gather."""

    def take(part: tuple[Numbers, ...], place: Numbers) -> Numbers:
        return tuple(take(part, each) for each in place) if isinstance(place, tuple) else part[int(place)]

    return _along(axis, lambda part: take(part, index), numbers)  # type: ignore[no-any-return]


def gather_elements(numbers: tuple[Numbers, ...], index: tuple[Numbers, ...]) -> Numbers:
    """ONNX GatherElements of a vector."""
    return tuple(numbers[int(place)] for place in index)  # type: ignore[arg-type]


def concatenate(axis: int, *parts: tuple[Numbers, ...]) -> Numbers:
    """ONNX Concat of vectors, or of matrices."""
    return _along(axis, lambda *joined: tuple(each for part in joined for each in part), *parts)  # type: ignore[no-any-return]


def select(numbers: Numbers, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Numbers:
    """ONNX Slice."""
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        taken = slice(int(start), int(end), 1 if steps is None else int(steps[place]))
        numbers = _along(place if axes is None else int(axes[place]), lambda row, taken=taken: row[taken], numbers)
    return numbers


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
    if len(dimensions(numbers)) < 2 or tuple(order or ()) == (0, 1):
        return numbers
    return tuple(zip(*numbers, strict=True))  # type: ignore[misc]


def expand(numbers: Numbers, shape: Any) -> Numbers:
    """ONNX Expand."""
    return _broadcast(lambda first, _: first, numbers, _nested([0] * math.prod(shape), [int(size) for size in shape]))


def tile(numbers: Numbers, repeats: Any) -> Numbers:
    """ONNX Tile."""
    if not isinstance(numbers, tuple):
        return numbers
    return tuple(tile(part, repeats[1:]) for part in numbers) * int(repeats[0])


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


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _each(function: Callable[[Any], Number]) -> Callable[[Numbers], Numbers]:
    def apply(numbers: Numbers) -> Numbers:
        return tuple(apply(number) for number in numbers) if isinstance(numbers, tuple) else function(numbers)

    return apply


def _integer(number: Any) -> int:
    return int(number) if not isinstance(number, float) or finite(number) else -(1 << 63)


def _broadcast(function: Callable[[Any, Any], Any], first: Numbers, second: Numbers) -> Numbers:
    left, right = len(dimensions(first)), len(dimensions(second))
    if left == right == 0:
        return function(first, second)  # type: ignore[no-any-return]
    one, two = (first,) if left < right else first, (second,) if right < left else second
    assert isinstance(one, tuple)
    assert isinstance(two, tuple)
    count = len(two) if len(one) == 1 else len(one)
    pairs = zip(one * count if len(one) == 1 else one, two * count if len(two) == 1 else two, strict=True)
    return tuple(_broadcast(function, a, b) for a, b in pairs)


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


def choose(condition: Numbers, first: Numbers, second: Numbers) -> Numbers:
    """ONNX Where."""
    pairs = _broadcast(lambda a, b: {True: a, False: b}, first, second)
    return _broadcast(lambda truth, pair: pair[bool(truth)], condition, pairs)


def clip(numbers: Numbers, low: Numbers | None = None, high: Numbers | None = None) -> Numbers:
    """ONNX Clip."""
    if low is not None:
        numbers = _BY_INPUTS["Max"](numbers, low)
    return numbers if high is None else _BY_INPUTS["Min"](numbers, high)


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
    shape = dimensions(numbers)
    if axes is None or not _flat(axes):
        if none_is_none:
            return numbers
        axes = tuple(range(len(shape)))
    gone = {int(axis) % len(shape) for axis in _flat(axes)} if shape else set()
    if len(gone) == len(shape):
        lines: Any = [_flat(numbers)]
    else:
        lines = numbers if gone == {1} else zip(*numbers, strict=True)  # type: ignore[misc]
    kept = [1 if axis in gone else size for axis, size in enumerate(shape)]
    rest = [size for axis, size in enumerate(shape) if axis not in gone]
    return _nested([_combined(kind, line) for line in lines], kept if keep else rest)


def _combined(kind: str, line: Sequence[Any]) -> Number:
    if not line:
        return 1 if kind == "mul" else 0
    result, *others = line
    for number in others:
        result = single(_REDUCTIONS[kind](result, number))
    return result  # type: ignore[no-any-return]


# --- which operator is computed how, and how its attributes and inputs are read ---------------------------------------

_AS_INTEGERS, _AS_TRUTHS = _each(_integer), _each(bool)
_AS_FLOATS = _each(lambda number: single(float(number)))
_MODULO = {False: _pairwise(_modulo), True: _pairwise(_remainder)}
"""ONNX Mod with the sign of the divisor, and with that of the dividend (fmod)."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and what it is called with: numbers, and things that stand for numbers."""

_BECAME_INPUTS = frozenset(["axes", "ends", "max", "min", "shape", "starts"])
"""What operators had as attributes before opset 13; reductions have axes so until 17."""

GROWING = frozenset(["ConstantOfShape", "Expand", "Range", "Tile"])
"""Operators whose results may be longer than what they are made of."""


def call(kind: str, attributes: Mapping[str, Any], inputs: Sequence[Any], outputs: int) -> Call | None:
    """Return how to compute a node with numbers; None if it cannot be.

    Args:
        kind: ONNX operator type.
        attributes: the node's attributes by name.
        inputs: what stands for its inputs; None for those left out.
        outputs: how many outputs it has.
    """
    if kind == "Split":
        sizes = attributes.get("split", _input(inputs, 1))
        count = attributes.get("num_outputs", outputs)
        return split, (inputs[0], sizes, attributes.get("axis", 0), count)
    read = _READERS.get(kind)
    if _BECAME_INPUTS & attributes.keys() and not kind.startswith("Reduce"):
        return None
    if read is not None:
        return read(attributes, inputs)
    function = _BY_INPUTS.get(kind)
    if function is None or inputs[0] is None or (kind not in _OPTIONAL and any(value is None for value in inputs)):
        return None
    return function, tuple(inputs)


def _input(inputs: Sequence[Any], index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


def _cast(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call | None:
    element = attributes.get("to")
    if element in FLOATS:
        return _AS_FLOATS, (inputs[0],)
    if element in (TensorProto.INT64, TensorProto.INT32):
        return _AS_INTEGERS, (inputs[0],)
    return (_AS_TRUTHS, (inputs[0],)) if element == TensorProto.BOOL else None


def _constant_of_shape(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    value = attributes.get("value")
    return fill, (inputs[0], 0.0 if value is None else np.asarray(value).reshape(-1)[0].item())


def _reduction(kind: str) -> Callable[[Mapping[str, Any], Sequence[Any]], Call]:
    def read(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
        axes = attributes.get("axes")
        axes = tuple(axes) if axes is not None else _input(inputs, 1)
        keep, none_is_none = bool(attributes.get("keepdims", 1)), bool(attributes.get("noop_with_empty_axes", 0))
        return reduce, (inputs[0], axes, kind, keep, none_is_none)

    return read


def _reshape(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    return reshape, (*inputs, bool(attributes.get("allowzero", 0)))


def _transpose(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    order = attributes.get("perm")
    return transpose, (inputs[0], None if order is None else tuple(order))


def _scatter(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Call:
    return scatter, (*inputs[:3], attributes.get("reduction", "none"))


_READERS: Mapping[str, Callable[[Mapping[str, Any], Sequence[Any]], Call | None]] = {
    "Cast": _cast,
    "Concat": lambda attributes, inputs: (concatenate, (attributes.get("axis", 1), *inputs)),
    "ConstantOfShape": _constant_of_shape,
    "Gather": lambda attributes, inputs: (gather, (inputs[0], inputs[1], attributes.get("axis", 0))),
    "Mod": lambda attributes, inputs: (_MODULO[bool(attributes.get("fmod", 0))], tuple(inputs)),
    "ReduceMax": _reduction("max"),
    "ReduceMin": _reduction("min"),
    "ReduceProd": _reduction("mul"),
    "ReduceSum": _reduction("add"),
    "Reshape": _reshape,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Shape": lambda attributes, inputs: (
        shape_of_numbers, (inputs[0], attributes.get("start", 0), attributes.get("end"))
    ),
    "Transpose": _transpose,
}  # fmt: skip

_BY_INPUTS: Mapping[str, Callable[..., Any]] = {
    "Abs": _each(abs),
    "Add": _pairwise(operator.add),
    "And": _pairwise(lambda first, second: bool(first and second)),
    "Ceil": _each(lambda number: float(math.ceil(number)) if finite(number) else number),
    "Clip": clip,
    "Div": _pairwise(_divide),
    "Equal": _pairwise(operator.eq),
    "Expand": expand,
    "Floor": _each(lambda number: float(math.floor(number)) if finite(number) else number),
    "GatherElements": gather_elements,
    "Greater": _pairwise(operator.gt),
    "GreaterOrEqual": _pairwise(operator.ge),
    "Identity": same,
    "Less": _pairwise(operator.lt),
    "LessOrEqual": _pairwise(operator.le),
    "Max": _pairwise(max),
    "Min": _pairwise(min),
    "Mul": _pairwise(operator.mul),
    "Neg": _each(operator.neg),
    "Not": _each(operator.not_),
    "Or": _pairwise(lambda first, second: bool(first or second)),
    "Pow": _pairwise(_power),
    "Range": count,
    "Reciprocal": _each(lambda number: single(_divide(1.0, number))),
    "Round": _each(lambda number: float(round(number)) if finite(number) else number),
    "Sign": _each(lambda number: type(number)((number > 0) - (number < 0))),
    "Size": size_of_numbers,
    "Slice": select,
    "Sqrt": _each(lambda number: single(math.sqrt(number)) if number >= 0 else math.nan),
    "Squeeze": squeeze,
    "Sub": _pairwise(operator.sub),
    "Sum": _pairwise(operator.add),
    "Tile": tile,
    "Unsqueeze": unsqueeze,
    "Where": choose,
    "Xor": _pairwise(lambda first, second: bool(first) != bool(second)),
}
"""Operators that are called with their inputs alone."""

_OPTIONAL = frozenset(["Clip", "Slice"])
"""Those of them that do without an input in between."""
