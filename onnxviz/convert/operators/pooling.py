"""Pooling with ONNX padding, rounding, dilation and indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    as_integers,
    bounded,
)
from onnxviz.convert.operators.windows import CONVOLVE, Window, pad, read_window

_MAXIMUM: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def maximum_pool(images: torch.Tensor, window: Window) -> torch.Tensor:
    """Return the largest value in each window of [N, C, *spatial]; padding never wins."""
    if not images.is_floating_point():
        # Of eight bits: float32 holds them exactly, and every device pools it.
        return _integer(maximum_pool(images.float(), window), images.dtype)
    pool: Callable[..., torch.Tensor] = _MAXIMUM[len(window.kernel)]
    if window.poolable:
        return pool(images, window.kernel, window.stride, window.begin, window.dilation, ceil_mode=window.ceil)
    _, pairs = window.padding(images.shape[2:])
    padded = pad(images, pairs, "MaxPool", -math.inf)
    return pool(padded, window.kernel, window.stride, 0, window.dilation)


def maximum_pool_with_indices(
    images: torch.Tensor, window: Window, by_column: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest value in each window of [N, C, *spatial], and where it lies in the flattened tensor.

    Padding is left out; `by_column` numbers the samples of an image with the first spatial axis running fastest.
    """
    sizes = images.shape[2:]
    values = images if images.is_floating_point() else images.float()
    _, pairs = window.padding(sizes)
    padded = pad(values, pairs, "MaxPool", -math.inf)
    pool = _MAXIMUM[len(sizes)]
    pooled, indices = pool(padded, window.kernel, window.stride, 0, window.dilation, return_indices=True)
    places = []
    for size, (before, after) in zip(reversed(sizes), reversed(pairs), strict=True):
        places.append((indices % (size + before + after) - before).clamp(0, size - 1))
        indices = indices // (size + before + after)
    order = list(zip(reversed(places), sizes, strict=True))
    within = torch.zeros_like(indices)
    for place, size in reversed(order) if by_column else order:
        within = within * size + place
    planes = torch.arange(images.shape[0] * images.shape[1], device=images.device)
    planes = planes.reshape(images.shape[0], images.shape[1], *(1,) * len(sizes)) * math.prod(sizes)
    return _integer(pooled, images.dtype), within + planes


