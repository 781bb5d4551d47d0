"""Activations: functions of each element, softmax and its kin, clipping, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional

from onnxviz.convert.element_types import FLOATING, sortable
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.core.errors import ModelError


class Clip(nn.Module):
    """Keep values between two constants; either may be missing."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Clip."""
        if self.low is not None and self.high is not None and self.low < self.high and values.is_floating_point():
            # The kernel of ReLU6: one for the gradient too, where clamp takes four.
            return functional.hardtanh(values, self.low, self.high)
        return values.clamp(self.low, self.high)


class ComputedClip(nn.Module):
    """Keep values between computed limits; where the lower one exceeds the upper one, the upper one wins."""

    def __init__(self, element: int) -> None:
        super().__init__()
        self.element = element

    def forward(
        self, values: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Clip."""
        result = sortable(values, self.element)
        if low is not None:
            result = torch.maximum(result, sortable(low, self.element))
        if high is not None:
            result = torch.minimum(result, sortable(high, self.element))
        return sortable(result, self.element)


class FlatSoftmax(nn.Module):
    """Softmax as before opset 13, over all axes from `axis` on, together; QLinearSoftmax still has it."""

    def __init__(self, axis: int, logarithm: bool) -> None:
        super().__init__()
        self.axis = axis
        self.logarithm = logarithm

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        flat = _flattened(values, self.axis)
        result = functional.log_softmax(flat, -1) if self.logarithm else functional.softmax(flat, -1)
        return result.reshape(values.shape)


class Hardmax(nn.Module):
    """1 at the first largest element of an axis, 0 elsewhere."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Mark the largest element."""
        return torch.zeros_like(values).scatter(self.axis, values.argmax(self.axis, keepdim=True), 1.0)


class Selu(nn.Module):
    """Scaled exponential linear unit: scale * elu(x, alpha) (Klambauer et al., 2017)."""

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.scale = scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Activate."""
        return self.scale * functional.elu(values, self.alpha)


class HardSigmoid(nn.Module):
    """Line of slope `alpha` through `beta`, clipped to 0..1."""

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Activate."""
        return (values * self.alpha + self.beta).clamp(0.0, 1.0)


class Shrink(nn.Module):
    """Zero around zero, and towards zero by `bias` outside."""

    def __init__(self, threshold: float, bias: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.bias = bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Activate."""
        zero = torch.zeros_like(values)
        below = torch.where(values < -self.threshold, values + self.bias, zero)
        return torch.where(values > self.threshold, values - self.bias, below).to(values.dtype)


class Swish(nn.Module):
    """x * sigmoid(alpha * x) (Ramachandran et al., 2017)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Activate."""
        return values * torch.sigmoid(self.alpha * values)


class SwishGate(nn.Module):
    """A gate's swish times a value (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.swish: nn.Module = nn.SiLU() if alpha == 1 else Swish(alpha)

    def forward(self, gate: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Gate the values."""
        result: torch.Tensor = self.swish(gate) * values
        return result


class SlopedRelu(nn.Module):
    """Negative values times a slope.

    Args:
        channelwise: whether slopes belong to axis 1 (before opset 7) instead of broadcasting as in NumPy.
    """

    def __init__(self, channelwise: bool) -> None:
        super().__init__()
        self.channelwise = channelwise

    def forward(self, values: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Activate."""
        if self.channelwise and slope.numel() > 1:
            slope = slope.reshape(-1, *(1,) * (values.dim() - 2))
        return torch.where(values < 0, values * slope, values)


class ChannelRelu(nn.Module):
    """Negative values times a constant slope for each channel, or one for all."""

    slope: torch.Tensor

    def __init__(self, slope: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("slope", torch.from_numpy(np.array(slope.reshape(-1))))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Activate [N, C, ...]."""
        return functional.prelu(values, self.slope)


class Dropout(nn.Module):
    """Dropout as it is after training: the input, and a mask of what was kept, which is all.

    Args:
        named: for each output, whether it has a name.
    """

    def __init__(self, named: tuple[bool, ...]) -> None:
        super().__init__()
        self.named = named

    def forward(
        self, values: torch.Tensor, ratio: torch.Tensor | None = None, training: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """Return the input and, if it has a name, the mask."""
        if training is not None and bool(training) and (ratio is None or float(ratio) != 0):
            raise ModelError(
                "Dropout in training mode draws random numbers", remedy="give the model `training_mode` false"
            )
        if self.named == (True,):
            return values
        mask = torch.ones_like(values, dtype=torch.bool) if len(self.named) > 1 and self.named[1] else None
        return (values, mask)[: len(self.named)]


def _flattened(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Join the axes from `axis` on, which may be none, to one."""
    axis = axis % max(values.dim(), 1) if axis < 0 else axis
    before = values.shape[:axis]
    return values.reshape(*before, math.prod(values.shape[axis:]))


def convert_clip(operation: Operation) -> Conversion:
    """Convert `Clip`."""
    if operation.computed(1) or operation.computed(2) or operation.element(0) == TensorProto.UINT64:
        return Conversion(ComputedClip(operation.element(0)), (0, 1, 2))
    low, high = (_limit(operation, name, index) for name, index in (("min", 1), ("max", 2)))
    if high is None and low == 0:
        return Conversion(nn.ReLU())
    return Conversion(nn.Identity() if low is None and high is None else Clip(low, high))


def _limit(operation: Operation, name: str, index: int) -> float | None:
    """Return a constant limit as a number of the values' own kind."""
    value = operation.attributes.get(name)
    if value is None:
        value = operation.constant(index)
    if value is None:
        return None
    number = np.asarray(value).reshape(-1)[0]
    if operation.element(0) in FLOATING or np.asarray(value).dtype.kind not in "iu":
        # Before opset 11 a missing limit was written as the largest float.
        unlimited = abs(float(number)) >= np.finfo(np.float32).max or math.isinf(number)
        return None if unlimited else float(number)
    return int(number)


def convert_softmax(operation: Operation) -> Conversion:
    """Convert `Softmax` and `LogSoftmax`."""
    logarithm = operation.operator == "LogSoftmax"
    if operation.version < 13:
        return Conversion(FlatSoftmax(int(operation.attributes.get("axis", 1)), logarithm))
    axis = int(operation.attributes.get("axis", -1))
    return Conversion(nn.LogSoftmax(axis) if logarithm else nn.Softmax(axis))


def convert_hardmax(operation: Operation) -> Conversion:
    """Convert `Hardmax`."""
    return Conversion(Hardmax(int(operation.attributes.get("axis", -1))))


def convert_gelu(operation: Operation) -> Conversion:
    """Convert `Gelu`."""
    return Conversion(nn.GELU(approximate=operation.attributes.get("approximate", "none")))


def convert_selu(operation: Operation) -> Conversion:
    """Convert `Selu`, whose default constants had fewer digits before opset 6."""
    early = operation.version < 6
    alpha = float(operation.attributes.get("alpha", 1.6732 if early else 1.67326319217681884765625))
    scale = float(operation.attributes.get("gamma", 1.0507 if early else 1.05070102214813232421875))
    return Conversion(Selu(alpha, scale))


def convert_hard_sigmoid(operation: Operation) -> Conversion:
    """Convert `HardSigmoid`."""
    alpha, beta = (float(operation.attributes.get(name, value)) for name, value in (("alpha", 0.2), ("beta", 0.5)))
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        return Conversion(nn.Hardsigmoid())
    return Conversion(HardSigmoid(alpha, beta))


def convert_swish(operation: Operation) -> Conversion:
    """Convert `Swish`."""
    alpha = float(operation.attributes.get("alpha", 1.0))
    return Conversion(nn.SiLU() if alpha == 1 else Swish(alpha))


def convert_swish_gate(operation: Operation) -> Conversion:
    """Convert `SwiGLU`."""
    return Conversion(SwishGate(float(operation.attributes.get("alpha", 1.0))), (0, 1))


def convert_shrink(operation: Operation) -> Conversion:
    """Convert `Shrink`."""
    get = operation.attributes.get
    return Conversion(Shrink(float(get("lambd", 0.5)), float(get("bias", 0.0))))


def convert_sloped_relu(operation: Operation) -> Conversion:
    """Convert `PRelu`."""
    slope, rank = operation.known(1), operation.rank(0)
    early = operation.version < 7
    if slope is not None and slope.dtype == np.float32 and rank is not None and rank > 1:
        channelwise = slope.ndim == (1 if early else rank - 1) and slope.shape[0] == slope.size
        full = slope.ndim == rank and slope.shape[1] == slope.size
        if (slope.size == 1 and slope.ndim <= rank) or channelwise or full:
            return Conversion(ChannelRelu(slope))
    return Conversion(SlopedRelu(early), (0, 1))


def convert_dropout(operation: Operation) -> Conversion:
    """Convert `Dropout` as it is after training."""
    if operation.has(2) and not operation.computed(2):
        training, ratio = operation.constants[2], operation.known(1)
        assert training is not None
        if np.any(training) and (ratio is None or np.any(ratio)):
            raise NotConvertible("Dropout in training mode draws random numbers")
    inputs = (0, 1, 2) if operation.computed(2) else (0,)
    return Conversion(Dropout(operation.outputs), inputs)


def _with(make: Callable[..., nn.Module], name: str, default: float) -> Converter:
    """Convert by a module of PyTorch's that takes one number."""

    def convert(operation: Operation) -> Conversion:
        return Conversion(make(float(operation.attributes.get(name, default))))

    return convert


def _plain(make: Callable[[], nn.Module]) -> Converter:
    """Convert by a module of PyTorch's that takes nothing."""

    def convert(_operation: Operation) -> Conversion:
        return Conversion(make())

    return convert


CONVERTERS: Mapping[str, Converter] = {
    "Celu": _with(nn.CELU, "alpha", 1.0),
    "Clip": convert_clip,
    "Dropout": convert_dropout,
    "Elu": _with(nn.ELU, "alpha", 1.0),
    "Gelu": convert_gelu,
    "HardSigmoid": convert_hard_sigmoid,
    "HardSwish": _plain(nn.Hardswish),
    "Hardmax": convert_hardmax,
    "LeakyRelu": _with(nn.LeakyReLU, "alpha", 0.01),
    "LogSoftmax": convert_softmax,
    "Mish": _plain(nn.Mish),
    "PRelu": convert_sloped_relu,
    "Relu": _plain(nn.ReLU),
    "Selu": convert_selu,
    "Shrink": convert_shrink,
    "Sigmoid": _plain(nn.Sigmoid),
    "Softmax": convert_softmax,
    "Softplus": _plain(nn.Softplus),
    "Softsign": _plain(nn.Softsign),
    "SwiGLU": convert_swish_gate,
    "Swish": convert_swish,
    "Tanh": _plain(nn.Tanh),
    "ThresholdedRelu": _with(lambda alpha: nn.Threshold(alpha, 0.0), "alpha", 1.0),
}
