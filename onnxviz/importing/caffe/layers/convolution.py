"""Layers that multiply with learned weights: Convolution, Deconvolution, InnerProduct.

Source: Caffe's base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp, inner_product_layer.cpp; ONNX Conv,
ConvTranspose, Gemm, MatMul.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxviz.core import limits
from onnxviz.importing.caffe.writer import Step


@dataclass(frozen=True)
class Window:
    """Sizes of a convolution's window, one entry for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    def along(self, sizes: tuple[int, ...]) -> Iterable[tuple[int, int, int, int, int]]:
        """Yield an input's size, and kernel, stride, padding and dilation, for each axis."""
        return zip(sizes, self.kernel, self.stride, self.pad, self.dilation, strict=True)

    def attributes(self, group: int) -> dict[str, Any]:
        """Return the attributes of the ONNX node."""
        pads = (*self.pad, *self.pad)
        window = {"kernel_shape": self.kernel, "strides": self.stride, "pads": pads, "dilations": self.dilation}
        return {**window, "group": group}


def convolution(step: Step, *, depthwise: bool = False) -> None:
    """Convert Convolution to Conv; the forks' DepthwiseConvolution has one group for each input channel."""
    parameters, window, channels, outputs = _prepare(step)
    group = channels if depthwise else _group(step, parameters, channels, outputs)
    if outputs % group:
        raise step.refuse(f"has {outputs} outputs, which {group} groups do not divide")
    weight = step.weight(0, (outputs, channels // group, *window.kernel), "weight")
    sizes = [
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, pad, dilation in window.along(step.bottom.shape[2:])
    ]
    shape = (step.bottom.shape[0], outputs, *sizes)
    step.top("Conv", [step.bottom, weight, *_bias(step, parameters, outputs)], shape, **window.attributes(group))


def deconvolution(step: Step) -> None:
    """Convert Deconvolution to ConvTranspose; bilinear weights that the file only describes are made."""
    parameters, window, channels, outputs = _prepare(step)
    group = _group(step, parameters, channels, outputs)
    shape = (channels, outputs // group, *window.kernel)
    if not step.blobs and parameters.weight_filler.type == "bilinear":
        weight = step.constant("weight", bilinear(step, shape))
        step.writer.notes.append(f"layer {step.layer.name!r} has the bilinear weights that the .prototxt describes")
        bias = [step.constant("bias", np.zeros(outputs))] if parameters.bias_term else []
    else:
        weight = step.weight(0, shape, "weight")
        bias = _bias(step, parameters, outputs)
    sizes = [
        stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad
        for size, kernel, stride, pad, dilation in window.along(step.bottom.shape[2:])
    ]
    shape = (step.bottom.shape[0], outputs, *sizes)
    step.top("ConvTranspose", [step.bottom, weight, *bias], shape, **window.attributes(group))


def bilinear(step: Step, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights with which Caffe's bilinear filler enlarges every channel for itself.

    Args:
        step: the layer.
        shape: [in, out per group, kernel, kernel].

    Returns:
        float32 array of that shape. Source: Caffe's filler.hpp, BilinearFiller.
    """
    if len(shape) != 4 or shape[2] != shape[3]:
        raise step.refuse("has a bilinear filler, which needs a square kernel")
    if 4 * math.prod(shape) > limits.FOLDED_BYTES:
        raise step.refuse(f"has bilinear weights of more than {limits.FOLDED_BYTES:,} bytes")
    half = math.ceil(shape[3] / 2)
    center = (2 * half - 1 - half % 2) / (2 * half)
    line = 1 - np.abs(np.arange(shape[3]) / half - center)
    return np.broadcast_to(line[:, None] * line, shape).astype(np.float32)


def inner_product(step: Step) -> None:
    """Convert InnerProduct to Gemm behind a Flatten, or to MatMul where its input keeps several axes."""
    parameters = step.parameters("inner_product_param")
    source = step.bottom
    axis = step.axis(parameters.axis, "multiplies all images at once")
    inputs, outputs = math.prod(source.shape[axis:]), parameters.num_output
    stored = (inputs, outputs) if parameters.transpose else (outputs, inputs)
    kept = source.shape[:axis]
    if axis == 1:
        weight = step.weight(0, stored, "weight")
        bias = _bias(step, parameters, outputs)
        if source.rank > 2:
            source = step.inner("Flatten", [source], (*kept, inputs), "flatten", axis=1)
        step.top("Gemm", [source, weight, *bias], (*kept, outputs), transB=0 if parameters.transpose else 1)
        return
    weight = step.weight(0, stored, "weight", None if parameters.transpose else np.transpose)
    if source.rank > axis + 1:
        source = step.reshaped(source, (*kept, inputs), "flatten")
    if not parameters.bias_term:
        step.top("MatMul", [source, weight], (*kept, outputs))
        return
    product = step.inner("MatMul", [source, weight], (*kept, outputs), "product")
    step.top("Add", [product, step.weight(1, (outputs,), "bias")], (*kept, outputs))


def _prepare(step: Step) -> tuple[Any, Window, int, int]:
    """Return the parameters, the window, and the number of input and output channels."""
    parameters = step.parameters("convolution_param")
    if len(step.bottoms) != 1:
        raise step.refuse(f"has {len(step.bottoms)} bottoms; one is converted", "write one layer for each")
    source = step.bottom
    if source.rank < 3 or step.axis(parameters.axis) != 1:
        raise step.refuse(
            f"convolves along axes after {parameters.axis} of an input with {source.rank} axes",
            "only images of the form [batch, channels, height, width, ...] are converted",
        )
    return parameters, _window(step, parameters, source.rank - 2), source.shape[1], parameters.num_output


def _bias(step: Step, parameters: Any, outputs: int) -> list[str]:
    return [step.weight(1, (outputs,), "bias")] if parameters.bias_term else []


def _group(step: Step, parameters: Any, channels: int, outputs: int) -> int:
    group = int(parameters.group)
    if not outputs or group < 1 or channels % group or outputs % group:
        raise step.refuse(f"has {group} groups for {channels} input and {outputs} output channels")
    return group


def _window(step: Step, parameters: Any, axes: int) -> Window:
    kernel = _sizes(step, parameters, "kernel_size", ("kernel_h", "kernel_w"), axes, None)
    stride = _sizes(step, parameters, "stride", ("stride_h", "stride_w"), axes, 1)
    pad = _sizes(step, parameters, "pad", ("pad_h", "pad_w"), axes, 0)
    dilation = _sizes(step, parameters, "dilation", (), axes, 1)
    if min(*kernel, *stride, *dilation) < 1:
        raise step.refuse("has a kernel, stride or dilation of 0")
    return Window(kernel, stride, pad, dilation)


def _sizes(
    step: Step, parameters: Any, name: str, pair: tuple[str, ...], axes: int, default: int | None
) -> tuple[int, ...]:
    """Read one size for all axes, one for each, or a pair for height and width."""
    repeated = [int(size) for size in getattr(parameters, name)]
    if any(parameters.HasField(part) for part in pair):
        if axes != 2 or repeated:
            raise step.refuse(f"has both {name} and {pair[0]} or {pair[1]}, or more than two spatial axes")
        return tuple(int(getattr(parameters, part)) for part in pair)
    if not repeated and default is not None:
        return (default,) * axes
    if len(repeated) not in (1, axes):
        raise step.refuse(f"has {len(repeated)} entries of {name} for {axes} spatial axes")
    return tuple(repeated * axes if len(repeated) == 1 else repeated)
