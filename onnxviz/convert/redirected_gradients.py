"""Gradients for units that are silent: where a ReLU would stop all of them, some pass.

A unit behind a ReLU that is 0 for the whole start image has no gradient to follow. Redirected, its gradient reaches the
image as if the ReLU were not there, but only where following it brings values back to where the ReLU passes them.

Source: lucid, `misc/redirected_relu_grad.py:90-145`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_Limits = tuple[Any, Any]


def _hardtanh_limits(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Limits:  # noqa: ARG001
    return min_val, max_val


def _clamp_limits(min: Any = None, max: Any = None) -> _Limits:  # noqa: A002 - PyTorch's names
    return min, max


_READERS: Mapping[Any, Callable[..., _Limits]] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.Tensor.relu), lambda *_, **__: (0, None)),
    functional.relu6: lambda *_, **__: (0, 6),
    functional.hardtanh: _hardtanh_limits,
    torch.clamp: _clamp_limits,
    torch.Tensor.clamp: _clamp_limits,
}
"""PyTorch's functions that clip -> what reads the limits from their arguments behind the first."""


class Redirected(Protocol):
    """A function from images to tensors, with redirected gradients for some of the images."""

    def __call__(self, images: torch.Tensor, only: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Compute tensors of images [N, 3, height, width]; only, [N] booleans, says for which gradients are redirected.

        All are if it is None; the others have the usual gradients, bit for bit.
        """


def redirected(forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> Redirected:
    """Return a function that computes the same and redirects gradients.

    It is for losses that are minimised: a negative gradient pushes a value up. For each image and each place in the
    network where values are clipped (ReLU, ReLU6, Clip, the range of quantised numbers), if the usual gradient behind
    it is 0 everywhere, values below the lower limit pass negative gradients, values above the upper limit positive
    ones, and values in between all. Images never influence each other, and nothing waits for the device.

    Left as they are: limits that the network computes, and tensors whose first axis is not the images.

    Args:
        forward: images [N, 3, height, width] to tensors.
    """

    def run(images: torch.Tensor, only: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        with _Redirection(images.shape[0], only):
            return forward(images)

    return run


class _Redirection(TorchFunctionMode):
    """While it is entered, clipping has redirected gradients, however deep in the network it lies.

    Args:
        images: how many images are computed together.
        only: for which of them gradients are redirected; all if None.
    """

    def __init__(self, images: int, only: torch.Tensor | None = None) -> None:
        super().__init__()
        self.images, self.only = images, only

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch's, or what clips as it does."""
        kwargs = kwargs or {}
        reader = _READERS.get(function)
        if reader is not None and args and self._has_gradients(args[0]):
            low, high = reader(*args[1:], **kwargs)
            if all(limit is None or isinstance(limit, int | float) for limit in (low, high)):
                low = -math.inf if low is None else low
                high = math.inf if high is None else high
                # `clamp` passes gradients to a value that lies on a limit; the others do not.
                closed = reader is _clamp_limits
                return _Clip.apply(args[0], low, high, closed, self.only)  # type: ignore[no-untyped-call]
        return function(*args, **kwargs)

    def _has_gradients(self, values: Any) -> bool:
        return (
            isinstance(values, torch.Tensor)
            and values.requires_grad
            and torch.is_grad_enabled()
            and values.dim() > 1
            and values.numel() > 0
            and values.shape[0] == self.images
        )


class _Clip(torch.autograd.Function):
    """Clipping to constant limits; `closed` if a value on a limit passes gradients."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, low: float, high: float, closed: bool, only: torch.Tensor | None
    ) -> torch.Tensor:
        """Clip."""
        result = functional.relu(values) if (low, high) == (0, math.inf) else values.clamp(low, high)
        ctx.limits, ctx.closed, ctx.only = (low, high), closed, only
        # Where values on a limit get no gradient either, the result tells enough, and the next layer keeps it anyway.
        ctx.save_for_backward(values if closed else result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        """Redirect the gradients of the images to which none would pass."""
        (values,), (low, high), closed = ctx.saved_tensors, ctx.limits, ctx.closed
        if closed:
            usual = gradient.masked_fill((values < low) | (values > high), 0.0)
        elif high == math.inf:
            usual = torch.ops.aten.threshold_backward(gradient, values, low)
        else:
            usual = torch.ops.aten.hardtanh_backward(gradient, values, low, high)
        dead = usual.abs().amax(dim=tuple(range(1, usual.dim())), keepdim=True) == 0
        if ctx.only is not None:
            dead = dead & ctx.only.view(-1, *[1] * (usual.dim() - 1))
        if dead.device.type == "cpu" and not bool(dead.any()):
            return usual, None, None, None, None  # there nobody waits for a look, and selecting takes longest
        # Between the limits a dead image has no gradient to begin with.
        result = torch.where(dead & (values < low if closed else values <= low), gradient.clamp(max=0.0), usual)
        if high != math.inf:
            result = torch.where(dead & (values > high if closed else values >= high), gradient.clamp(min=0.0), result)
        return result, None, None, None, None
