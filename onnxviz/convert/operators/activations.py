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
from onnxviz.convert.operators.operation import Conversion, Converter, Function, NotConvertible, Operation, by_function
from onnxviz.core.errors import ModelError


def clip(values: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    """Keep values between two constants; either may be missing."""
    if low is not None and high is not None and low < high and values.is_floating_point():
        # The kernel of ReLU6: one for the gradient too, where clamp takes four.
        return functional.hardtanh(values, low, high)
    return values.clamp(low, high)


def clip_to_computed(
    values: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None, *, element: int
) -> torch.Tensor:
    """Keep values between computed limits; where the lower one exceeds the upper one, the upper one wins."""
    result = sortable(values, element)
    if low is not None:
        result = torch.maximum(result, sortable(low, element))
    if high is not None:
        result = torch.minimum(result, sortable(high, element))
    return sortable(result, element)


def flat_softmax(values: torch.Tensor, axis: int, logarithm: bool) -> torch.Tensor:
    """Softmax as before opset 13, over all axes from `axis` on, together; QLinearSoftmax still has it."""
    axis = axis % max(values.dim(), 1) if axis < 0 else axis
    flat = values.reshape(*values.shape[:axis], math.prod(values.shape[axis:]))
    result = functional.log_softmax(flat, -1) if logarithm else functional.softmax(flat, -1)
    return result.reshape(values.shape)


def hardmax(values: torch.Tensor, axis: int) -> torch.Tensor:
    """1 at the first largest element of an axis, 0 elsewhere."""
    return torch.zeros_like(values).scatter(axis, values.argmax(axis, keepdim=True), 1.0)


def selu(values: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Scaled exponential linear unit: gamma * elu(x, alpha) (Klambauer et al., 2017)."""
    return gamma * functional.elu(values, alpha)


def hard_sigmoid(values: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Line of slope `alpha` through `beta`, clipped to 0..1."""
    return (values * alpha + beta).clamp(0.0, 1.0)


def shrink(values: torch.Tensor, lambd: float, bias: float) -> torch.Tensor:
    """Zero around zero, and towards zero by `bias` outside."""
    zero = torch.zeros_like(values)
    below = torch.where(values < -lambd, values + bias, zero)
    return torch.where(values > lambd, values - bias, below).to(values.dtype)


def swish(values: torch.Tensor, alpha: float) -> torch.Tensor:
    """Compute x * sigmoid(alpha * x) (Ramachandran et al., 2017)."""
    return functional.silu(values) if alpha == 1 else values * torch.sigmoid(alpha * values)


def gated_swish(gate: torch.Tensor, values: torch.Tensor, alpha: float) -> torch.Tensor:
    """A gate's swish times a value (Shazeer, "GLU Variants Improve Transformer", 2020)."""
    return swish(gate, alpha) * values


def sloped_relu(values: torch.Tensor, slope: torch.Tensor, channelwise: bool) -> torch.Tensor:
    """Negative values times a slope, of axis 1 if `channelwise` (before opset 7), else broadcast as in NumPy."""
    if channelwise and slope.numel() > 1:
        slope = slope.reshape(-1, *(1,) * (values.dim() - 2))
    return torch.where(values < 0, values * slope, values)


class Dropout(nn.Module):
    """Dropout as it is after training: the input, and a mask of what was kept, which is all.

    Args:
        masked: whether the mask has a name.
    """

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked

    def forward(
        self, values: torch.Tensor, ratio: torch.Tensor | None = None, training: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, ...]:
        if training is not None and bool(training) and (ratio is None or float(ratio) != 0):
            raise ModelError(
                "Dropout in training mode draws random numbers", remedy="give the model `training_mode` false"
            )
        return values, torch.ones_like(values, dtype=torch.bool) if self.masked else None


def convert_clip(operation: Operation) -> Conversion:
    if operation.computed(1) or operation.computed(2) or operation.element(0) == TensorProto.UINT64:
        return Conversion(Function(clip_to_computed, element=operation.element(0)), (0, 1, 2))
    low, high = (_limit(operation, name, index) for name, index in (("min", 1), ("max", 2)))
    if high is None and low == 0:
        return Conversion(nn.ReLU())
    return Conversion(nn.Identity() if low is None and high is None else Function(clip, low=low, high=high))


def _limit(operation: Operation, name: str, index: int) -> float | None:
    """Return a constant limit as a number of the values' own kind."""
    value = operation.attributes.get(name, operation.constant(index))
    if value is None:
        return None
    number = np.asarray(value).reshape(-1)[0]
    if operation.element(0) in FLOATING or number.dtype.kind not in "iu":
        # Before opset 11 a missing limit was written as the largest float.
        unlimited = abs(float(number)) >= np.finfo(np.float32).max or math.isinf(number)
        return None if unlimited else float(number)
    return int(number)


def convert_softmax(operation: Operation) -> Conversion:
    logarithm = operation.operator == "LogSoftmax"
    if operation.version < 13:
        return Conversion(Function(flat_softmax, axis=operation.setting("axis", 1), logarithm=logarithm))
    axis = operation.setting("axis", -1)
    return Conversion(nn.LogSoftmax(axis) if logarithm else nn.Softmax(axis))


def convert_hard_sigmoid(operation: Operation) -> Conversion:
    """Convert `HardSigmoid`, which PyTorch has for a slope of a sixth."""
    alpha, beta = operation.setting("alpha", 0.2), operation.setting("beta", 0.5)
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        return Conversion(nn.Hardsigmoid())
    return Conversion(Function(hard_sigmoid, alpha=alpha, beta=beta))


def convert_sloped_relu(operation: Operation) -> Conversion:
    slope, rank = operation.known(1), operation.rank(0)
    early = operation.version < 7
    if slope is not None and slope.dtype == np.float32 and rank is not None and rank > 1 and not early:
        channelwise = slope.ndim == rank - 1 and slope.shape[0] == slope.size
        full = slope.ndim == rank and slope.shape[1] == slope.size
        if (slope.size == 1 and slope.ndim <= rank) or channelwise or full:
            # One slope for each channel, or one for all.
            return Conversion(Function(functional.prelu, weight=torch.from_numpy(np.array(slope.reshape(-1)))))
    return Conversion(Function(sloped_relu, channelwise=early), (0, 1))


def convert_dropout(operation: Operation) -> Conversion:
    """Convert `Dropout` as it is after training."""
    if operation.has(2) and not operation.computed(2):
        training, ratio = operation.constants[2], operation.known(1)
        assert training is not None
        if np.any(training) and (ratio is None or np.any(ratio)):
            raise NotConvertible("Dropout in training mode draws random numbers")
    inputs = (0, 1, 2) if operation.computed(2) else (0,)
    return Conversion(Dropout(operation.wants(1)), inputs, several=True)


def by_module(make: Callable[..., nn.Module], **attributes: float) -> Converter:
    """Return a converter to a module of PyTorch's that takes what attributes say, in this order."""

    def convert(operation: Operation) -> Conversion:
        return Conversion(make(*(operation.setting(name, default) for name, default in attributes.items())))

    return convert


CONVERTERS: Mapping[str, Converter] = {
    "Celu": by_module(nn.CELU, alpha=1.0),
    "Clip": convert_clip,
    "Dropout": convert_dropout,
    "Elu": by_module(nn.ELU, alpha=1.0),
    "Gelu": by_function(functional.gelu, approximate=("none", "tanh")),
    "HardSigmoid": convert_hard_sigmoid,
    "HardSwish": by_module(nn.Hardswish),
    "Hardmax": by_function(hardmax, axis=-1),
    "LeakyRelu": by_module(nn.LeakyReLU, alpha=0.01),
    "LogSoftmax": convert_softmax,
    "Mish": by_module(nn.Mish),
    "PRelu": convert_sloped_relu,
    "Relu": by_module(nn.ReLU),
    "Selu": by_function(selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": by_function(shrink, lambd=0.5, bias=0.0),
    "Sigmoid": by_module(nn.Sigmoid),
    "Softmax": convert_softmax,
    "Softplus": by_module(nn.Softplus),
    "Softsign": by_module(nn.Softsign),
    "SwiGLU": by_function(gated_swish, 2, alpha=1.0),
    "Swish": by_function(swish, alpha=1.0),
    "Tanh": by_module(nn.Tanh),
    "ThresholdedRelu": by_module(lambda alpha: nn.Threshold(alpha, 0.0), alpha=1.0),
}
