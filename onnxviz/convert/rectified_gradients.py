"""Rules for gradients at ReLUs, as guided backpropagation and deconvnet have them, without a change to the network.

With y = ReLU(x) and g the gradient by y, what reaches x is

    gradient                  g where x > 0
    guided backpropagation    g where x > 0 and g > 0
    deconvnet                 g where g > 0

Sources: Springenberg et al. 2014, "Striving for simplicity", arXiv:1412.6806, section 3.4 and figure 1; Zeiler and
Fergus 2013, "Visualizing and understanding convolutional networks", arXiv:1311.2901, section 2.1. A ReLU with an upper
limit is silent above it too: guided backpropagation stops there as gradients do, deconvnet does not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_Limits = tuple[Any, Any]


def _hardtanh(_: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Limits:  # noqa: ARG001
    return min_val, max_val


def _clamp(_: Any, min: Any = None, max: Any = None) -> _Limits:  # noqa: A002 - PyTorch's names
    return min, max


def _threshold(_: Any, threshold: float, value: float, inplace: bool = False) -> _Limits:  # noqa: ARG001
    return (0, None) if threshold == value == 0 else (threshold, None)


def _maximum(first: Any, second: Any) -> _Limits:
    """Read the limit of a maximum with a constant number, which is how some write a ReLU."""
    for constant, other in ((first, second), (second, first)):
        if constant.numel() == 1 and constant.dim() <= other.dim() and not constant.requires_grad:
            return float(constant), None
    return None, None


_CLIPPING: Mapping[Any, Callable[..., _Limits]] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.Tensor.relu), lambda *_, **__: (0, None)),
    functional.relu6: lambda *_, **__: (0, 6),
    functional.hardtanh: _hardtanh,
    functional.threshold: _threshold,
    **dict.fromkeys((torch.clamp, torch.Tensor.clamp, torch.clip, torch.Tensor.clip), _clamp),
    **dict.fromkeys((torch.clamp_min, torch.Tensor.clamp_min), lambda _, min: (min, None)),  # noqa: A006
    **dict.fromkeys((torch.maximum, torch.Tensor.maximum), _maximum),
}
"""PyTorch's functions that clip -> what reads the limits from their arguments."""
_OTHERS: Mapping[Any, str] = {
    functional.leaky_relu: "leaky ReLU",
    **dict.fromkeys((functional.prelu, torch.prelu), "PReLU"),
    functional.elu: "ELU",
    functional.celu: "CELU",
    functional.selu: "SELU",
    functional.gelu: "GELU",
    functional.silu: "SiLU",
    functional.mish: "Mish",
    functional.hardswish: "hard swish",
    functional.hardsigmoid: "hard sigmoid",
    functional.softplus: "softplus",
    functional.softsign: "softsign",
    **dict.fromkeys((torch.sigmoid, torch.Tensor.sigmoid, functional.sigmoid), "sigmoid"),
    **dict.fromkeys((torch.tanh, torch.Tensor.tanh, functional.tanh), "tanh"),
}
"""PyTorch's functions of each element that are no ReLU, and what they are called."""


class RectifiedGradients(TorchFunctionMode):
    """While it is entered around one forward pass, what ReLUs do to gradients follows a rule; the network stays as is.

    A ReLU is whatever keeps values above exactly 0: the function, its form with an upper limit (ReLU6, Clip from 0), a
    maximum with the number 0. Clipping to both sides of PyTorch's `clamp` is none: the converted network has it for the
    ranges of quantised numbers. Other activations keep their gradients.

    Args:
        masked: whether gradients stop where the ReLU did (guided backpropagation) or not (deconvnet).

    Attributes:
        changed: names of the functions whose gradients follow the rule -> how often they were called.
        left: the same of other activations, which have their usual gradients.
    """

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.changed: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch's, or what computes the same and has a gradient of its own."""
        kwargs = kwargs or {}
        values = _taped(args)
        if values is not None and function in _OTHERS:
            self.left[_OTHERS[function]] += 1
        elif values is not None and function in _CLIPPING:
            low, high = _CLIPPING[function](*args, **kwargs)
            if _is_rectifier(function, low, high):
                self.changed["ReLU" if high is None else f"clipping to 0..{high:g}"] += 1
                return _Rectifier.apply(values, math.inf if high is None else high, self.masked)  # type: ignore[no-untyped-call]
            if low is not None and high is not None:
                self.left["clipping to a range"] += 1
        return function(*args, **kwargs)


def _taped(args: tuple[Any, ...]) -> torch.Tensor | None:
    """Return the first operand whose gradient is recorded, if there is one."""
    if not torch.is_grad_enabled():
        return None
    return next((value for value in args[:2] if isinstance(value, torch.Tensor) and value.requires_grad), None)


def _is_rectifier(function: Any, low: Any, high: Any) -> bool:
    if not isinstance(low, int | float) or low != 0:
        return False
    return high is None or (_CLIPPING[function] is not _clamp and isinstance(high, int | float) and high > 0)


class _Rectifier(torch.autograd.Function):
    """ReLU, up to a limit, whose gradients follow a rule."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, high: float, masked: bool) -> torch.Tensor:
        """Clip."""
        result = functional.relu(values) if high == math.inf else functional.hardtanh(values, 0.0, high)
        ctx.high, ctx.masked = high, masked
        if masked:
            ctx.save_for_backward(result)  # the next layer keeps it anyway
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Let positive gradients pass, where asked only those of values that passed."""
        positive = functional.relu(gradient)
        if not ctx.masked:
            return positive, None, None
        (result,) = ctx.saved_tensors
        if ctx.high == math.inf:
            return torch.ops.aten.threshold_backward(positive, result, 0.0), None, None
        return torch.ops.aten.hardtanh_backward(positive, result, 0.0, ctx.high), None, None
