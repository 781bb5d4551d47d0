"""Convolution with ONNX padding; the stock converter knows neither SAME padding nor shared or computed weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.convert.operators.windows import Window, as_torch_padding, read_window

_MODULES: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class PaddedConvolution(nn.Module):
    """A convolution whose padding is asymmetric or follows from the image's size."""

    def __init__(self, convolution: nn.Module, window: Window) -> None:
        super().__init__()
        self.convolution = convolution
        self.window = window

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pad with zeros, then convolve."""
        _, pairs = self.window.padding(images.shape[2:])
        padded = functional.pad(images, as_torch_padding(pairs))
        result: torch.Tensor = self.convolution(padded)
        return result


class ComputedConvolution(nn.Module):
    """A convolution whose weights are computed by other nodes."""

    def __init__(self, window: Window, groups: int) -> None:
        super().__init__()
        self.window = window
        self.groups = groups

    def forward(self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Pad with zeros, then convolve with the weights given."""
        window = self.window
        convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(window.kernel)]
        _, pairs = window.padding(images.shape[2:])
        padded = functional.pad(images, as_torch_padding(pairs)) if any(map(any, pairs)) else images
        return convolve(padded, weight, bias, stride=window.stride, dilation=window.dilation, groups=self.groups)


def convert_convolution(operation: Operation) -> Conversion:
    """Convert `Conv` of one to three spatial axes."""
    weight = operation.constants[1]
    groups = int(operation.attributes.get("group", 1))
    kernel = operation.attributes.get("kernel_shape") or (() if weight is None else weight.shape[2:])
    if len(kernel) not in _MODULES:
        raise NotConvertible(f"a convolution over {len(kernel)} axes")
    window = read_window(operation, kernel)
    bias = operation.constants[2] if operation.has(2) else None
    if weight is None or (bias is None and operation.has(2)):
        return Conversion(ComputedConvolution(window, groups), (0, 1, 2) if operation.has(2) else (0, 1))
    convolution = _convolution(weight, bias, window, groups)
    return Conversion(convolution if window.static else PaddedConvolution(convolution, window))


def _convolution(weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int) -> nn.Module:
    # On the meta device: no time and no random numbers are spent on weights that are replaced at once.
    convolution = _MODULES[len(window.kernel)](
        weight.shape[1] * groups,
        weight.shape[0],
        window.kernel,  # type: ignore[arg-type]
        stride=window.stride,  # type: ignore[arg-type]
        padding=window.begin if window.static else 0,  # type: ignore[arg-type]
        dilation=window.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    convolution.weight = nn.Parameter(torch.from_numpy(weight.copy()), requires_grad=False)
    if bias is not None:
        convolution.bias = nn.Parameter(torch.from_numpy(bias.copy()), requires_grad=False)
    return convolution


CONVERTERS: Mapping[str, Converter] = {
    "Conv": convert_convolution,
}
