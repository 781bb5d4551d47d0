"""Where a sliding window (convolution, pooling) looks: padding as ONNX defines it, for any image size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxviz.convert.operators.operation import NotConvertible, Operation


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
        """Whether PyTorch's own symmetric padding says the same for every image size."""
        return not self.same and not self.ceil and self.begin == self.end

    @property
    def extent(self) -> tuple[int, ...]:
        """Samples from the first to the last that the kernel touches."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))

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
            room = size + before + after - extent
            count = (math.ceil(room / stride) if self.ceil else room // stride) + 1
            if self.ceil and (count - 1) * stride >= size + before:
                count -= 1  # a window that would start in the padding behind the image does not count
            effective.append((before, (count - 1) * stride + extent - size - before))
        return declared, effective


def read_window(operation: Operation, kernel: Sequence[int]) -> Window:
    """Read strides, dilations, padding and rounding of a convolution or pooling node.

    Raises:
        NotConvertible: if the attributes are not of the kernel's rank.
    """
    attributes, rank = operation.attributes, len(kernel)
    pads = tuple(attributes.get("pads") or (0,) * (2 * rank))
    stride = tuple(attributes.get("strides") or (1,) * rank)
    dilation = tuple(attributes.get("dilations") or (1,) * rank)
    if not (len(pads) == 2 * rank and len(stride) == len(dilation) == rank):
        raise NotConvertible(f"strides, dilations or pads of {operation.operator} do not fit a {rank}-d kernel")
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = (0,) * (2 * rank)
    return Window(
        kernel=tuple(kernel),
        stride=stride,
        dilation=dilation,
        begin=pads[:rank],
        end=pads[rank:],
        same={"SAME_UPPER": "upper", "SAME_LOWER": "lower"}.get(automatic, ""),
        ceil=bool(attributes.get("ceil_mode", 0)),
    )


def as_torch_padding(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Turn (before, after) per axis into the order of `torch.nn.functional.pad`: last axis first."""
    return [amount for pair in reversed(pairs) for amount in pair]
