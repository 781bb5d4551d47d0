"""Gaussian blur of images, as scipy does it; each image may have its own width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from onnxviz.core.lazy_torch import torch

DEVIATIONS = 4.0
"""Kernels end at so many standard deviations: 0.006 % lies beyond."""

_Weights = Sequence[Any]
"""A kernel's middle and what follows on each side of it: numbers for all images, or [N, 1, 1, 1] for each its own."""


def gaussian_blur(images: torch.Tensor, sigma: float | torch.Tensor, reach: int | None = None) -> torch.Tensor:
    """Blur images; nothing waits for the device, and the same images give the same bits.

    Sums of shifted images: a tenth of the time of a convolution with one channel on a CPU, and its float32 is never
    rounded to fewer bits on a GPU.

    Args:
        images: [N, channels, h, w].
        sigma: standard deviation in pixels, or [N], each image's own; of these 0 leaves an image as it is.
        reach: how far the kernel reaches in pixels, in both directions; 4 sigma if None. It must be given for tensors,
            whose values nothing waits for, and the cost is in proportion to it.

    Returns:
        The same shape. As `scipy.ndimage.gaussian_filter` with its defaults: beyond the border the image is mirrored,
        its last row and column included.
    """
    if reach is None:
        if not isinstance(sigma, float | int):
            raise TypeError("a kernel of unknown width has no reach of its own: give `reach`")
        reach = int(DEVIATIONS * sigma + 0.5)
    weights = _weights(sigma, reach) if isinstance(sigma, float | int) else _own_weights(sigma, reach, images)
    blurred: torch.Tensor = _blur().apply(images, weights)
    return blurred


def _weights(sigma: float, reach: int) -> _Weights:
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(reach + 1)]
    whole = weights[0] + 2.0 * sum(weights[1:])
    return [weight / whole for weight in weights]


def _own_weights(sigma: torch.Tensor, reach: int, images: torch.Tensor) -> _Weights:
    # At a deviation of 0.001 neighbours already weigh nothing.
    precisions = -0.5 / sigma.to(images.dtype).clamp_min(1e-3).square()
    squares = torch.arange(reach + 1, dtype=images.dtype, device=images.device).square()
    weights = (precisions[:, None] * squares).exp()
    weights = weights / (2.0 * weights.sum(dim=1, keepdim=True) - weights[:, :1])
    return weights[:, :, None, None, None].unbind(dim=1)


@cache
def _blur() -> Any:
    """Return the blur as a function of PyTorch's, which is loaded when it is first used."""

    class Blur(torch.autograd.Function):
        """With mirrored borders the blur is a symmetric matrix: its gradient is the blurred gradient."""

        @staticmethod
        def forward(ctx: Any, images: torch.Tensor, weights: _Weights) -> torch.Tensor:
            ctx.weights = weights
            return _along(_along(images, weights, 2), weights, 3)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            return _blur().apply(gradient, ctx.weights), None

    return Blur


def _along(images: torch.Tensor, weights: _Weights, axis: int) -> torch.Tensor:
    reach, length = len(weights) - 1, images.shape[axis]
    wide = _mirrored(images, reach, axis)
    blurred: torch.Tensor = images * weights[0]
    for offset, weight in enumerate(weights[1:], start=1):
        pair = wide.narrow(axis, reach - offset, length) + wide.narrow(axis, reach + offset, length)
        if isinstance(weight, torch.Tensor):
            blurred.addcmul_(pair, weight)
        else:
            blurred.add_(pair, alpha=weight)
    return blurred


def _mirrored(images: torch.Tensor, margin: int, axis: int) -> torch.Tensor:
    """Add a mirrored margin at both ends of an axis; margins wider than the image are mirrored again."""
    while margin:
        length = images.shape[axis]
        width = min(margin, length)
        first = images.narrow(axis, 0, width).flip(axis)
        last = images.narrow(axis, length - width, width).flip(axis)
        images = torch.cat((first, images, last), dim=axis)
        margin -= width
    return images
