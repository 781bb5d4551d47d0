"""Pooling with ONNX padding and rounding; the stock converters know no SAME and no asymmetric average."""

from __future__ import annotations

from collections.abc import Mapping

import math

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.convert.operators.windows import Window, as_torch_padding, read_window

_MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class MaximumPool(nn.Module):
    """Largest value in each window; padding never wins."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window
        # PyTorch accepts its own padding up to half a kernel only.
        self.plain = window.static and all(
            2 * pad <= size for pad, size in zip(window.begin, window.kernel, strict=True)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial]."""
        window, padding = self.window, tuple(0 for _ in self.window.kernel)
        if self.plain:
            padding = window.begin
        else:
            _, pairs = window.padding(images.shape[2:])
            images = functional.pad(images, as_torch_padding(pairs), value=-math.inf)
        pooled: torch.Tensor = _MAXIMUM[len(window.kernel)](
            images, window.kernel, stride=window.stride, padding=padding, dilation=window.dilation
        )
        return pooled


class AveragePool(nn.Module):
    """Mean of each window, over the image's own samples or also over the declared padding."""

    def __init__(self, window: Window, count_padding: bool) -> None:
        super().__init__()
        self.window = window
        self.count_padding = count_padding
        self.plain = window.static and all(
            2 * pad <= size for pad, size in zip(window.begin, window.kernel, strict=True)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial]."""
        window = self.window
        pool = _AVERAGE[len(window.kernel)]
        if self.plain:
            return pool(
                images, window.kernel, stride=window.stride, padding=window.begin, count_include_pad=self.count_padding
            )
        sizes = images.shape[2:]
        declared, effective = window.padding(sizes)
        counted = torch.ones((1, 1, *sizes), dtype=images.dtype, device=images.device)
        if self.count_padding:
            counted = functional.pad(counted, as_torch_padding(declared), value=1.0)
            rest = [(0, after - own) for (_, own), (_, after) in zip(declared, effective, strict=True)]
            counted = functional.pad(counted, as_torch_padding(rest))
        else:
            counted = functional.pad(counted, as_torch_padding(effective))
        padded = functional.pad(images, as_torch_padding(effective))
        # Both are means over the whole kernel: their ratio is the mean over what counts.
        pooled = pool(padded, window.kernel, stride=window.stride)
        share = pool(counted, window.kernel, stride=window.stride)
        return pooled / share


class GlobalPool(nn.Module):
    """Mean or maximum over all spatial axes, which stay with size 1."""

    def __init__(self, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, *spatial] to [N, C, 1, ...]."""
        axes = tuple(range(2, images.dim()))
        return images.amax(axes, keepdim=True) if self.maximum else images.mean(axes, keepdim=True)


def convert_maximum_pool(operation: Operation) -> Conversion:
    """Convert `MaxPool` without its optional indices."""
    kernel = operation.attributes.get("kernel_shape") or ()
    if len(kernel) not in _MAXIMUM:
        raise NotConvertible(f"pooling over {len(kernel)} axes")
    return Conversion(MaximumPool(read_window(operation, kernel)))


def convert_average_pool(operation: Operation) -> Conversion:
    """Convert `AveragePool`."""
    kernel = operation.attributes.get("kernel_shape") or ()
    if len(kernel) not in _AVERAGE:
        raise NotConvertible(f"pooling over {len(kernel)} axes")
    window = read_window(operation, kernel)
    if any(step != 1 for step in window.dilation):
        raise NotConvertible("average pooling with dilation")
    return Conversion(AveragePool(window, bool(operation.attributes.get("count_include_pad", 0))))


def convert_global_average_pool(_operation: Operation) -> Conversion:
    """Convert `GlobalAveragePool`."""
    return Conversion(GlobalPool(maximum=False))


def convert_global_maximum_pool(_operation: Operation) -> Conversion:
    """Convert `GlobalMaxPool`."""
    return Conversion(GlobalPool(maximum=True))


CONVERTERS: Mapping[str, Converter] = {
    "AveragePool": convert_average_pool,
    "GlobalAveragePool": convert_global_average_pool,
    "GlobalMaxPool": convert_global_maximum_pool,
    "MaxPool": convert_maximum_pool,
}
