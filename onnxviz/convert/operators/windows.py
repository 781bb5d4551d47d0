"""Where a sliding window (convolution, pooling) looks: padding as ONNX defines it, for any image size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from onnxviz.convert.operators.operation import NotConvertible, Operation, bounded

CONVOLVE: Mapping[int, Callable[..., torch.Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
"""PyTorch's convolution, by the number of spatial axes."""


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window; every tuple has one entry per spatial axis.

    Attributes:
        kernel: size in samples.
        stride: step.
        dilation: distance of neighbouring kernel samples.
        begin: declared padding before the first sample; ignored for SAME.
        end: declared padding after the last sample; ignored for SAME.
        same: "upper" or "lower" where the padding follows from the image's size, else "".
        ceil: whether the last, incomplete window counts.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    same: str = ""
    ceil: bool = False

    @property
    def static(self) -> bool:
        """Whether symmetric padding, as PyTorch's, says the same for every image size."""
        return not self.same and self.begin == self.end

    @property
    def extent(self) -> tuple[int, ...]:
        """Samples from the first to the last that the kernel touches."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))

    @property
    def dilated(self) -> bool:
        """Whether neighbouring kernel samples lie apart."""
        return any(step != 1 for step in self.dilation)

    @property
    def poolable(self) -> bool:
        """Whether PyTorch's pooling takes the padding: symmetric and at most half of the kernel."""
        return self.static and all(0 <= 2 * pad <= size for pad, size in zip(self.begin, self.kernel, strict=True))

    def padding(self, sizes: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return declared and effective padding, (before, after) per axis, for an image of these sizes.

        The effective padding makes a window without rounding up give the output size of the ONNX specification;
        it exceeds the declared one where `ceil` adds a window, and may be negative at the end.
        """
        declared, effective = [], []
        for axis, size in enumerate(sizes):
            stride, extent = self.stride[axis], self.extent[axis]
            if self.same:
                total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
                small, large = total // 2, total - total // 2
                pair = (small, large) if self.same == "upper" else (large, small)
                declared.append(pair)
                effective.append(pair)
                continue
            before, after = self.begin[axis], self.end[axis]
            declared.append((before, after))
            if not self.ceil:
                effective.append((before, after))
                continue
            count = math.ceil((size + before + after - extent) / stride) + 1
            if (count - 1) * stride >= size + before:
                count -= 1  # a window that would start in the padding behind the image does not count
            effective.append((before, (count - 1) * stride + extent - size - before))
        return declared, effective


def read_window(operation: Operation, kernel: Sequence[int]) -> Window:
    """Read strides, dilations, padding and rounding of a convolution or pooling node.

    Raises:
        NotConvertible: if the attributes are not of the kernel's rank.
    """
    return make_window(operation.operator, operation.attributes, kernel)


def make_window(operator: str, attributes: Mapping[str, Any], kernel: Sequence[int]) -> Window:
    """Read strides, dilations, padding and rounding from the attributes of a node.

    Raises:
        NotConvertible: if the attributes are not of the kernel's rank, or make no sense.
    """
    rank = len(kernel)
    pads = tuple(attributes.get("pads") or (0,) * (2 * rank))
    stride = tuple(attributes.get("strides") or (1,) * rank)
    dilation = tuple(attributes.get("dilations") or (1,) * rank)
    if not (len(pads) == 2 * rank and len(stride) == len(dilation) == rank):
        raise NotConvertible(f"strides, dilations or pads of {operator} do not fit a {rank}-d kernel")
    if min((*kernel, *stride, *dilation), default=1) < 1:
        raise NotConvertible(f"kernel, strides or dilations of {operator} are not positive")
    same = {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}.get(attributes.get("auto_pad", "NOTSET"), "")
    ceil = bool(attributes.get("ceil_mode", 0)) and not same
    if attributes.get("auto_pad") == "VALID":
        pads = (0,) * (2 * rank)
    elif same and all(step == 1 for step in stride):
        # Without strides the padding is that of any image.
        total = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
        small, large = [amount // 2 for amount in total], [amount - amount // 2 for amount in total]
        pads = (*small, *large) if same == "upper" else (*large, *small)
        same = ""
    return Window(
        kernel=tuple(kernel), stride=stride, dilation=dilation, begin=pads[:rank], end=pads[rank:], same=same, ceil=ceil
    )


def pad(values: torch.Tensor, pairs: Sequence[tuple[int, int]], operator: str, value: float = 0.0) -> torch.Tensor:
    """Pad the last axes of a tensor by (before, after) each, in order; negative amounts cut off.

    Raises:
        ModelError: if the result would be larger than any tensor of a model may be.
    """
    if not any(map(any, pairs)):
        return values
    front = values.dim() - len(pairs)
    sizes = [size + sum(pair) for size, pair in zip(values.shape[front:], pairs, strict=True)]
    bounded((*values.shape[:front], *sizes), operator)
    return functional.pad(values, as_torch_padding(pairs), value=value)


def as_torch_padding(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Turn (before, after) per axis into the order of `torch.nn.functional.pad`: last axis first."""
    return [amount for pair in reversed(pairs) for amount in pair]