def _integer(values: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Return values in the type they came in; what lies in no sample at all is the smallest number."""
    return values if kind.is_floating_point else values.clamp_min(torch.iinfo(kind).min).to(kind)


def average_pool(images: torch.Tensor, window: Window, count_padding: bool) -> torch.Tensor:
    """Return the mean of each window of [N, C, *spatial], over its own samples or also over the declared padding."""
    pool = _AVERAGE[len(window.kernel)]
    if window.poolable and not window.dilated:
        return pool(images, window.kernel, window.stride, window.begin, window.ceil, count_padding)
    sizes = images.shape[2:]
    declared, effective = window.padding(sizes)
    padded = pad(images, effective, "AveragePool")
    counted = torch.ones((1, 1, *sizes), dtype=images.dtype, device=images.device)
    if count_padding:
        counted = pad(counted, declared, "AveragePool", 1.0)
        beyond = [(0, after - own) for (_, own), (_, after) in zip(declared, effective, strict=True)]
        counted = pad(counted, beyond, "AveragePool")
    else:
        counted = pad(counted, effective, "AveragePool")
    return _window_sums(padded, window) / _window_sums(counted, window)


def _window_sums(padded: torch.Tensor, window: Window) -> torch.Tensor:
    """Sum the samples of each window of a padded image [N, C, *spatial]."""
    rank = len(window.kernel)
    if not window.dilated:
        return _AVERAGE[rank](padded, window.kernel, window.stride) * math.prod(window.kernel)
    ones = torch.ones((1, 1, *window.kernel), dtype=padded.dtype, device=padded.device)
    planes = padded.reshape(-1, 1, *padded.shape[2:])
    sums = CONVOLVE[rank](planes, ones, None, window.stride, 0, window.dilation)
    return sums.reshape(*padded.shape[:2], *sums.shape[2:])


def norm_pool(images: torch.Tensor, window: Window, order: float) -> torch.Tensor:
    """Return the p-norm of each window of [N, C, *spatial]; padding is zero. Source: ONNX LpPool."""
    _, pairs = window.padding(images.shape[2:])
    powers = images.square() if order == 2 else images.abs() ** order
    sums = _window_sums(pad(powers, pairs, "LpPool"), window)
    # Of a window of zeros the root has no derivative; zero is taken, as for other norms.
    positive = sums > 0
    return torch.where(positive, torch.where(positive, sums, 1.0) ** (1.0 / order), 0.0)


def global_pool(images: torch.Tensor, kind: str, order: float = 2.0) -> torch.Tensor:
    """Return "mean", "maximum" or p-"norm" over all spatial axes, which stay with size 1."""
    axes = tuple(range(2, images.dim()))
    if not axes:
        return images.abs() if kind == "norm" else images
    if kind == "mean":
        return images.mean(axes, keepdim=True)
    if kind == "maximum":
        return images.amax(axes, keepdim=True)
    norm: torch.Tensor = torch.linalg.vector_norm(images, order, axes, keepdim=True)
    return norm


def maximum_unpool(values: torch.Tensor, indices: torch.Tensor, shape: Any = None, *, window: Window) -> torch.Tensor:
    """Put [N, C, *spatial] back where a maximum was found; zero elsewhere. Source: ONNX MaxUnpool.

    The indices are those of the flattened result of a pooling.
    """
    spatial = [
        (size - 1) * window.stride[axis] + window.kernel[axis] - window.begin[axis] - window.end[axis]
        for axis, size in enumerate(values.shape[2:])
    ]
    sizes = (*values.shape[:2], *spatial)
    bounded(sizes, "MaxUnpool")
    flat = values.new_zeros(math.prod(sizes))
    made = flat.scatter(0, indices.reshape(-1).long(), values.reshape(-1)).reshape(sizes)
    if shape is None:
        return made
    return pad(made, [(0, size - own) for size, own in zip(as_integers(shape), sizes, strict=True)], "MaxUnpool")


def _window(operation: Operation) -> Window:
    kernel = tuple(operation.attributes.get("kernel_shape") or ())
    if len(kernel) not in _MAXIMUM:
        raise NotConvertible(f"pooling over {len(kernel)} axes")
    return read_window(operation, kernel)


def _order(operation: Operation) -> float:
    order = float(operation.attributes.get("p", 2))
    if not order > 0:
        raise NotConvertible(f"{operation.operator} with an order that is not positive")
    return order


def convert_maximum_pool(operation: Operation) -> Conversion:
    window = _window(operation)
    if operation.single:
        return Conversion(Function(maximum_pool, window=window))
    by_column = operation.setting("storage_order", False)
    return Conversion(Function(maximum_pool_with_indices, window=window, by_column=by_column))


def convert_average_pool(operation: Operation) -> Conversion:
    count_padding = operation.setting("count_include_pad", False)
    return Conversion(Function(average_pool, window=_window(operation), count_padding=count_padding))


def convert_norm_pool(operation: Operation) -> Conversion:
    return Conversion(Function(norm_pool, window=_window(operation), order=_order(operation)))


def convert_global_norm_pool(operation: Operation) -> Conversion:
    return Conversion(Function(global_pool, kind="norm", order=_order(operation)))


def convert_maximum_unpool(operation: Operation) -> Conversion:
    return Conversion(Function(maximum_unpool, window=_window(operation)), (0, 1, 2), numbers=(2,))


CONVERTERS: Mapping[str, Converter] = {
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": lambda _operation: Conversion(Function(global_pool, kind="mean")),
    "GlobalLpPool": convert_global_norm_pool,
    "GlobalMaxPool": lambda _operation: Conversion(Function(global_pool, kind="maximum")),
    "LpPool": convert_norm_pool,
    "MaxPool": convert_maximum_pool,
    "MaxUnpool": convert_maximum_unpool,
}
