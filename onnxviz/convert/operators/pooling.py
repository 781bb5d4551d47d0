"""Pooling with ONNX padding, rounding, dilation and indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers
from onnxviz.convert.operators.windows import Window, pad, read_window

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
_CONVOLVE: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}


class MaximumPool(nn.Module):
    """Largest value in each window; padding never wins."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window
        self.plain = window.poolable

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial]."""
        if not images.is_floating_point():
            # Of eight bits: float32 holds them exactly, and every device pools it.
            return _integer(self.forward(images.float()), images.dtype)
        window = self.window
        pool: Callable[..., torch.Tensor] = _MAXIMUM[len(window.kernel)]
        if self.plain:
            return pool(images, window.kernel, window.stride, window.begin, window.dilation, ceil_mode=window.ceil)
        _, pairs = window.padding(images.shape[2:])
        padded = pad(images, pairs, "MaxPool", -math.inf)
        return pool(padded, window.kernel, window.stride, 0, window.dilation)


class MaximumPoolWithIndices(nn.Module):
    """Largest value in each window, and where it lies in the whole tensor.

    Args:
        window: where to look.
        by_column: number the samples of an image with the first spatial axis running fastest.
    """

    def __init__(self, window: Window, by_column: bool) -> None:
        super().__init__()
        self.window = window
        self.by_column = by_column

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool [N, C, *spatial]; the indices are of ONNX MaxPool: in the flattened tensor, padding left out."""
        window, sizes = self.window, images.shape[2:]
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
        for place, size in reversed(order) if self.by_column else order:
            within = within * size + place
        planes = torch.arange(images.shape[0] * images.shape[1], device=images.device)
        planes = planes.reshape(images.shape[0], images.shape[1], *(1,) * len(sizes)) * math.prod(sizes)
        return _integer(pooled, images.dtype), within + planes


def _integer(values: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Return values in the type they came in; what lies in no sample at all is the smallest number."""
    return values if kind.is_floating_point else values.clamp_min(torch.iinfo(kind).min).to(kind)


class AveragePool(nn.Module):
    """Mean of each window, over the image's own samples or also over the declared padding."""

    def __init__(self, window: Window, count_padding: bool) -> None:
        super().__init__()
        self.window = window
        self.count_padding = count_padding
        self.dilated = any(step != 1 for step in window.dilation)
        self.plain = window.poolable and not self.dilated

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial]."""
        window = self.window
        pool = _AVERAGE[len(window.kernel)]
        if self.plain:
            return pool(images, window.kernel, window.stride, window.begin, window.ceil, self.count_padding)
        sizes = images.shape[2:]
        declared, effective = window.padding(sizes)
        padded = pad(images, effective, "AveragePool")
        counted = torch.ones((1, 1, *sizes), dtype=images.dtype, device=images.device)
        if self.count_padding:
            counted = pad(counted, declared, "AveragePool", 1.0)
            beyond = [(0, after - own) for (_, own), (_, after) in zip(declared, effective, strict=True)]
            counted = pad(counted, beyond, "AveragePool")
        else:
            counted = pad(counted, effective, "AveragePool")
        return _window_sums(padded, window) / _window_sums(counted, window)


def _window_sums(padded: torch.Tensor, window: Window) -> torch.Tensor:
    """Sum the samples of each window of a padded image [N, C, *spatial]."""
    rank = len(window.kernel)
    if all(step == 1 for step in window.dilation):
        return _AVERAGE[rank](padded, window.kernel, window.stride) * math.prod(window.kernel)
    ones = torch.ones((1, 1, *window.kernel), dtype=padded.dtype, device=padded.device)
    planes = padded.reshape(-1, 1, *padded.shape[2:])
    sums = _CONVOLVE[rank](planes, ones, None, window.stride, 0, window.dilation)
    return sums.reshape(*padded.shape[:2], *sums.shape[2:])


class NormPool(nn.Module):
    """The p-norm of each window; padding is zero. Source: ONNX LpPool."""

    def __init__(self, window: Window, order: float) -> None:
        super().__init__()
        self.window = window
        self.order = order

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial]."""
        _, pairs = self.window.padding(images.shape[2:])
        powers = images.square() if self.order == 2 else images.abs() ** self.order
        sums = _window_sums(pad(powers, pairs, "LpPool"), self.window)
        # Of a window of zeros the root has no derivative; zero is taken, as for other norms.
        positive = sums > 0
        return torch.where(positive, torch.where(positive, sums, 1.0) ** (1.0 / self.order), 0.0)


