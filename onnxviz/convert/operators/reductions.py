"""Reductions over axes, positions of extremes, running sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from onnxviz.convert.element_types import INTEGERS, sortable, wrap
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers

_Reduce = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _product(values: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % max(values.dim(), 1) for axis in axes), reverse=True):
        values = values.prod(axis, keepdim=keep)
    return values


def _log_sum(values: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return values.sum(axes, keepdim=keep).log()


_FLOATING: Mapping[str, _Reduce] = {
    "ReduceL1": lambda values, axes, keep: values.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda values, axes, keep: torch.linalg.vector_norm(values, dim=axes, keepdim=keep),
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": lambda values, axes, keep: torch.logsumexp(values, axes, keepdim=keep),
    "ReduceMax": lambda values, axes, keep: values.amax(axes, keepdim=keep),
    "ReduceMean": lambda values, axes, keep: values.mean(axes, keepdim=keep),
    "ReduceMin": lambda values, axes, keep: values.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceSum": lambda values, axes, keep: values.sum(axes, keepdim=keep),
    "ReduceSumSquare": lambda values, axes, keep: values.square().sum(axes, keepdim=keep),
}
_EXACT = frozenset(["ReduceL1", "ReduceProd", "ReduceSum", "ReduceSumSquare"])
"""Reductions that stay among the integers."""


class Reduction(nn.Module):
    """Sum, mean, maximum, ... over axes.

    Args:
        operator: ONNX operator.
        axes: the axes; () for all.
        keep: whether the reduced axes stay with size 1.
    """

    def __init__(self, operator: str, axes: tuple[int, ...], keep: bool) -> None:
        super().__init__()
        self.function = _FLOATING[operator]
        self.extreme = operator in ("ReduceMax", "ReduceMin")
        self.operator = operator
        self.axes = axes
        self.keep = keep

    def extra_repr(self) -> str:
        """Name the operator."""
        return f"{self.operator}, axes={self.axes}, keep={self.keep}"

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce."""
        axes = self.axes or tuple(range(values.dim()))
        if not axes:
            return self.of_scalars(values)
        if self.extreme and values.numel() == 0:
            return self._of_nothing(values, axes)
        return self.function(values, axes, self.keep)

    def of_scalars(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce over no axis at all: each element is a set of one."""
        return self.function(values.unsqueeze(-1), (-1,), False)

    def _of_nothing(self, values: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        """Return the extreme of no values: the smallest or largest that there is."""
        reduced = [axis % max(values.dim(), 1) for axis in axes]
        shape = [1 if axis in reduced else size for axis, size in enumerate(values.shape)]
        largest = self.operator == "ReduceMin"
        if values.dtype == torch.bool:
            least: Any = largest
        elif values.is_floating_point():
            least = math.inf if largest else -math.inf
        else:
            least = torch.iinfo(values.dtype).max if largest else torch.iinfo(values.dtype).min
        result = torch.full(shape, least, dtype=values.dtype, device=values.device)
        return result if self.keep else result.squeeze(reduced)


class IntegerReduction(Reduction):
    """A reduction of integers: in 64 bits where it stays among them, and else in double precision, cut off."""

    def __init__(self, operator: str, axes: tuple[int, ...], keep: bool, element: int) -> None:
        super().__init__(operator, axes, keep)
        self.element = element

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce."""
        return self._typed(values, super().forward)

    def of_scalars(self, values: torch.Tensor) -> torch.Tensor:
        """Reduce over no axis at all."""
        return self._typed(values, super().of_scalars)

    def _typed(self, values: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if values.is_floating_point() or values.dtype == torch.bool:
            return reduce(values)
        if self.extreme:
            return sortable(reduce(sortable(values, self.element)), self.element)
        if self.operator in _EXACT:
            return wrap(reduce(values.long()), self.element).to(values.dtype)
        return wrap(reduce(values.double()).long(), self.element).to(values.dtype)


class ComputedReduction(nn.Module):
    """A reduction over axes that are computed.

    Args:
        make: makes a reduction over given axes.
        unreduced: whether no axes mean none, instead of all.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], Reduction], unreduced: bool) -> None:
        super().__init__()
        self.make = make
        self.unreduced = unreduced

    def forward(self, values: torch.Tensor, axes: Any) -> torch.Tensor:
        """Reduce."""
        chosen = tuple(int(axis) for axis in as_numbers(axes))
        reduction = self.make(chosen)
        return reduction.of_scalars(values) if self.unreduced and not chosen else reduction(values)


class Unreduced(nn.Module):
    """A reduction over no axes: what it does to each element still happens."""

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Apply what is not reduction."""
        return self.reduction.of_scalars(values)


class Position(nn.Module):
    """Position of the largest or smallest element along an axis; of equal ones the first or the last."""

    def __init__(self, smallest: bool, axis: int, keep: bool, last: bool, element: int) -> None:
        super().__init__()
        self.function = torch.argmin if smallest else torch.argmax
        self.axis = axis
        self.keep = keep
        self.last = last
        self.element = element

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Find the position."""
        if values.dim() == 0:
            return torch.zeros((), dtype=torch.int64, device=values.device)
        values = sortable(values, self.element)
        if self.last:
            found = self.function(values.flip(self.axis), dim=self.axis, keepdim=self.keep)
            return values.shape[self.axis] - 1 - found
        return self.function(values, dim=self.axis, keepdim=self.keep)


class Running(nn.Module):
    """Running sum or product along an axis.

    Args:
        product: whether products are made instead of sums.
        axis: the axis, if it is constant.
        exclusive: whether each result leaves out its own element.
        reverse: whether it runs from the end.
        element: ONNX element type.
    """

    def __init__(self, product: bool, axis: int | None, exclusive: bool, reverse: bool, element: int) -> None:
        super().__init__()
        self.function = torch.cumprod if product else torch.cumsum
        self.neutral = 1 if product else 0
        self.axis = axis
        self.exclusive = exclusive
        self.reverse = reverse
        self.element = element

    def forward(self, values: torch.Tensor, axis: Any = None) -> torch.Tensor:
        """Accumulate."""
        along = int(as_numbers(axis)[0]) if self.axis is None else self.axis
        source = values.flip(along) if self.reverse else values
        if self.exclusive and source.shape[along]:
            first = torch.full_like(source.narrow(along, 0, 1), self.neutral)
            source = torch.cat([first, source.narrow(along, 0, source.shape[along] - 1)], along)
        result = wrap(self.function(source, along, dtype=values.dtype), self.element)
        return result.flip(along) if self.reverse else result


def convert_reduction(operation: Operation) -> Conversion:
    """Convert the `Reduce...` operators."""
    operator, element = operation.operator, operation.element(0)
    keep = bool(operation.attributes.get("keepdims", 1))
    unreduced = bool(operation.attributes.get("noop_with_empty_axes", 0))

    def make(axes: tuple[int, ...]) -> Reduction:
        if element in INTEGERS:
            return IntegerReduction(operator, axes, keep, element)
        return Reduction(operator, axes, keep)

    if "axes" not in operation.attributes and operation.computed(1):
        return Conversion(ComputedReduction(make, unreduced), (0, 1), numbers=(1,))
    axes = operation.integers("axes", 1) or ()
    return Conversion(Unreduced(make(())) if unreduced and not axes else make(axes))


def convert_position(operation: Operation) -> Conversion:
    """Convert `ArgMax` and `ArgMin`."""
    get = operation.attributes.get
    keep, last = bool(get("keepdims", 1)), bool(get("select_last_index", 0))
    smallest = operation.operator == "ArgMin"
    return Conversion(Position(smallest, int(get("axis", 0)), keep, last, operation.element(0)))


def convert_running(operation: Operation) -> Conversion:
    """Convert `CumSum` and `CumProd`."""
    axis = operation.known(1)
    if axis is not None and axis.size != 1:
        raise NotConvertible(f"{operation.operator} along {axis.size} axes")
    get = operation.attributes.get
    module = Running(
        operation.operator == "CumProd",
        None if axis is None else int(axis.reshape(-1)[0]),
        bool(get("exclusive", 0)),
        bool(get("reverse", 0)),
        operation.element(0),
    )
    return Conversion(module) if axis is not None else Conversion(module, (0, 1), numbers=(1,))


CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(_FLOATING, convert_reduction),
    "ArgMax": convert_position,
    "ArgMin": convert_position,
    "CumProd": convert_running,
    "CumSum": convert_running,
}
