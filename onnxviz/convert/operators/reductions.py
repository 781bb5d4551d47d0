"""Reductions over axes, positions of extremes, running sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from onnxviz.convert.element_types import INTEGERS, sortable, wrap
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    as_integers,
    by_function,
    single_number,
)

_Reduce = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _product(values: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % max(values.dim(), 1) for axis in axes), reverse=True):
        values = values.prod(axis, keepdim=keep)
    return values


_FLOATING: Mapping[str, _Reduce] = {
    "ReduceL1": lambda values, axes, keep: values.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda values, axes, keep: torch.linalg.vector_norm(values, dim=axes, keepdim=keep),
    "ReduceLogSum": lambda values, axes, keep: values.sum(axes, keepdim=keep).log(),
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


def reduce_computed(
    values: torch.Tensor, axes: Any, *, make: Callable[[tuple[int, ...]], Reduction], unreduced: bool
) -> torch.Tensor:
    """Reduce over axes that are computed; `unreduced` says whether no axes mean none, instead of all."""
    chosen = as_integers(axes)
    reduction = make(chosen)
    result: torch.Tensor = reduction.of_scalars(values) if unreduced and not chosen else reduction(values)
    return result


def position(
    values: torch.Tensor, axis: int, keepdims: bool, select_last_index: bool, smallest: bool, element: int
) -> torch.Tensor:
    """Return the position of the largest or smallest element along an axis; of equal ones the first or the last."""
    if values.dim() == 0:
        return torch.zeros((), dtype=torch.int64, device=values.device)
    function = torch.argmin if smallest else torch.argmax
    values = sortable(values, element)
    if select_last_index:
        return values.shape[axis] - 1 - function(values.flip(axis), dim=axis, keepdim=keepdims)
    return function(values, dim=axis, keepdim=keepdims)


def accumulate(
    values: torch.Tensor, axis: Any, *, product: bool, exclusive: bool, reverse: bool, element: int
) -> torch.Tensor:
    """Return the running sum or product along an axis.

    Args:
        values: the values.
        axis: the axis.
        product: whether products are made instead of sums.
        exclusive: whether each result leaves out its own element.
        reverse: whether it runs from the end.
        element: ONNX element type.
    """
    along = int(single_number(axis))
    source = values.flip(along) if reverse else values
    if exclusive and source.shape[along]:
        first = torch.full_like(source.narrow(along, 0, 1), 1 if product else 0)
        source = torch.cat([first, source.narrow(along, 0, source.shape[along] - 1)], along)
    function = torch.cumprod if product else torch.cumsum
    result = wrap(function(source, along, dtype=values.dtype), element)
    return result.flip(along) if reverse else result


def convert_reduction(operation: Operation) -> Conversion:
    """Convert the `Reduce...` operators."""
    operator, element = operation.operator, operation.element(0)
    keep = operation.setting("keepdims", True)
    unreduced = operation.setting("noop_with_empty_axes", False)

    def make(axes: tuple[int, ...]) -> Reduction:
        if element in INTEGERS:
            return IntegerReduction(operator, axes, keep, element)
        return Reduction(operator, axes, keep)

    if "axes" not in operation.attributes and operation.computed(1):
        return Conversion(Function(reduce_computed, make=make, unreduced=unreduced), (0, 1), numbers=(1,))
    axes = operation.integers("axes", 1) or ()
    reduction = make(axes)
    # Over no axes: what it does to each element still happens.
    return Conversion(Function(reduction.of_scalars) if unreduced and not axes else reduction)


def convert_position(operation: Operation) -> Conversion:
    function = partial(position, smallest=operation.operator == "ArgMin")
    return by_function(function, element=True, axis=0, keepdims=True, select_last_index=False)(operation)


def convert_running(operation: Operation) -> Conversion:
    axis = operation.known(1)
    if axis is not None and axis.size != 1:
        raise NotConvertible(f"{operation.operator} along {axis.size} axes")
    function = partial(accumulate, product=operation.operator == "CumProd")
    return by_function(function, 2, numbers=(1,), element=True, exclusive=False, reverse=False)(operation)


CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(_FLOATING, convert_reduction),
    "ArgMax": convert_position,
    "ArgMin": convert_position,
    "CumProd": convert_running,
    "CumSum": convert_running,
}