class GlobalPool(nn.Module):
    """Mean, maximum or p-norm over all spatial axes, which stay with size 1."""

    def __init__(self, kind: str, order: float = 2.0) -> None:
        super().__init__()
        self.kind = kind
        self.order = order

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial] to [N, C, 1, ...]."""
        axes = tuple(range(2, images.dim()))
        if not axes:
            return images.abs() if self.kind == "norm" else images
        match self.kind:
            case "mean":
                return images.mean(axes, keepdim=True)
            case "maximum":
                return images.amax(axes, keepdim=True)
            case _:
                norm: torch.Tensor = torch.linalg.vector_norm(images, self.order, axes, keepdim=True)
                return norm


class MaximumUnpool(nn.Module):
    """Put values back where a maximum was found; zero elsewhere. Source: ONNX MaxUnpool."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def forward(self, values: torch.Tensor, indices: torch.Tensor, shape: Any = None) -> torch.Tensor:
        """Unpool [N, C, *spatial] by the indices of a pooling, which are those of the flattened result."""
        window = self.window
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
        wanted = as_numbers(shape)
        return pad(made, [(0, int(size) - own) for size, own in zip(wanted, sizes, strict=True)], "MaxUnpool")


def convert_maximum_pool(operation: Operation) -> Conversion:
    """Convert `MaxPool`."""
    window = _window(operation)
    if operation.single:
        return Conversion(MaximumPool(window))
    return Conversion(MaximumPoolWithIndices(window, bool(operation.attributes.get("storage_order", 0))))


def convert_average_pool(operation: Operation) -> Conversion:
    """Convert `AveragePool`."""
    return Conversion(AveragePool(_window(operation), bool(operation.attributes.get("count_include_pad", 0))))


def convert_norm_pool(operation: Operation) -> Conversion:
    """Convert `LpPool`."""
    return Conversion(NormPool(_window(operation), _order(operation)))


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


def convert_global_average_pool(_operation: Operation) -> Conversion:
    """Convert `GlobalAveragePool`."""
    return Conversion(GlobalPool("mean"))


def convert_global_maximum_pool(_operation: Operation) -> Conversion:
    """Convert `GlobalMaxPool`."""
    return Conversion(GlobalPool("maximum"))


def convert_global_norm_pool(operation: Operation) -> Conversion:
    """Convert `GlobalLpPool`."""
    return Conversion(GlobalPool("norm", _order(operation)))


def convert_maximum_unpool(operation: Operation) -> Conversion:
    """Convert `MaxUnpool`."""
    shape = operation.known(2)
    module = MaximumUnpool(_window(operation))
    if shape is not None:
        return Conversion(_ToShape(module, tuple(int(size) for size in shape)), (0, 1))
    return Conversion(module, (0, 1, 2) if operation.has(2) else (0, 1), numbers=(2,))


class _ToShape(nn.Module):
    """Unpooling to a constant shape."""

    def __init__(self, unpool: MaximumUnpool, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.unpool = unpool
        self.shape = shape

    def forward(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Unpool."""
        made: torch.Tensor = self.unpool(values, indices, self.shape)
        return made


CONVERTERS: Mapping[str, Converter] = {
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": convert_global_average_pool,
    "GlobalLpPool": convert_global_norm_pool,
    "GlobalMaxPool": convert_global_maximum_pool,
    "LpPool": convert_norm_pool,
    "MaxPool": convert_maximum_pool,
    "MaxUnpool": convert_maximum_unpool,
}
